#!/usr/bin/env python
"""Split a folder into small pieces, and restore it.

    python -m scripts.pieces cut assets/embedded-prior OUT     # OUT/pieces.json, OUT/piece-00, …
    python -m scripts.pieces join OUT assets/embedded-prior    # checks every byte, then replaces it

Exits with 2 and does not change the folder if a piece is missing or damaged.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

LIST = "pieces.json"
MOST = 15 << 20  # bytes per piece


def cut(folder: Path, out: Path, *, most: int = MOST) -> list[Path]:
    """Split `folder` into pieces of at most `most` bytes in `out`; returns all written files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder).as_posix(), recursive=False)
    content = packed.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    parts = [content[i : i + most] for i in range(0, len(content), most)]
    files = [out / f"piece-{i:02}" for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(part)
    named = zip(files, parts, strict=True)
    checks = {file.name: hashlib.sha256(part).hexdigest() for file, part in named}
    (out / LIST).write_text(json.dumps(checks, indent=1) + "\n")
    return [*files, out / LIST]


def join(out: Path, folder: Path) -> None:
    """Replace `folder` by the content of the pieces in `out`. Raises ValueError for missing or
    damaged pieces, before anything is changed."""
    try:
        checks: dict[str, str] = json.loads((out / LIST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{out / LIST} cannot be read: {error}") from None
    parts = []
    for name, check in checks.items():
        file = out / name
        part = file.read_bytes() if file.exists() else b""
        if hashlib.sha256(part).hexdigest() != check:
            raise ValueError(f"{file} is missing, or is not what was cut")
        parts.append(part)
    new = folder.with_name(f"{folder.name}.joining")
    shutil.rmtree(new, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(new, filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("action", choices=["cut", "join"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    try:
        (cut if args.action == "cut" else join)(args.source, args.target)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
