"""The word list of a prior: parses prompts, and rejects prompts that the prior cannot generate.

Splits text of any script into words, recognises English plurals and typing errors, and suggests
words for unknown ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from dreamfusion.utils.errors import UserError, one_line

# Endings of English plurals and of their singulars.
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("men", "man"), ("cti", "ctus"))
_END = (
    "`dreamfusion vocabulary` lists all words. For other words, use Stable Diffusion: --prior "
    "stable-diffusion-v1-5/stable-diffusion-v1-5"
)
_MOST_NAMED = 6  # unknown words in one message
_LONGEST_NAMED = 40  # characters of a word in a message


def split_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case and without punctuation.

    A word is a sequence of letters and digits, and may contain apostrophes.

    >>> split_words("A RED ice-cream, the dog's™ 🐶!")
    ['a', 'red', 'ice', 'cream', 'the', "dog's"]
    """
    # Composed first, since combining marks are no letters. NFKC last: it turns "™" into "TM".
    text = unicodedata.normalize("NFC", text).replace("’", "'")
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)
    return [unicodedata.normalize("NFKC", word).lower() for word in words]


def singulars(word: str) -> list[str]:
    """The possible singulars of an English word.

    >>> singulars("puppies"), singulars("boxes"), singulars("dogs")
    (['puppie', 'puppi', 'puppy'], ['boxe', 'box'], ['dog'])
    """
    if len(word) < 4:
        return []
    return [word.removesuffix(end) + new for end, new in _PLURALS if word.endswith(end)]


@dataclass(frozen=True)
class Term:
    """A word or phrase of a prompt. meaning: the trained word, "" for a filler, None if unknown."""

    typed: str
    meaning: str | None


@dataclass(frozen=True)
class Words:
    """The words that a prior was trained on. All but `meanings` are optional in a prior's card.

    meanings: the trained word for each word or phrase of a prompt ("puppy": "corgi"); "" for
        fillers like "a".
    nouns, colors, adjectives: the trained words by kind. If there are nouns, a prompt must name
        exactly one object, and at most one colour.
    groups: the nouns by subject ("animals": corgi, cat), to list them.
    related: unknown words, each with the trained words closest in meaning.
    opposites: pairs of words that contradict each other ("tall", "flat").
    examples: prompts to show to a user.
    """

    meanings: Mapping[str, str]
    nouns: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    related: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    opposites: tuple[tuple[str, ...], ...] = ()
    examples: tuple[str, ...] = ()

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Words:
        """Convert a prior's `dreamfusion.json`. Raises KeyError, TypeError or AttributeError if it
        is malformed."""
        meanings = {_key(word): str(meaning) for word, meaning in content["words"].items()}
        trained = set(meanings.values())
        nouns, colors, adjectives = (
            tuple(word for word in _strings(content.get(kind, ())) if word in trained)
            for kind in ("nouns", "colors", "adjectives")
        )
        return cls(
            meanings,
            nouns,
            colors,
            adjectives,
            groups={name: _strings(group) for name, group in content.get("groups", {}).items()},
            related={_key(word): _strings(to) for word, to in content.get("related", {}).items()},
            opposites=tuple(_strings(pair) for pair in content.get("opposites", ())),
            examples=_strings(content.get("examples", ())),
        )

    def terms(self, prompt: str) -> list[Term]:
        """Split a prompt into words and phrases, preferring long phrases. A noun may be typed in
        the plural, a phrase as one word ("icecream") and a word as several ("tea pot")."""
        tokens = split_words(prompt)
        longest = max((key.count(" ") + 1 for key in self.meanings), default=1)
        found: list[Term] = []
        start = 0
        while start < len(tokens):
            for length in range(min(max(longest, 2), len(tokens) - start), 0, -1):
                part = tokens[start : start + length]
                meaning = self._meaning(part)
                if meaning is not None or length == 1:
                    found.append(Term(" ".join(part), meaning))
                    start += length
                    break
        return found

    def closest(self, word: str) -> tuple[str, ...]:
        """The known words closest to an unknown one in meaning, else in spelling; may be empty."""
        for form in (word, *singulars(word)):
            if form in self.related:
                return self.related[form]
        known = [key for key in self.meanings if self.meanings[key] and key[:1] == word[0]]
        return tuple(get_close_matches(word, known, n=2, cutoff=0.8))

    @cached_property
    def _joined(self) -> dict[str, str]:
        """The meaning of each word or phrase, by its letters without blanks."""
        return {key.replace(" ", ""): meaning for key, meaning in self.meanings.items()}

    def _meaning(self, part: Sequence[str]) -> str | None:
        """The meaning of adjacent tokens as one word or phrase, or None if there is none."""
        *before, last = part
        # "gold fish" is not a goldfish: both words are known separately.
        apart = len(part) > 1 and all(token in self.meanings for token in part)
        for form in (last, *singulars(last)):
            phrase = " ".join([*before, form])
            meaning = self.meanings.get(phrase)
            if meaning is None and not apart:
                meaning = self._joined.get(phrase.replace(" ", ""))
            # Only nouns have a plural: "reds" is no colour.
            if meaning is not None and (form == last or meaning in self.nouns):
                return meaning
        return None


def _key(phrase: object) -> str:
    return " ".join(split_words(str(phrase)))


def _strings(value: object) -> tuple[str, ...]:
    """A list of strings of a card. Raises TypeError for anything else."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"a list of strings is needed, not {one_line(repr(value), 60)}")
    return tuple(value)


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
