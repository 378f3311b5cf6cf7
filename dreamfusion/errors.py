"""What a user can get wrong. The command line prints such an error as one line and exits with 2."""

from __future__ import annotations


class UserError(Exception):
    """Base of every error whose message is meant for the user: one line, and what to do."""
