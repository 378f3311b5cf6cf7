"""Serves the viewer's page for the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from dreamfusion.cli.console import Console

if TYPE_CHECKING:
    from dreamfusion.viewer.page import Page


@contextmanager
def open_page(
    console: Console,
    title: str,
    until: str = "until the run ends",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[Page]:
    """Serve a page during the block, and print its address."""
    from dreamfusion.viewer.page import Page

    with closing(Page(f"dreamfusion: {title}", host=host, port=port)) as page:
        console.say(f"view      {page.url} ({until})")
        yield page
