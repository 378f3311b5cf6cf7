"""Reading a model's files without loading it: JSON, and the headers of safetensors."""

import json
from pathlib import Path
from typing import Any

from dreamfusion.utils.errors import UserError, one_line

OTHER_FILE = "the file is incomplete or of another kind of model"  # the cause of missing weights


class PriorError(UserError):
    """A prior that cannot be found, read or used."""


def require_json(path: Path, problem: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises PriorError, starting with `problem`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{problem}: there is no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{problem}: cannot read {path.name}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise PriorError(f"{problem}: {path.name} holds no JSON object")
    return content


def read_weights(path: Path) -> dict[str, tuple[str, list[int]]]:
    """The dtype and shape of each tensor in a safetensors file, from its header. Raises PriorError
    if the file is shorter than its header states, as after an incomplete download, or if its dtype
    is not supported."""
    from safetensors import SafetensorError, safe_open  # imported here to keep --help fast

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (x.get_dtype(), x.get_shape()) for name, x in tensors.items()}
    except SafetensorError:
        with path.open("rb") as start:
            if start.read(40).startswith(b"version https://git-lfs"):
                raise PriorError(
                    f"{path} is a pointer of Git LFS and holds no weights: run `git lfs pull` in "
                    "its folder"
                ) from None
        raise PriorError(
            f"{path} is corrupt or was cut off; delete it and fetch the prior again"
        ) from None
    if packed := sorted(kind for kind, _ in found.values() if kind.startswith(("F8", "F4", "F6"))):
        raise PriorError(
            f"{path} holds weights in {packed[0]}, which is not supported; use a file in float16, "
            "bfloat16 or float32"
        )
    return found
