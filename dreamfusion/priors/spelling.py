"""Words in a text of any script, English plurals and typing errors."""

from __future__ import annotations

import unicodedata


def split_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case and without signs.

    A word is a run of letters, their marks and digits; an apostrophe may stand within.

    >>> split_words("A RED ice-cream, the dog's™ 🐶!")
    ['a', 'red', 'ice', 'cream', 'the', "dog's"]
    """
    # First the signs, since NFKC would turn some into letters ("™" into "TM").
    text = unicodedata.normalize("NFKC", "".join(map(_letter_or_blank, text))).lower()
    words = ("".join(map(_letter_or_blank, text))).split()
    stripped = (word.strip("'") for word in words)
    return [word for word in stripped if any(unicodedata.category(c)[0] in "LN" for c in word)]


def _letter_or_blank(character: str) -> str:
    """The character as it is within a word; "" if it is invisible there; else a blank."""
    category = unicodedata.category(character)
    if character in "'’":
        return "'"
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    if is_selector or (category == "Cf" and character != "\u200b"):
        return ""
    return character if category[0] == "L" or category in ("Mn", "Mc", "Nd", "Nl") else " "


# Endings of English plurals, and those of the singular.
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("men", "man"), ("cti", "ctus"))


def singulars(word: str) -> list[str]:
    """What an English word may be the plural of.

    >>> singulars("puppies"), singulars("boxes"), singulars("dogs")
    (['puppie', 'puppi', 'puppy'], ['boxe', 'box'], ['dog'])
    """
    if len(word) < 4:
        return []
    return [word.removesuffix(end) + new for end, new in _PLURALS if word.endswith(end)]


def typing_errors(word: str, known: str) -> int | None:
    """The number of typing errors that make `word` of `known`; None if they are too many: more
    than one in every four letters or than two in all, or one in the first letter."""
    # A word of four letters with another one in it is most often another word: boat, coat, boot.
    if len(word) < 4 or len(known) < 3 or word[0] != known[0]:
        return None
    most = 2 if max(len(word), len(known)) >= 8 else 1
    if abs(len(word) - len(known)) > most:
        return None
    errors = _edit_distance(word, known)
    swapped = sorted(word) == sorted(known)
    if len(word) == len(known) == 4 and errors and not swapped:
        return None
    return errors if errors <= most else None


def _edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that make `b` of `a`."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def without_accents(word: str) -> str:
    """The letters without their marks: "éléphant" as "elephant"."""
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
