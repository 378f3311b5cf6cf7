"""Splits text of any script into words, and recognises English plurals and typing errors."""

import unicodedata


def split_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case and without punctuation.

    A word is a sequence of letters, their marks and digits, and may contain apostrophes.

    >>> split_words("A RED ice-cream, the dog's™ 🐶!")
    ['a', 'red', 'ice', 'cream', 'the', "dog's"]
    """
    # Remove signs before NFKC, which would turn some of them into letters ("™" into "TM").
    text = unicodedata.normalize("NFKC", "".join(map(_letter_or_blank, text))).lower()
    words = ("".join(map(_letter_or_blank, text))).split()
    stripped = (word.strip("'") for word in words)
    return [word for word in stripped if any(unicodedata.category(c)[0] in "LN" for c in word)]


def _letter_or_blank(character: str) -> str:
    """The character itself if it can be part of a word, "" if it is invisible, else a blank."""
    category = unicodedata.category(character)
    if character in "'’":
        return "'"
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    if is_selector or (category == "Cf" and character != "\u200b"):
        return ""
    return character if category[0] == "L" or category in ("Mn", "Mc", "Nd", "Nl") else " "


# Endings of English plurals and of their singulars.
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("men", "man"), ("cti", "ctus"))


def singulars(word: str) -> list[str]:
    """The possible singulars of an English word.

    >>> singulars("puppies"), singulars("boxes"), singulars("dogs")
    (['puppie', 'puppi', 'puppy'], ['boxe', 'box'], ['dog'])
    """
    if len(word) < 4:
        return []
    return [word.removesuffix(end) + new for end, new in _PLURALS if word.endswith(end)]


def typing_errors(word: str, known: str) -> int | None:
    """The number of typing errors between `word` and `known`. None if there are too many: one in
    the first letter, more than one in a word of fewer than eight letters, or more than two."""
    # A word of four letters with one letter substituted is often another word: boat, coat, boot.
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
    """Number of insertions, deletions, substitutions and swaps of neighbours from `a` to `b`."""
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
    """Remove the marks of letters: "éléphant" becomes "elephant"."""
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
