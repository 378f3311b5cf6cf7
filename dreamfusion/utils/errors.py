"""What a user can get wrong. The command line prints such an error as one line and exits with 2."""

from __future__ import annotations


class UserError(Exception):
    """Base of every error whose message is meant for the user: one line, and what to do.

    What a message quotes, a prompt or a file, may hold anything: here it becomes one line.
    brief: what is wrong without what to do, for a message that lists several errors.
    """

    def __init__(self, message: str, *, brief: str | None = None) -> None:
        super().__init__(one_line(message, 1500))
        self.brief = str(self) if brief is None else one_line(brief, 1500)


class RunWarning(UserWarning):
    """What a user should know of, although the work goes on. The command line prints a line."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """A message, or an exception's, on one line of at most `limit` characters, all of which can be
    printed: none moves the cursor or turns the writing round."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
