"""What a user can get wrong. The command line prints such an error as one line and exits with 2."""

from __future__ import annotations


class UserError(Exception):
    """Base of every error whose message is meant for the user: one line, and what to do."""


class RunWarning(UserWarning):
    """What a user should know of, although the work goes on. The command line prints a line."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """A message, or an exception's, on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
