"""Prompts that the embedded prior accepts, and exact messages for those that it refuses."""

from __future__ import annotations

import pytest

from dreamfusion.config.layers import Layer
from dreamfusion.priors import resolve_prior
from dreamfusion.priors.reading import PromptError, read_prompt, require_known
from dreamfusion.priors.words import Words, singulars, split_words, typing_errors
from dreamfusion.runs.plan import plan_run

EMBEDDED = resolve_prior("embedded").card.vocabulary

STABLE_DIFFUSION = "use Stable Diffusion: --prior stable-diffusion-v1-5/stable-diffusion-v1-5"
END = f"`dreamfusion vocabulary` lists all words. For other words, {STABLE_DIFFUSION}"
GROUPS = (
    "animals, food, furniture, vehicles, household objects, buildings, figures, plants and shapes"
)
OBJECTS = (
    "animals (corgi, cat, rabbit, …), food (apple, banana, carrot, …), furniture (chair, sofa, "
    "table, …), vehicles (car, bus, train, …), household objects (mug, teapot, bottle, …), "
    "buildings (house, castle), figures (snowman, robot), plants (cactus, pine tree) and shapes "
    "(star, ball, cube, …)"
)
RULE = (
    "A prompt takes one noun, at most one colour (red, orange, yellow, green, blue, purple, pink, "
    "brown, black, white, gray, turquoise) and adjectives (tall, flat, wide, thin, tiny)"
)
ENGLISH = 'It understands English only, for example "a red mug"'


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
    ("prompt", "named", "example"),
    [
        ("a corgi with a hat", "'corgi' and 'hat'", "a corgi"),
        ("a puppy and a dog", "'puppy' and 'dog'", "a corgi"),
        ("a carrot cake", "'carrot' and 'cake'", "a cake"),
        ("an owl, a cat and a mug", "'owl', 'cat' and 'mug'", "an owl"),
    ],
)
def test_several_objects_are_refused(prompt, named, example):
    assert refusal(prompt) == (
        f"The prompt names more than one object: {named}. This prior makes one object at a time "
        f'and cannot combine objects. Name one of them, for example "{example}". '
        f"For scenes, {STABLE_DIFFUSION}"
    )


def test_unknown_words_among_several_objects_are_reported():
    assert refusal("a corgi wearing a hat") == (
        "The prompt names more than one object: 'corgi' and 'hat'. This prior makes one object at "
        "a time and cannot combine objects. It also does not know 'wearing'. Name one of them, for "
        f'example "a corgi". For scenes, {STABLE_DIFFUSION}'
    )


@pytest.mark.parametrize(
    ("prompt", "reading", "example"),
    [
        (
            "an orange",
            "'orange' is read as the colour orange (closest objects: apple, pumpkin)",
            "an orange mug",
        ),
        ("a rose", "'rose' is read as the colour pink (closest objects: cactus)", "a pink mug"),
        ("dark blue", "'dark blue' is read as the colour blue", "a blue mug"),
        (
            "tall, red",
            "'red' is read as the colour red and 'tall' is read as the adjective tall",
            "a tall mug",
        ),
        ("a photo", "there is no noun in 'a photo'", "a mug"),
        ("!!", "there is no noun in '!!'", "a mug"),
        ("🐶", "there is no noun in '🐶'", "a mug"),
    ],
)
def test_a_prompt_without_a_noun_is_refused(prompt, reading, example):
    assert refusal(prompt) == (
        f'The prompt names no object: {reading}. Add a noun, for example "{example}". '
        f"This prior makes {OBJECTS}. {END}"
    )


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a dragon", "'dragon' (closest: dinosaur)"),
        ("a horse", "'horse' (closest: corgi, pig, elephant)"),
        ("wolves", "'wolves' (closest: corgi)"),
        ("a corgy", "'corgy' (closest: corgi)"),
        ("an elefant", "'elefant' (closest: elephant)"),
        ("a salmon dragon", "'salmon' (closest: fish, pink) and 'dragon' (closest: dinosaur)"),
    ],
)
def test_an_unknown_word_is_reported_with_the_closest_ones(prompt, named):
    assert refusal(prompt) == f"This prior does not know {named}. It makes {GROUPS}. {END}"


@pytest.mark.parametrize("word", ["dug", "boot", "lake", "coat", "house of gold and a blorp"])
def test_words_with_only_similar_spelling_are_not_suggested(word):
    said = refusal(word)
    for other in ("mug", "boat", "cake", "star"):
        assert f"closest: {other}" not in said


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("un chien rouge", "'un', 'chien' and 'rouge'"),
        ("赤いマグカップ", "'赤いマグカップ'"),
        ("eine Banane", "'eine' and 'banane' (closest: banana)"),
        ("कुत्ता", "'कुत्ता'"),
        ("un éléphant", "'un' and 'éléphant' (closest: elephant)"),
        ("a blorp", "'blorp'"),
    ],
)
def test_other_languages_get_an_english_example(prompt, named):
    said = f"This prior does not know {named}. {ENGLISH}. It makes {OBJECTS}. {END}"
    assert refusal(prompt) == said


def test_unknown_words_in_a_prompt_with_a_noun():
    assert refusal("красный mug") == (
        f"This prior does not know 'красный'. {ENGLISH}. {RULE}. {END}"
    )
    assert refusal("two dogs") == f"This prior does not know 'two'. {RULE}. {END}"
    assert refusal("a dark mug, glazed") == (
        f"This prior does not know 'dark' (closest: black) and 'glazed'. {RULE}. {END}"
    )


def test_long_words_and_long_lists_are_truncated():
    assert refusal("x" * 1000).startswith(f"This prior does not know '{'x' * 39}…'. ")
    assert "'v', 'w' and 3 more words. " in refusal("q r t u v w x y z")


def test_several_colours_are_refused():
    assert refusal("a black and white cat") == (
        "The prompt names more than one colour: 'black' and 'white'. This prior gives an object "
        'one colour. Keep one of them, for example "a black cat". '
        f"For several colours, {STABLE_DIFFUSION}"
    )


@pytest.mark.parametrize(
    ("prompt", "pair", "example"),
    [
        ("a short tall red mug", "'tall' and 'short'", "a tall mug"),
        ("a thin, wide mug", "'wide' and 'thin'", "a wide mug"),
        ("a big little mug", "'big' and 'little'", "a big mug"),
    ],
)
def test_contradictory_adjectives_are_refused(prompt, pair, example):
    said = f'{pair} contradict each other. Keep one of them, for example "{example}".'
    assert refusal(prompt) == said


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
        "prior.negative_prompt: This prior does not know 'dragon' (closest: dinosaur). "
        f"It makes {GROUPS}. {END}"
    )


def test_a_word_list_without_nouns_accepts_any_known_words():
    words = Words.from_mapping({"words": {"a": "", "red": "red", "mug": "mug", "corgi": "corgi"}})
    assert read_prompt(words, "red mug, corgi, red") == "red mug corgi red"
    require_known(words, "red")
    for prompt, said in {
        "a dug": f"This prior does not know 'dug'. It knows red, mug, corgi. {END}",
        "a": f"The prompt names no object: there is no noun in 'a'. Add a noun, for example "
        f'"red". This prior knows red, mug, corgi. {END}',
    }.items():
        with pytest.raises(PromptError) as error:
            read_prompt(words, prompt)
        assert str(error.value) == said


def test_nouns_without_groups_are_listed():
    nouns = ["mug", "corgi", "nowhere in the words"]
    content = {"words": {"a": "", "red": "red", "mug": "mug", "corgi": "corgi"}, "nouns": nouns}
    with pytest.raises(PromptError) as error:
        read_prompt(Words.from_mapping(content), "a dragon")
    said = f"This prior does not know 'dragon'. It makes mug, corgi. {END}"
    assert str(error.value) == said


def test_words_of_any_script():
    assert split_words("A RED ice-cream, the dog’s™ x² 🐶!") == [
        "a", "red", "ice", "cream", "the", "dog's", "x",
    ]  # fmt: skip
    assert split_words("कुत्ता") == ["कुत्ता"] and split_words("e\u0301le\u0301phant") == ["éléphant"]
    assert split_words("\ufe0f\u0301 '' \u200d") == []


def test_plurals_and_typing_errors():
    assert "box" in singulars("boxes") and "wolf" in singulars("wolves")
    assert singulars("bus") == []
    assert typing_errors("teapto", "teapot") == 1 and typing_errors("teapot", "teapot") == 0
    assert typing_errors("dinasour", "dinosaur") == 2
    for word, known in [("pear", "bear"), ("coat", "boat"), ("lake", "lamp"), ("dug", "dog")]:
        assert typing_errors(word, known) is None
