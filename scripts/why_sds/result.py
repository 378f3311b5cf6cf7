"""What an experiment returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

# Numbers and names by column.
Row = dict[str, float | str]


@dataclass(frozen=True)
class Result:
    """The rows of a table, and a figure."""

    rows: Sequence[Row]
    figure: Image.Image

    def table(self) -> str:
        """The rows as text, in columns."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = [names, *([_text(row.get(name, "")) for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        )


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
