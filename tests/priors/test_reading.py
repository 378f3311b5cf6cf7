"""Prompts that the embedded prior accepts, and exact messages for those that it refuses."""

from __future__ import annotations

import pytest

from dreamfusion.config.layers import Layer
from dreamfusion.priors import resolve_prior
from dreamfusion.priors.reading import (
    PromptError,
    Words,
    read_prompt,
    require_known,
    singulars,
    split_words,
)
from dreamfusion.runs.plan import plan_run

EMBEDDED = resolve_prior("embedded").card.vocabulary

END = (
    "`dreamfusion vocabulary` lists all words. For other words, use Stable Diffusion: --prior "
    "stable-diffusion-v1-5/stable-diffusion-v1-5"
)
RULE = (
    "A prompt takes one noun, at most one colour and adjectives, for example 'a red mug'. This "
    "prior makes animals, food, furniture, vehicles, household objects, buildings, figures, plants "
    f"and shapes. {END}"
)


@pytest.mark.parametrize(
    ("prompt", "meaning"),
    [
        ("a corgi", "corgi"),
        ("A photo of a crimson Puppy!", "red corgi"),
        ("mug, red, tall", "mug red tall"),
        ("a tall thin mug", "tall thin mug"),
        # Plurals, joined and separate words.
        ("dogs", "corgi"),
        ("puppies", "corgi"),
        ("boxes", "cube"),
        ("snowmen", "snowman"),
        ("cacti", "cactus"),
        ("hot air balloons", "hot air balloon"),
        ("icecream", "ice cream"),
        ("an ice-cream", "ice cream"),
        ("a hotair balloon", "hot air balloon"),
        ("a blue tea pot", "blue teapot"),
        # More synonyms.
        ("a tree", "pine tree"),
        ("a dark blue mug", "blue mug"),
        ("a lightblue mug", "blue mug"),
        ("a sky-blue mug", "blue mug"),
        # Repetitions.
        ("a crimson red mug", "red mug"),
        ("a navy blue mug", "blue mug"),
        ("a tiny little mug", "tiny mug"),
        ("a puppy dog", "corgi"),
        # Words that are known separately are not joined.
        ("a gold fish", "yellow fish"),
        # Signs, invisible characters, full-width letters.
        ("🐶 a corgi™ ♥️ (№ …)!", "corgi"),
        ("a\u00a0red_mug\u2028", "red mug"),
        ("\ufeffa cor\u00adgi", "corgi"),
        ("ａ ｃｏｒｇｉ", "corgi"),
    ],
)
def test_prompts_are_translated_to_trained_words(prompt, meaning):
    assert EMBEDDED.canonical(prompt) == meaning


def refusal(prompt):
    with pytest.raises(PromptError) as error:
        EMBEDDED.canonical(prompt)
    return str(error.value)


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("a corgi with a hat", "The prompt names more than one object: 'corgi' and 'hat'"),
        (
            "an owl, a cat and a mug",
            "The prompt names more than one object: 'owl', 'cat' and 'mug'",
        ),
        ("an orange", "The prompt names no object, only 'orange'"),
        ("tall, red", "The prompt names no object, only 'tall' and 'red'"),
        ("a photo", "The prompt names no object"),
        ("!!", "The prompt names no object"),
        ("🐶", "The prompt names no object"),
        ("a black and white cat", "The prompt names more than one colour: 'black' and 'white'"),
        ("a short tall red mug", "'tall' and 'short' contradict each other: keep one of them"),
        ("a thin, wide mug", "'wide' and 'thin' contradict each other: keep one of them"),
        ("a big little mug", "'big' and 'little' contradict each other: keep one of them"),
        ("a dragon", "This prior does not know 'dragon' (closest: dinosaur)"),
        ("a horse", "This prior does not know 'horse' (closest: corgi, pig, elephant)"),
        ("wolves", "This prior does not know 'wolves' (closest: corgi)"),
        ("a corgy", "This prior does not know 'corgy' (closest: corgi)"),
        ("an elefant", "This prior does not know 'elefant' (closest: elephant)"),
        ("un chien rouge", "This prior does not know 'un', 'chien' and 'rouge'"),
        ("赤いマグカップ", "This prior does not know '赤いマグカップ'"),
        ("красный mug", "This prior does not know 'красный'"),
        ("a dark mug, glazed", "This prior does not know 'dark' (closest: black) and 'glazed'"),
    ],
)
def test_other_prompts_are_refused(prompt, problem):
    assert refusal(prompt) == f"{problem}. {RULE}"


@pytest.mark.parametrize("word", ["dug", "boot", "lake", "coat", "house of gold and a blorp"])
def test_words_with_only_similar_spelling_are_not_suggested(word):
    said = refusal(word)
    for other in ("mug", "boat", "cake", "star"):
        assert f"closest: {other}" not in said


def test_long_words_and_long_lists_are_truncated():
    assert refusal("x" * 1000).startswith(f"This prior does not know '{'x' * 39}…'. ")
    assert "'v', 'w' and 3 more words. " in refusal("q r t u v w x y z")


@pytest.mark.parametrize("prompt", ["a corgi \udcff", "\ud800", "\udcc3\udc28 mug"])
def test_a_prompt_with_invalid_unicode_is_refused(prompt):
    said = "The prompt is not valid UTF-8 text. Type it again in a terminal that uses UTF-8."
    assert refusal(prompt) == said


def test_an_empty_prompt_is_refused():
    said = 'The prompt is empty. Name one object, for example "a red mug".'
    assert refusal(" \n") == said


def test_a_negative_prompt_needs_known_words_but_no_noun():
    def plan(negative):
        layer = Layer("test", {"prompt": "a mug", "prior": {"negative_prompt": negative}})
        return plan_run([Layer("prior", {"prior": {"name": "embedded"}}), layer])

    for negative in ("orange", "red, blue", "corgi, hat"):
        assert plan(negative).canonical_prompt == "mug"
    with pytest.raises(PromptError) as error:
        plan("a dragon")
    assert str(error.value) == (
        f"prior.negative_prompt: This prior does not know 'dragon' (closest: dinosaur). {RULE}"
    )


def test_a_word_list_without_nouns_accepts_any_known_words():
    words = Words.from_mapping({"words": {"a": "", "red": "red", "mug": "mug", "corgi": "corgi"}})
    assert read_prompt(words, "red mug, corgi, red") == "red mug corgi red"
    require_known(words, "red")
    for prompt, said in {
        "a dug": f"This prior does not know 'dug'. It knows red, mug, corgi. {END}",
        "a": f"The prompt names no object. It knows red, mug, corgi. {END}",
    }.items():
        with pytest.raises(PromptError) as error:
            read_prompt(words, prompt)
        assert str(error.value) == said


def test_nouns_without_groups_are_listed():
    nouns = ["mug", "corgi", "nowhere in the words"]
    content = {"words": {"a": "", "red": "red", "mug": "mug", "corgi": "corgi"}, "nouns": nouns}
    with pytest.raises(PromptError) as error:
        read_prompt(Words.from_mapping(content), "a dragon")
    assert "This prior makes mug, corgi. `" in str(error.value)


def test_words_of_any_script():
    assert split_words("A RED ice-cream, the dog’s™ x №1 🐶!") == [
        "a", "red", "ice", "cream", "the", "dog's", "x", "1",
    ]  # fmt: skip
    assert split_words("e\u0301le\u0301phant") == ["éléphant"]
    assert split_words("\ufe0f\u0301 '' \u200d") == []


def test_plurals():
    assert "box" in singulars("boxes") and "wolf" in singulars("wolves")
    assert singulars("bus") == []
