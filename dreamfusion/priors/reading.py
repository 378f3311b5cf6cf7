"""Parses prompts by a prior's word list, and rejects prompts that the prior cannot generate."""

from collections.abc import Iterable, Sequence

from dreamfusion.priors.words import Term, Words
from dreamfusion.utils.errors import UserError, one_line

_END = (
    "`dreamfusion vocabulary` lists all words. For other words, use Stable Diffusion: --prior "
    "stable-diffusion-v1-5/stable-diffusion-v1-5"
)
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
        first: dict[str, Term] = {}  # without repetitions, as in "crimson red" and "puppy dog"
        for term in terms:
            first.setdefault(term.meaning or term.typed, term)
        terms = list(first.values())
    meant = [term for term in terms if term.meaning]
    nouns = [term.typed for term in meant if term.meaning in words.nouns]
    colors = [term.typed for term in meant if term.meaning in words.colors]
    if len(nouns) > 1:
        raise _error(words, f"The prompt names more than one object: {_quoted(nouns)}")
    _require_known(words, terms)
    if not (nouns or (meant and not words.nouns)):
        only = f", only {_quoted(term.typed for term in meant)}" if meant else ""
        raise _error(words, f"The prompt names no object{only}")
    if nouns and len(colors) > 1:
        raise _error(words, f"The prompt names more than one colour: {_quoted(colors)}")
    for pair in words.opposites:
        found = [[t.typed for t in terms if word in (t.typed, t.meaning)] for word in pair]
        if all(found):
            both = _quoted(typed[0] for typed in found)
            raise _error(words, f"{both} contradict each other: keep one of them")
    return " ".join(term.meaning for term in meant if term.meaning)


def require_known(words: Words, text: str) -> None:
    """Raise PromptError if a text contains a word unknown to the prior. Unlike a prompt, it may
    name any number of objects and colours; for example, a negative prompt."""
    _require_known(words, words.terms(text))


def _require_known(words: Words, terms: Sequence[Term]) -> None:
    unknown = list(dict.fromkeys(term.typed for term in terms if term.meaning is None))
    named = []
    for word in unknown[:_MOST_NAMED]:
        closest = ", ".join(words.closest(word))
        named.append(_quoted([word]) + (f" (closest: {closest})" if closest else ""))
    if len(unknown) > _MOST_NAMED:
        named.append(f"{len(unknown) - _MOST_NAMED} more words")
    if named:
        raise _error(words, f"This prior does not know {_and(named)}")


def _error(words: Words, problem: str) -> PromptError:
    """An error with the problem and what a prompt may contain. The option at the end has no full
    stop, which users might copy with it."""
    example = f", for example {words.examples[0]!r}" if words.examples else ""
    if words.nouns:
        rule = f"A prompt takes one noun, at most one colour and adjectives{example}"
        known = _and(tuple(words.groups)) if words.groups else _some(words.nouns, 8)
        advice = f"{rule}. This prior makes {known}"
    else:
        trained = tuple(dict.fromkeys(filter(None, words.meanings.values())))
        advice = f"It knows {_some(trained, 8)}{example}"
    return PromptError(f"{problem}. {advice}. {_END}", brief=problem)


def _quoted(words: Iterable[str]) -> str:
    return _and([repr(one_line(word, _LONGEST_NAMED)) for word in words])


def _and(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _some(members: Sequence[str], most: int) -> str:
    return ", ".join(members[:most]) + (", …" if len(members) > most else "")
