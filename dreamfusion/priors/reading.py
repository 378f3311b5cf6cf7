"""Parses prompts by a prior's word list, and rejects prompts that the prior cannot generate."""

from collections.abc import Iterable, Sequence

from dreamfusion.priors.words import Term, Words
from dreamfusion.utils.errors import UserError, one_line

ANOTHER_PRIOR = "--prior stable-diffusion-v1-5/stable-diffusion-v1-5"
_ALL_WORDS = "`dreamfusion vocabulary` lists all words"
_ANY_WORDS = f"For other words, use Stable Diffusion: {ANOTHER_PRIOR}"
_MOST_NAMED = 6  # unknown words in one message
_LONGEST_NAMED = 40  # characters of a word in a message


class PromptError(UserError):
    """A prompt that the prior cannot generate."""


def read_prompt(words: Words, prompt: str) -> str:
    """Translate `prompt` to trained words. Raises PromptError with a suggestion.

    If the word list has nouns, the prompt must name exactly one object and at most one colour.
    """
    terms = words.terms(prompt)
    if words.nouns:
        terms = _without_repetitions(words, terms)
    error = (
        _several_nouns(words, terms)
        or _unknown(words, terms)
        or _nothing(words, terms, prompt)
        or _several_colors(words, terms)
        or _contradiction(words, terms)
    )
    if error:
        raise error
    return " ".join(term.meaning for term in terms if term.meaning)


def require_known(words: Words, text: str) -> None:
    """Raise PromptError if a text contains a word unknown to the prior. Unlike a prompt, it may
    name any number of objects and colours; for example, a negative prompt."""
    if error := _unknown(words, words.terms(text)):
        raise error


def _without_repetitions(words: Words, terms: Sequence[Term]) -> list[Term]:
    """Remove repeated colours and adjectives ("crimson red"), and each noun that directly follows
    one of the same meaning ("puppy dog")."""
    kept: list[Term] = []
    for i, term in enumerate(terms):
        before: Sequence[Term] = ()
        if term.meaning in words.nouns:
            before = terms[max(i - 1, 0) : i]
        elif term.meaning in (*words.colors, *words.adjectives):
            before = terms[:i]
        if not any(other.meaning == term.meaning for other in before):
            kept.append(term)
    return kept


def _several_nouns(words: Words, terms: Sequence[Term]) -> PromptError | None:
    places = [i for i, term in enumerate(terms) if term.meaning in words.nouns]
    if len(places) < 2:
        return None
    # "a carrot cake" is a cake, "a corgi with a hat" is a corgi.
    main = terms[places[1] if places[1] == places[0] + 1 else places[0]]
    unknown = _unknown_words(terms)
    return _error(
        f"The prompt names more than one object: {_quoted(terms[i].typed for i in places)}",
        "This prior makes one object at a time and cannot combine objects",
        f"It also does not know {_quoted(unknown)}" if unknown else "",
        f"Name one of them, for example {_example(words, main.meaning)}",
        f"For scenes, use Stable Diffusion: {ANOTHER_PRIOR}",
    )


def _unknown(words: Words, terms: Sequence[Term]) -> PromptError | None:
    unknown = _unknown_words(terms)
    if not unknown:
        return None
    closest = {word: words.closest(word) for word in unknown}
    named = [
        _quoted([word]) + (f" (closest: {', '.join(found)})" if found else "")
        for word, found in list(closest.items())[:_MOST_NAMED]
    ]
    if len(unknown) > _MOST_NAMED:
        named.append(f"{len(unknown) - _MOST_NAMED} more words")
    has_noun = bool(_of(words.nouns, terms))
    is_foreign = any(not word.isascii() or word in words.foreign for word in unknown)
    is_foreign |= not has_noun and not any(closest.values())
    return _error(
        f"This prior does not know {_and(named)}",
        f"It understands {words.language} only, for example {_example(words)}"
        if words.language and is_foreign
        else "",
        _rule(words) if has_noun else f"It {_objects(words, brief=all(closest.values()))}",
        _ALL_WORDS,
        _ANY_WORDS,
    )


def _nothing(words: Words, terms: Sequence[Term], prompt: str) -> PromptError | None:
    """The error for a prompt without a noun, or without any word that has a meaning."""
    meant = [term for term in terms if term.meaning]
    if _of(words.nouns, terms) or (meant and not words.nouns):
        return None
    interpreted = []
    for kind, members in (("colour", words.colors), ("adjective", words.adjectives)):
        for term in _of(members, terms):
            closest = words.related.get(term.typed)
            hint = f" (closest objects: {', '.join(closest)})" if closest else ""
            typed = _quoted([term.typed])
            interpreted.append(f"{typed} is read as the {kind} {term.meaning}{hint}")
    found = _and(interpreted) if interpreted else f"there is no noun in {_quoted([prompt.strip()])}"
    first = meant[0].meaning if interpreted else None
    return _error(
        f"The prompt names no object: {found}",
        f"Add a noun, for example {_example(words, first, _some_noun(words))}",
        f"This prior {_objects(words)}",
        _ALL_WORDS,
        _ANY_WORDS,
    )


def _several_colors(words: Words, terms: Sequence[Term]) -> PromptError | None:
    nouns, colors = _of(words.nouns, terms), _of(words.colors, terms)
    if not nouns or len(colors) < 2:
        return None
    return _error(
        f"The prompt names more than one colour: {_quoted(term.typed for term in colors)}",
        "This prior gives an object one colour",
        f"Keep one of them, for example {_example(words, colors[0].meaning, nouns[0].meaning)}",
        f"For several colours, use Stable Diffusion: {ANOTHER_PRIOR}",
    )


def _contradiction(words: Words, terms: Sequence[Term]) -> PromptError | None:
    for pair in words.opposites:
        found = [[t.typed for t in terms if word in (t.typed, t.meaning)] for word in pair]
        if all(found):
            both = [typed[0] for typed in found]
            nouns = [term.meaning for term in _of(words.nouns, terms)]
            return _error(
                f"{_quoted(both)} contradict each other",
                f"Keep one of them, for example {_example(words, both[0], *nouns)}",
            )
    return None


def _unknown_words(terms: Sequence[Term]) -> list[str]:
    return list(dict.fromkeys(term.typed for term in terms if term.meaning is None))


def _of(kind: Sequence[str], terms: Sequence[Term]) -> list[Term]:
    return [term for term in terms if term.meaning in kind]


def _rule(words: Words) -> str:
    """A sentence about what a prompt may contain."""
    kinds = (("at most one colour", words.colors), ("adjectives", words.adjectives))
    more = [f"{name} ({', '.join(members)})" for name, members in kinds if members]
    return f"A prompt takes {_and(['one noun', *more])}"


def _objects(words: Words, *, brief: bool = False) -> str:
    """A list of the groups of the prior's nouns, with examples unless `brief`."""
    groups = [name if brief else f"{name} ({_some(of, 3)})" for name, of in words.groups.items()]
    if groups:
        return f"makes {_and(groups)}"
    if words.nouns:
        return f"makes {_some(words.nouns, 8)}"
    return f"knows {_some(tuple(dict.fromkeys(filter(None, words.meanings.values()))), 8)}"


def _some_noun(words: Words) -> str:
    """A noun for an example prompt: from the first example on the card, if it has one."""
    shown = [term for text in words.examples[:1] for term in words.terms(text)]
    nouns = [term.meaning for term in shown if term.meaning in words.nouns]
    known = [*nouns, *words.nouns, *filter(None, words.meanings.values())]
    return next((noun for noun in known if noun), "")


def _example(words: Words, *trained: str | None) -> str:
    """A prompt of these trained words; without any, the first example on the card."""
    text = " ".join(word for word in trained if word)
    if not text and words.examples:
        return f'"{words.examples[0]}"'
    text = text or _some_noun(words)
    article = ("an " if text[:1] in "aeiou" else "a ") if words.language == "English" else ""
    return f'"{article}{text}"'


def _quoted(words: Iterable[str]) -> str:
    return _and([repr(one_line(word, _LONGEST_NAMED)) for word in words])


def _and(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _some(members: Sequence[str], most: int) -> str:
    return ", ".join(members[:most]) + (", …" if len(members) > most else "")


def _error(problem: str, *advice: str) -> PromptError:
    """An error with the problem and all non-empty advice as sentences. An option at the end has no
    full stop, which users might copy with it."""
    text = ". ".join(part for part in (problem, *advice) if part)
    return PromptError(text if text.endswith(ANOTHER_PRIOR) else f"{text}.", brief=problem)
