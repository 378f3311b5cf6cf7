"""The runs to evaluate, and a row of metrics for each, with a reason for missing metrics.

R-Precision: whether an image matches its prompt better than others (DreamFusion, section 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.batch.jobs import State, find_batch, read_json, write_json
from dreamfusion.config.nested import flat
from dreamfusion.config.schema import Config
from dreamfusion.evaluation.judges import LOOKS, Judge, Look, read_pair
from dreamfusion.evaluation.truth import compare_with_truth
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.mesh.formats import MeshError, moved, read_glb
from dreamfusion.mesh.topology import topology
from dreamfusion.runs.checkpoint import draw_scene, load_scene
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.scenes.base import Scene
from dreamfusion.toyworld.objects import make_object
from dreamfusion.utils.errors import UserError

# In a run's folder, for its report: metrics, and the images that were judged: a row for each look.
EVALUATION, VIEWS_IMAGE = "evaluation.json", "evaluation.png"
_NO_DISTRACTORS = (
    "R-Precision needs at least one other prompt. Pass distractors with --distractors FILE."
)
ELEVATION_DEG = 30.0  # as in DreamFusion's evaluation
VIEWS = 8
MODES: dict[Look, ImageMode] = {"color": "albedo", "shaded": "color", "geometry": "textureless"}
LEAST_OPACITY = 0.002  # mean opacity of the images below which a scene counts as empty


@dataclass(frozen=True)
class Subject:
    """A run to evaluate. settings: those of its batch, by dotted names. seconds, gib: its duration
    and peak memory, if recorded. problem: why it cannot be evaluated."""

    run: RunFolder
    prompt: str
    seed: int
    seconds: float | None = None
    gib: float | None = None
    problem: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def subjects_in(path: Path) -> list[Subject]:
    """The run in a folder, or all runs of a batch. Raises UserError if there is neither."""
    if (path / "config.yaml").is_file() or not (path / "jobs").is_dir():
        run = find_run(path)
        config = run.read_config()
        return [Subject(run, config.prompt, config.seed)]
    found = []
    for folder in find_batch(path).jobs().values():
        job, state, done = folder.read(), folder.state(), read_json(folder.done_file)
        cost, settings = (done.get("seconds"), done.get("peak_gib")), flat(job.settings or {})
        run, problem = folder.result, None
        if state is not State.done:
            run, problem = RunFolder(folder.path / "run"), f"the job is not done: {state.value}"
        found.append(Subject(run, job.prompt, job.seed, *cost, problem, dict(settings)))
    if not found:
        raise UserError(f"{path} contains no jobs")
    return found


def variants_of(subjects: Sequence[Subject]) -> list[str]:
    """For each run, the values of the settings that differ between runs, as text."""
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


def retrieve(scores: Tensor) -> tuple[float, float]:
    """The share of views in which the prompt scores highest, and the mean over views of its score
    minus that of the best distractor, in logits.

    scores: (views, 1 + distractors), whose first column belongs to the prompt, with at least one
    distractor. A distractor with the same score as the prompt counts as a better match, so that
    constant scores do not count as one.
    """
    margins = scores[:, 0] - scores[:, 1:].max(dim=1).values
    return float((margins > 0).float().mean()), float(margins.mean())


def distractors_for(judge: Judge, prompt: str, others: Sequence[str], look: Look) -> list[str]:
    """The texts among `others` whose meaning differs from the prompt's, one per meaning."""
    own = judge.meaning(prompt, look)
    by_meaning = {judge.meaning(text, look): text for text in others}
    return [text for meaning, text in by_meaning.items() if meaning != own]


def images_of(scene: Scene, config: Config, *, views: int, size: int) -> dict[Look, Tensor]:
    """Views (views, size, size, 3) around the object on white, front first, for each look. Raises
    UserError for an empty scene."""
    cameras = show_cameras(views, config.camera, elevation_deg=ELEVATION_DEG)
    draw = draw_scene(scene)
    drawn = {look: draw(cameras, size, mode) for look, mode in MODES.items()}
    if float(drawn["color"][..., 3].mean()) < LEAST_OPACITY:
        raise UserError("the scene is empty")
    return {look: over(rgba, torch.ones(3)) for look, rgba in drawn.items()}


@dataclass(frozen=True)
class Row:
    """Metrics of a run; None if not measured, as explained by `reason`.

    variant: the settings in which the run differs from others of its batch
    ("estimator.guidance=8"). r1_LOOK: share of views that retrieve the prompt. margin: of
    shaded images; see `retrieve`. iou to held_out: see `truth.Truth`.
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
    margin: float | None = None
    fronts: int | None = None
    pieces: int | None = None
    watertight: bool | None = None
    mesh_psnr_db: float | None = None
    iou: float | None = None
    color_error: float | None = None
    saturation: float | None = None
    normal_error_deg: float | None = None
    yaw_deg: float | None = None
    scale: float | None = None
    held_out: bool | None = None
    seconds: float | None = None
    gib: float | None = None
    reason: str = ""


COLUMNS = tuple(one.name for one in fields(Row))


def judge_run(
    subject: Subject,
    judges: Sequence[tuple[Judge, Sequence[str]]],
    *,
    variant: str = "",
    views: int = VIEWS,
    truth: bool = False,
) -> list[Row]:
    """Evaluate a run: a row for each judge. judges: with their texts for R-Precision.

    truth: compare its mesh with the toy world's object. Errors are recorded in the rows.
    """
    found: dict[str, Any] = {}
    reasons = [] if subject.problem is None else [subject.problem]
    images: Mapping[Look, Tensor] = {}
    saved = None
    if subject.problem is None:
        try:
            config = subject.run.read_config()
            saved = load_scene(subject.run, config)
            size = max(judge.size for judge, _ in judges)
            images = images_of(saved.scene, config, views=views, size=size)
            sheet = contact_sheet(torch.cat(list(images.values())), columns=views, gap=0)
            write_png(sheet, subject.run.path / VIEWS_IMAGE)
        except UserError as error:
            reasons.append(str(error))
        try:
            found |= mesh_figures(subject.run.mesh / "model.glb", subject.prompt if truth else None)
        except UserError as error:
            reasons.append(str(error))
            if truth and saved is not None and saved.step >= config.steps:
                found["iou"] = 0.0  # a finished run without a mesh: the scene stayed empty
    seconds = subject.seconds
    if seconds is None:
        seconds = sum(step.get("seconds", 0.0) for step in read_metrics(subject.run.metrics))
    rows = []
    for judge, others in judges:
        scores, problems = {}, list(reasons)
        if images:
            try:
                scores = judge_images(judge, subject.prompt, images, others)
            except UserError as error:
                problems.append(str(error))
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
                **scores,
                seconds=seconds or None,
                gib=subject.gib,
                reason="; ".join(problems),
            )
        )
    return rows


def judge_images(
    judge: Judge, prompt: str, images: Mapping[Look, Tensor], others: Sequence[str]
) -> dict[str, Any]:
    """The judge's columns for views of each look. Raises UserError without a distractor."""
    found: dict[str, Any] = {}
    for look in LOOKS:
        distractors = distractors_for(judge, prompt, others, look)
        if not distractors:
            raise UserError(_NO_DISTRACTORS)
        scores = judge.scores(images[look], [prompt, *distractors], look)
        found[f"r1_{look}"], margin = retrieve(scores)
        if look == "shaded":
            found |= {"margin": margin, "distractors": len(distractors)}
    return found | {"fronts": judge.fronts(prompt, images["shaded"])}


def mesh_figures(file: Path, prompt: str | None = None) -> dict[str, Any]:
    """The columns of the mesh; with a prompt, including its comparison with the toy world's object.
    Raises MeshError if there is no mesh, JudgeError if the toy world lacks the prompt."""
    if not file.is_file():
        raise MeshError(f"no such mesh: {file}")
    mesh, origin = read_glb(file)
    shape = topology(mesh.vertices, mesh.faces)
    figures = {
        "pieces": shape.components,
        "watertight": shape.watertight,
        "mesh_psnr_db": None if origin is None else origin.psnr_db,
    }
    if prompt is not None:
        placed = mesh if origin is None else moved(mesh, origin.moved_from)
        figures |= vars(compare_with_truth(placed, make_object(*read_pair(prompt))))
    return figures


def write_beside_run(row: Row) -> None:
    """Save a row in the folder of its run, for its report."""
    write_json(Path(row.run) / EVALUATION, vars(row))
