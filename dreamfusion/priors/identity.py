"""The identity of a prior: its id, revision and licence, and a hash of its weights."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dreamfusion.priors.layout import require_json
from dreamfusion.priors.resolve import ResolvedPrior, inspect
from dreamfusion.utils.errors import one_line

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior
    from dreamfusion.priors.card import PriorSettings

# Number of blocks of each weight file that are hashed: all of a small file, else evenly spaced.
_BLOCKS, _BLOCK = 256, 2**16


@dataclass(frozen=True)
class PriorIdentity:
    """id: on the hub, or another name of the prior. revision: the commit on the hub. license: from
    the model's README. weights: a hash of all weights. None: unknown."""

    id: str
    revision: str | None = None
    license: str | None = None
    weights: str | None = None


def identify(prior: ResolvedPrior | PriorSettings | Prior) -> PriorIdentity:
    """The identity of a prior; only its name if it has no files.

    Reads at most 16 MiB of each weight file. Raises OSError if it cannot be read.
    """
    if not isinstance(prior, ResolvedPrior):
        return PriorIdentity(prior.name)
    from huggingface_hub import metadata_load

    # A folder in the hub's cache is models--OWNER--NAME/snapshots/COMMIT.
    path = prior.path.resolve().as_posix()
    hub = re.search(r"/models--([^/]+)/snapshots/([^/]+)$", path)
    name, revision = (hub[1].replace("--", "/"), hub[2]) if hub else (prior.name, None)
    try:
        front = metadata_load(prior.path / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        front = {}
    found = front.get("license")
    if found := front.get("license_name", found) if found == "other" else found:
        found = one_line(", ".join(map(str, found if isinstance(found, list) else [found])))
    return PriorIdentity(name, revision, found or None, _hash_weights(prior))


def read_identity(path: Path) -> PriorIdentity | None:
    """The identity in a file; None if there is no file. Raises PriorError if it is broken."""
    if not path.is_file():
        return None
    content = require_json(path, f"{path} is broken, delete it")
    found = {field.name: content.get(field.name) for field in fields(PriorIdentity)}
    texts: Any = {key: None if value is None else str(value) for key, value in found.items()}
    return PriorIdentity(**texts)


def has_weights(prior: ResolvedPrior, weights: str) -> bool:
    """Whether a prior has weights with this hash, in half or in full precision."""
    variants = (inspect(prior.path, prior.name, half=half) for half in (False, True))
    return any(_hash_weights(replace(found, loras=prior.loras)) == weights for found in variants)


def _hash_weights(prior: ResolvedPrior) -> str:
    """SHA-256 of the weights to load, by component, and of LoRA files; not of their names."""
    files = [
        (component, prior.path / component / name)
        for component in sorted(prior.files)
        for name in sorted(prior.files[component])
    ]
    files += [(f"lora {lora.weight}", lora.file) for lora in prior.loras]
    total = hashlib.sha256()
    for what, path in files:
        size = path.stat().st_size
        total.update(f"{what} {size} ".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(size // _BLOCKS, _BLOCK)):
                file.seek(start)
                total.update(file.read(_BLOCK))
    return total.hexdigest()
