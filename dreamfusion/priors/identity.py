"""Which model a prior is: its id, revision and licence, and a hash of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.priors.files import require_json
from dreamfusion.priors.layout import INDEX
from dreamfusion.priors.resolve import ResolvedPrior, inspect
from dreamfusion.utils.errors import one_line

# Files up to this size are hashed whole; of larger ones the header, the size and so many blocks.
_WHOLE = 16 * 2**20
_BLOCKS, _BLOCK = 64, 4096
_EMBEDDED_LICENSE = "MIT"  # it was trained by this project, and ships with it


@dataclass(frozen=True)
class PriorIdentity:
    """id: on the hub, or whatever name finds the prior. revision: the commit on the hub. license:
    as the model's README or LICENSE says. weights: a hash of all weights. None: unknown."""

    id: str
    revision: str | None = None
    license: str | None = None
    weights: str | None = None

    def to_json(self) -> str:
        """As `read_identity` reads it."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @property
    def source(self) -> dict[str, str]:
        """Id, revision and licence, as far as they are known."""
        known = {"id": self.id, "revision": self.revision, "license": self.license}
        return {key: value for key, value in known.items() if value is not None}


def identify(prior: ResolvedPrior) -> PriorIdentity:
    """Which model a prior is. Reads at most a few MiB of each file of weights."""
    cached_id, revision = _from_hub(prior.path)
    is_embedded = prior.name == "embedded"
    return PriorIdentity(
        cached_id or prior.name,
        revision,
        _EMBEDDED_LICENSE if is_embedded else _license(prior.path),
        hash_weights(prior),
    )


def read_identity(path: Path) -> PriorIdentity | None:
    """The identity that a file holds, or None where there is none. PriorError if it is broken."""
    if not path.is_file():
        return None
    found = require_json(path, f"{path} is broken, delete it")
    known: dict[str, Any] = {}
    for key in ("revision", "license", "weights"):
        value = found.get(key)
        known[key] = None if value is None else str(value)
    return PriorIdentity(str(found.get("id", "")), **known)


def has_weights(prior: ResolvedPrior, weights: str) -> bool:
    """Whether a prior has the weights of this hash, in half precision or in full."""
    variants = (inspect(prior.path, prior.name, half=half) for half in (False, True))
    return any(hash_weights(found) == weights for found in (prior, *variants))


def hash_weights(prior: ResolvedPrior) -> str:
    """SHA-256 of the weight files that are to be loaded, by component. The names of the files do
    not matter; of a large one the header, the size and blocks throughout are taken."""
    total = hashlib.sha256()
    for component in sorted(prior.files):
        for file in sorted(prior.files[component]):
            total.update(f"{component} {_hash_file(prior.path / component / file)}\n".encode())
    return total.hexdigest()


def _hash_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
            return digest.hexdigest()
        # A file of safetensors begins with the length of its header.
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        digest.update(file.read(start))
        for i in range(_BLOCKS):
            file.seek(start + (size - start - _BLOCK) * i // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _from_hub(folder: Path) -> tuple[str | None, str | None]:
    """Id and commit of a folder in the hub's cache (models--OWNER--NAME/snapshots/COMMIT), or the
    commit of a folder that the hub's library downloaded into."""
    path = folder.resolve()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    note = path / ".cache" / "huggingface" / "download" / f"{INDEX}.metadata"
    try:
        commit = note.read_text(encoding="utf-8").split("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return None, None
    return None, commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None


def _license(folder: Path) -> str | None:
    """The licence that the front matter of README.md names, or the title of a LICENSE file."""
    readme = _text(folder / "README.md")
    if match := re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme, flags=re.DOTALL):
        try:
            front = yaml.safe_load(match[1])
        except yaml.YAMLError:
            front = None
        if isinstance(front, dict):
            named = front.get("license_name") if front.get("license") == "other" else None
            if name := named or front.get("license"):
                names = name if isinstance(name, list) else [name]
                return one_line(", ".join(map(str, names)))
    for file in ("LICENSE", "LICENSE.md", "LICENSE.txt"):
        lines = (line.strip(" #*=-\t") for line in _text(folder / file).splitlines())
        if title := next((line for line in lines if line), None):
            return one_line(title)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
