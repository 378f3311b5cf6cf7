"""Reading a model's files without any library: JSON, and the headers of safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dreamfusion.utils.errors import UserError, one_line


class PriorError(UserError):
    """A prior that cannot be found, read or used."""


def require_json(path: Path, problem: str) -> dict[str, Any]:
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
        length, header = _header(path)
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        weights = sum(math.prod(tensor["shape"]) for tensor in header.values())
        kinds = {str(tensor["dtype"]) for tensor in header.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise PriorError(
                    f"{path} is a pointer of Git LFS and holds no weights: run `git lfs pull` in "
                    "its folder"
                ) from None
        raise problem from None
    if size != 8 + length + end:
        raise problem
    if packed := sorted(kind for kind in kinds if kind.startswith(("F8", "F4", "F6"))):
        raise PriorError(
            f"{path} holds weights in {packed[0]}, which is not supported; use a file in float16, "
            "bfloat16 or float32"
        )
    return weights


def tensor_headers(path: Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file that `count_weights` has read says of each tensor: dtype, shape."""
    return _header(path)[1]


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """The length of a safetensors file's header and what it says of each tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if length < path.stat().st_size else {}
    header.pop("__metadata__", None)
    return length, header
