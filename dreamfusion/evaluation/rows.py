"""One row of figures for each run, with a reason where there are none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamfusion.evaluation.judges import LOOKS, Judge, Look
from dreamfusion.evaluation.pictures import VIEWS, pictures_of
from dreamfusion.evaluation.retrieval import distractors_for, retrieve
from dreamfusion.mesh.formats import MeshError, read_glb
from dreamfusion.mesh.topology import topology
from dreamfusion.runs.checkpoint import load_scene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.utils.atomic_write import atomic_write
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.errors import UserError

EVALUATION = "evaluation.json"  # in a run's folder, for its report


@dataclass(frozen=True)
class Subject:
    """A run to be judged. settings: what its batch asked of it, by dotted names. seconds, gib: what
    it cost, where that was kept. problem: why it cannot be judged."""

    run: RunFolder
    prompt: str
    seed: int
    seconds: float | None = None
    gib: float | None = None
    problem: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Figures of a run; None is what could not be measured, and `reason` says why.

    variant: the settings in which the run differs from others of its batch ("sds.guidance=8").
    r1_LOOK: share of views in which the prompt is found; pooled_LOOK: whether it is in all of them
    together. rank, margin and worst_margin are of shaded pictures; see `retrieval.Retrieval`.
    """

    run: str
    prompt: str
    seed: int
    variant: str
    judge: str
    revision: str
    views: int
    distractors: int | None = None
    r1_color: float | None = None
    r1_shaded: float | None = None
    r1_geometry: float | None = None
    pooled_color: bool | None = None
    pooled_shaded: bool | None = None
    pooled_geometry: bool | None = None
    rank: int | None = None
    margin: float | None = None
    worst_margin: float | None = None
    fronts: int | None = None
    pieces: int | None = None
    watertight: bool | None = None
    mesh_psnr_db: float | None = None
    seconds: float | None = None
    gib: float | None = None
    reason: str = ""


COLUMNS = tuple(one.name for one in fields(Row))


def variants_of(subjects: Sequence[Subject]) -> list[str]:
    """What tells the runs of a batch apart besides prompt and seed: for each its values of the
    settings that are not the same in all."""
    names = dict.fromkeys(name for subject in subjects for name in subject.settings)
    mixed = [
        name
        for name in names
        if len({repr(subject.settings.get(name)) for subject in subjects}) > 1
    ]
    return [
        ", ".join(f"{name}={subject.settings.get(name, 'default')}" for name in mixed)
        for subject in subjects
    ]


def judge_run(
    subject: Subject,
    judges: Sequence[tuple[Judge, Sequence[str]]],
    *,
    variant: str = "",
    views: int = VIEWS,
) -> list[Row]:
    """A row of the run for each judge, which comes with the texts to find the prompt among."""
    found: dict[str, Any] = {}
    reasons = [] if subject.problem is None else [subject.problem]
    pictures: Mapping[Look, Tensor] = {}
    if subject.problem is None:
        try:
            config = subject.run.read_config()
            saved = load_scene(subject.run, config, choose_device("auto"))
            size = max(judge.size for judge, _ in judges)
            pictures = pictures_of(saved.scene, config, views=views, size=size)
        except UserError as error:
            reasons.append(str(error))
        try:
            found |= mesh_figures(subject.run.mesh / "model.glb")
        except MeshError as error:
            reasons.append(str(error))
    seconds = subject.seconds
    if seconds is None:
        seconds = sum(step.get("seconds", 0.0) for step in read_metrics(subject.run.metrics))
    rows = []
    for judge, others in judges:
        said, own = {}, list(reasons)
        if pictures:
            try:
                said = judge_pictures(judge, subject.prompt, pictures, others)
            except UserError as error:
                own.append(str(error))
        rows.append(
            Row(
                run=str(subject.run.path),
                prompt=subject.prompt,
                seed=subject.seed,
                variant=variant,
                judge=judge.name,
                revision=judge.revision,
                views=views,
                **found,
                **said,
                seconds=seconds or None,
                gib=subject.gib,
                reason="; ".join(own),
            )
        )
    return rows


def judge_pictures(
    judge: Judge, prompt: str, pictures: Mapping[Look, Tensor], others: Sequence[str]
) -> dict[str, Any]:
    """The judge's columns for views of each look. Raises UserError where there is nothing to tell
    the prompt from."""
    found: dict[str, Any] = {}
    for look in LOOKS:
        distractors = distractors_for(judge, prompt, others, look)
        if not distractors:
            raise UserError("there is no other prompt to tell this one from: --distractors FILE")
        result = retrieve(judge.scores(pictures[look], [prompt, *distractors], look))
        found |= {f"r1_{look}": result.views, f"pooled_{look}": result.pooled}
        if look == "shaded":
            found |= {
                "distractors": result.distractors,
                "rank": result.rank,
                "margin": result.margin,
                "worst_margin": result.worst_margin,
            }
    return found | {"fronts": judge.fronts(prompt, pictures["shaded"])}


def mesh_figures(file: Path) -> dict[str, Any]:
    """The mesh's columns. Raises MeshError where there is none."""
    if not file.is_file():
        raise MeshError(f"there is no mesh {file}")
    mesh, origin = read_glb(file)
    shape = topology(mesh.vertices, mesh.faces)
    return {
        "pieces": shape.components,
        "watertight": shape.watertight,
        "mesh_psnr_db": None if origin is None else origin.psnr_db,
    }


def write_beside_run(row: Row) -> None:
    """Keep a row in the run's folder, where its report finds it."""
    with atomic_write(Path(row.run) / EVALUATION) as file:
        file.write_text(json.dumps(vars(row), indent=1) + "\n", encoding="utf-8")
