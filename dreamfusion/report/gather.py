"""Reads the folder of a run for a report. Imports no torch, to save memory during training.

Missing or broken parts are reported as notes, with the command that creates them. Only a folder
without a readable config.yaml is an error.
"""

import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dreamfusion.batch.jobs import read_json
from dreamfusion.config.layers import ConfigError, sources
from dreamfusion.config.schema import Config
from dreamfusion.mesh.provenance import read_provenance
from dreamfusion.mesh.topology import topology
from dreamfusion.runs.folder import RunFolder, find_run, step_of
from dreamfusion.runs.metrics import scalars
from dreamfusion.utils.errors import command, one_line

MOST_PREVIEWS = 12
MOST_BYTES = 64_000_000  # of a video or a mesh
MOST_SMALL_BYTES = 4_000_000


class Note(NamedTuple):
    """A missing or broken part (run, mesh, video, previews or metrics), and the command that fixes
    it, if any."""

    part: str
    text: str
    command: str | None = None


class Curve(NamedTuple):
    """A metric over the steps that have it."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunReport:
    """The content of a report on a run.

    sources: the layer of each setting, if recorded. version: of the package that trained the run.
    step: the last known one. previews: by step, as PNG. videos: by title, as MP4. mesh: a GLB file,
    and facts about it as (name, text) pairs. splats: a PLY file, if the scene has them. judged: the
    results of `dreamfusion evaluate`, or empty. stages: seconds of each, for a finished run.
    """

    path: Path
    name: str
    config: Config
    sources: dict[str, str]
    version: str | None
    step: int
    curves: dict[str, Curve]
    previews: dict[int, bytes]
    videos: dict[str, bytes]
    mesh: bytes | None
    mesh_facts: list[tuple[str, str]]
    splats: bytes | None
    judged: dict[str, Any]
    stages: dict[str, float]
    notes: list[Note]

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.steps

    @property
    def step_seconds(self) -> tuple[float, ...]:
        """Duration of each step, if the metrics contain it."""
        return self.curves["seconds"].values if "seconds" in self.curves else ()


def gather(path: Path) -> RunReport:
    """Read the run in a folder. Raises RunError or ConfigError if there is none."""
    folder = find_run(path)
    try:
        config, layers = folder.read_config(), folder.read_layers()
    except ConfigError as error:
        raise ConfigError(f"{folder.config}: {error}") from None
    notes: list[Note] = []
    curves = _curves(folder, notes)
    saved = [read_json(file) for file in sorted(folder.checkpoints.glob("step_*.json"))]
    newest: dict[str, Any] = next(
        (one for one in reversed(saved) if isinstance(one.get("step"), int)), {}
    )
    step = max(newest.get("step", 0), *(curve.steps[-1] for curve in curves.values()), 0)
    if step < config.steps:
        text = f"Step {step} of {config.steps}. If the run has stopped, resume it:"
        notes.append(Note("run", text, command("resume", path)))
    mesh, facts = _mesh(folder, notes)
    stages = read_json(folder.durations).items()
    return RunReport(
        path=path,
        name=path.resolve().name,
        config=config,
        sources=sources(layers),
        version=newest.get("dreamfusion"),
        step=step,
        curves=curves,
        previews=_previews(folder, notes),
        videos=_videos(folder, notes),
        mesh=mesh,
        mesh_facts=facts,
        splats=read_small(folder.mesh / "splats.ply", MOST_BYTES),
        judged=read_json(folder.path / "evaluation.json"),
        stages={stage: took for stage, took in stages if isinstance(took, (int, float))},
        notes=notes,
    )


def thin(items: Sequence[Any], most: int) -> list[Any]:
    """Select at most `most` items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _curves(folder: RunFolder, notes: list[Note]) -> dict[str, Curve]:
    lines: list[str] = []
    with suppress(OSError):
        lines = folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    points: dict[str, dict[int, float]] = {}
    broken = 0
    for line in lines:
        try:
            record = json.loads(line)
            step, found = int(record["step"]), scalars(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            broken += 1
            continue
        for name, value in found.items():
            if math.isfinite(value):
                points.setdefault(name, {})[step] = value
    if broken:
        text = f"{broken} of {len(lines)} lines of metrics.jsonl cannot be read and are skipped."
        notes.append(Note("metrics", text))
    elif not points:
        notes.append(Note("metrics", "No step is logged yet.", command("resume", folder.path)))
    ordered = {name: sorted(values.items()) for name, values in points.items()}
    return {name: Curve(*zip(*pairs, strict=True)) for name, pairs in ordered.items()}


def _previews(folder: RunFolder, notes: list[Note]) -> dict[int, bytes]:
    found, broken = {}, []
    for path in thin(folder.preview_files(), MOST_PREVIEWS):
        try:
            with Image.open(path) as image:
                image.verify()
            found[step_of(path)] = path.read_bytes()
        except (OSError, ValueError, SyntaxError):
            broken.append(path.name)
    if broken:
        notes.append(Note("previews", f"Cannot be read: {', '.join(broken)}"))
    elif not found:
        text = "No preview yet: the first one is written after output.preview_every steps."
        notes.append(Note("previews", text))
    return found


def _videos(folder: RunFolder, notes: list[Note]) -> dict[str, bytes]:
    """The newest turntable, and those of other modes."""
    colored = [path for path in (folder.video, folder.path / "render-color.mp4") if path.is_file()]
    newest = sorted(colored, key=lambda path: path.stat().st_mtime)[-1:]
    paths = dict(zip(["Turntable"], newest, strict=False))
    for mode in ("normals", "depth", "textureless"):
        paths[mode.capitalize()] = folder.path / f"render-{mode}.mp4"
    found = {}
    for title, path in paths.items():
        data = read_small(path, MOST_BYTES)
        if data is not None and data[4:8] != b"ftyp":
            text = f"{path.name} is not a video. To render it:"
            notes.append(Note("video", text, command("render", folder.path)))
        elif data is not None:
            found[title] = data
    if not found and not any(note.part == "video" for note in notes):
        text = "No video yet, or one too large for a page. To make one:"
        notes.append(Note("video", text, command("render", folder.path)))
    return found


def _mesh(folder: RunFolder, notes: list[Note]) -> tuple[bytes | None, list[tuple[str, str]]]:
    data = read_small(folder.mesh / "model.glb", MOST_BYTES)
    if data is None:
        text = "No mesh yet, or one too large for a page. To make one:"
        notes.append(Note("mesh", text, command("export", folder.path)))
        return None, []
    try:
        return data, mesh_facts(data)
    except Exception as error:  # parsers of broken files raise many kinds of errors
        text = f"mesh/model.glb cannot be read ({one_line(error)}). To write it again:"
        notes.append(Note("mesh", text, command("export", folder.path)))
        return None, []


def mesh_facts(glb: bytes) -> list[tuple[str, str]]:
    """The properties of the mesh in a GLB file, as (name, text) pairs."""
    import trimesh

    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh", process=False)
    shape = topology(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    texture = getattr(getattr(mesh.visual, "material", None), "baseColorTexture", None)
    look = "at vertices" if texture is None else f"texture, {texture.width} × {texture.height}"
    facts = [
        ("Vertices", f"{shape.vertices:,}"),
        ("Faces", f"{shape.faces:,}"),
        ("Watertight", f"yes, genus {shape.genus}" if shape.watertight else "no"),
        ("Pieces", f"{shape.components:,}"),
        ("Width × height × depth", " × ".join(f"{side:.2f}" for side in shape.size)),
        ("Volume", f"{shape.volume:.3f}" if shape.watertight else "unknown: not watertight"),
        ("Colour", look),
        ("File", f"{len(glb) / 1e6:.2f} MB"),
    ]
    origin = read_provenance(glb)
    if origin is not None:
        facts.append(("Step", f"{origin.step:,}"))
        if origin.psnr_db is not None:
            facts.append(("PSNR to the scene", f"{origin.psnr_db:.1f} dB"))
        if origin.silhouette_iou is not None:
            facts.append(("Silhouette IoU with the scene", f"{origin.silhouette_iou:.3f}"))
    return facts


def read_small(path: Path, most: int = MOST_SMALL_BYTES) -> bytes | None:
    """A file to embed in a page; None if it is missing or larger than `most` bytes."""
    return path.read_bytes() if path.is_file() and path.stat().st_size <= most else None
