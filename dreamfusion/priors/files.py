"""Reading a model's files without any library: JSON, and the headers of safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dreamfusion.utils.errors import UserError, one_line


class PriorError(UserError):
    """A prior that cannot be found, read or used."""


def read_json(path: Path, problem: str) -> dict[str, Any]:
    """A JSON object from a file; PriorError, starting with `problem`, if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{problem}: there is no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{problem}: cannot read {path.name}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise PriorError(f"{problem}: {path.name} holds no JSON object")
    return content


def count_weights(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header.

    Raises PriorError unless the file is as long as its header says: a download that was cut off is
    found here, before anything is loaded.
    """
    problem = PriorError(f"{path} is corrupt or was cut off; delete it and fetch the prior again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        header.pop("__metadata__", None)
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        weights = sum(math.prod(tensor["shape"]) for tensor in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise problem from None
    if size != 8 + length + end:
        raise problem
    return weights
