"""What the page shows and does: the jobs of a batch, or one run. Imports no torch.

Every answer is read from the folder. Names of jobs come from its list, so that no request reaches a
file outside of it.
"""

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from dreamfusion.batch.driver import prepare
from dreamfusion.batch.jobs import BatchFolder, JobFolder, Progress, State, progress_of
from dreamfusion.batch.links import link_models, link_names
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.config.layers import build_config, given
from dreamfusion.mesh import printing
from dreamfusion.priors import PriorSettings
from dreamfusion.priors.reading import PromptError
from dreamfusion.runs.folder import RunFolder, slug
from dreamfusion.runs.metrics import log_age, read_metrics
from dreamfusion.runs.plan import find_prior
from dreamfusion.scenes.mesh.model import read_model, require_kind
from dreamfusion.scenes.mesh.settings import MeshSettings
from dreamfusion.studio.queue import Queue
from dreamfusion.utils.duration import duration
from dreamfusion.utils.errors import UserError, one_line
from dreamfusion.utils.files import make_link, write_bytes

MOST_SEEDS = 8
UPLOADS = (".glb", ".obj", ".ply", ".stl")  # not .3mf: a small one may unpack to a huge one
EXPORTS = ("glb", "obj", "ply", "stl", "3mf", "usdz")
_EXPORT_SECONDS = 900.0
_one_export = threading.Lock()  # an export needs as much memory as a run
_LIVE_SECONDS = 15.0  # a run with a more recent log is training
_PREVIEW_EVERY = 10  # steps; the page shows how the scene forms


class RequestError(UserError):
    """A request that the page cannot send, as with an unknown job, option or value."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> None:
        super().__init__(message)
        self.status = status


class SingleRun:
    """One run, as `dreamfusion view` and `dreamfusion train --view` show it."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def state(self) -> dict[str, Any]:
        """What the page shows, for JSON: the run as its only job, or none before it is written."""
        run = self._run
        if not run.config.is_file():
            return {"title": run.path.name, "jobs": []}
        config, metrics = run.read_config(), read_metrics(run.metrics, most_bytes=20_000)
        step = int(metrics[-1]["step"]) if metrics else 0
        live = log_age(run.metrics) < _LIVE_SECONDS
        done = step >= config.steps and (run.mesh / "model.glb").is_file()
        state = State.done if done else State.running if live else State.resumable
        previews = run.preview_files()
        progress = Progress(
            name="run", prompt=config.prompt, seed=config.seed, state=state, step=step,
            steps=config.steps, run=run.path, preview=previews[-1] if previews else None,
        )  # fmt: skip
        return {"title": run.path.name, "jobs": [_entry(progress)]}

    def run(self, name: str) -> RunFolder:
        """The run. Raises RequestError for an unknown name."""
        if name != "run":
            raise RequestError(f"there is no job {one_line(name, 80)}")
        return self._run

    def act(self, action: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Export the run; there is no other action. Raises UserError."""
        if action != "export":
            raise RequestError(f"a single run has no action {one_line(action, 80)}")
        return export(self._run, options)


class Studio:
    """The jobs of a batch and its queue. options: for new jobs. Raises PriorError, ConfigError."""

    def __init__(self, batch_folder: BatchFolder, queue: Queue, options: Options) -> None:
        self._batch_folder, self._queue, self._options = batch_folder, queue, options
        chosen = build_config(given(prior=options.prior or "auto", device=options.device))
        prior = find_prior(chosen.prior, chosen.device)
        if isinstance(prior, PriorSettings):
            raise UserError(f"the studio needs a prior for text, not {prior.name}")
        self._vocabulary = prior.card.vocabulary
        self._meshes = batch_folder.path / "meshes"

    def state(self) -> dict[str, Any]:
        """What the page shows, for JSON. "jobs" has an entry for each job, newest first."""
        folders = self._batch_folder.jobs().values()
        best = {link.resolve() for link in (self._batch_folder.path / "best").glob("*")}
        newest = sorted(folders, key=lambda f: f.job_file.stat().st_mtime, reverse=True)
        jobs = [progress_of(folder) for folder in newest]
        words = self._vocabulary.words
        return {
            "title": self._batch_folder.path.name,
            "problem": self._queue.problem,
            "groups": {} if words is None else words.groups or {"objects": words.nouns},
            "colors": () if words is None else words.colors,
            "jobs": [_entry(job, best=job.run.resolve() in best) for job in jobs],
        }

    def run(self, name: str) -> RunFolder:
        """The run of a job. Raises RequestError for an unknown name."""
        folder = self._folder(name)
        run = folder.result if folder.state() is State.done else folder.run
        if not run.path.resolve().is_relative_to(self._batch_folder.path):
            raise RequestError(f"the run of {folder.path.name} is outside of this folder")
        return run

    def act(self, action: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a visitor asks for, and return the answer. Raises UserError."""
        if action == "check":
            return self._check(options)
        if action == "make":
            return self._make(options)
        folder = self._folder(_text(options, "job"))
        if action == "export":
            return export(self.run(folder.path.name), options)
        if action == "stop":
            folder.stop_file.touch()
        elif action == "resume":  # a stopped job, or a failed one
            folder.stop_file.unlink(missing_ok=True)
            folder.reset_retries()
            self._queue.notify()
        elif action == "pick":
            self._pick(folder)
        else:
            raise RequestError(f"there is no action {one_line(action, 80)}")
        return {}

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Keep a mesh to paint, under a name of its content in DIR/meshes. Raises MeshError if it
        cannot be painted."""
        suffix = Path(name).suffix.lower()
        if suffix not in UPLOADS:
            raise RequestError(f"the formats are {', '.join(UPLOADS)}; not {one_line(name, 40)}")
        require_kind(content, suffix)
        stored = f"{slug(Path(name).stem)}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
        target = self._meshes / stored
        write_bytes(target, content)
        try:
            read_model(MeshSettings(file=str(target)))
        except UserError as error:
            target.unlink()
            raise UserError(str(error).replace(str(target), one_line(name, 80))) from None
        return {"mesh": stored}

    def _folder(self, name: str) -> JobFolder:
        try:
            return self._batch_folder.jobs()[name]
        except KeyError:
            raise RequestError(f"there is no job {one_line(name, 80)}") from None

    def _check(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"reading": self._vocabulary.canonical(_text(asked, "prompt"))}
        except PromptError as error:  # in brief, since the page lists all words
            return {"advice": f"{error.brief}."}

    def _make(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Add jobs for a prompt, with seeds that it does not have yet."""
        prompt, seeds = _text(asked, "prompt").strip(), _number(asked, "seeds", 1, MOST_SEEDS)
        steps = _number(asked, "steps", 1, 100_000) if asked.get("steps") else self._options.steps
        before = [folder.read() for folder in self._batch_folder.jobs().values()]
        first = max((job.seed + 1 for job in before if job.prompt == prompt), default=0)
        settings: dict[str, Any] = {"output": {"preview_every": _PREVIEW_EVERY}}
        if mesh := _text(asked, "mesh") if asked.get("mesh") else "":
            if mesh not in {file.name for file in self._meshes.glob("*")}:
                raise RequestError(f"there is no mesh {one_line(mesh, 80)}")
            up, front = (
                _text(asked, key) if asked.get(key) else default
                for key, default in (("up", "+y"), ("front", "+z"))
            )
            file = str(self._meshes / mesh)
            settings["scene"] = {"name": "mesh", "file": file, "up": up, "front": front}
        options = Options(**{**vars(self._options), "seed": first, "seeds": seeds or 1,
                             "steps": steps, "settings": [settings]})  # fmt: skip
        jobs = plan_jobs([Entry("the prompt", prompt)], options)
        folders = prepare(self._batch_folder, jobs)
        self._queue.notify()
        return {"jobs": [folder.path.name for folder in folders]}

    def _pick(self, folder: JobFolder) -> None:
        """Make a finished job the best one of its prompt: DIR/best/PROMPT, and DIR/PROMPT.glb."""
        if folder.state() is not State.done:
            raise RequestError("only a finished object can be picked")
        jobs = self._batch_folder.jobs().values()
        name = link_names(job.read().prompt for job in jobs)[folder.read().prompt]
        link = self._batch_folder.path / "best" / name
        link.parent.mkdir(exist_ok=True)
        make_link(link, folder.result.path)
        link_models(self._batch_folder)


Library = SingleRun | Studio


def export(run: RunFolder, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Write the mesh of a run into its folder with `dreamfusion export`, in another process, and
    return the name of the file in DIR/mesh. Raises UserError with the error of the command.

    asked: format, faces, texture (texels) and mm (the size of a print); all but format may be
    absent.
    """
    kind = _text(asked, "format")
    if kind not in EXPORTS:
        raise RequestError(f"the formats are {', '.join(EXPORTS)}; not {one_line(kind, 40)}")
    size, faces = _number(asked, "mm", 1, 2000), _number(asked, "faces", 4, 10_000_000)
    texture = _number(asked, "texture", 0, 16384)
    chosen: dict[str, Any] = {"--faces": faces, "--texture": texture}
    if kind in printing.FORMATS and (kind != "stl" or size is not None):
        chosen = {"--for": "print", "--size-mm": size or 80}
    words = [w for key, value in chosen.items() if value is not None for w in (key, str(value))]
    target = run.mesh / f"{slug(run.read_config().prompt)}.{kind}"
    command = [sys.executable, "-m", "dreamfusion", "export", str(run.path), "--quiet", *words]
    try:
        with _one_export:
            done = subprocess.run(
                [*command, "-o", str(target)],
                capture_output=True, text=True, timeout=_EXPORT_SECONDS, stdin=subprocess.DEVNULL,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError("the export took too long: ask for fewer faces") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(one_line(lines[-1].removeprefix("error: "), 300))
    files = [Path(line) for line in done.stdout.splitlines()]
    if len(files) == 1:
        return {"file": target.name}
    archive = target.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.name)
    return {"file": archive.name}


def _entry(job: Progress, *, best: bool = False) -> dict[str, Any]:
    """A job for the page. model, preview: change whenever the file changes; None without it."""
    run = RunFolder(job.run)
    return {
        "name": job.name,
        "prompt": job.prompt,
        "seed": job.seed,
        "state": job.state.value,
        "step": job.step,
        "steps": job.steps,
        "left": None if job.left_seconds is None else duration(job.left_seconds),
        "error": job.error,
        "best": best,
        "preview": None if job.preview is None else job.preview.stem,
        "model": _changed(run.mesh / "model.glb") if job.state is State.done else None,
        "thumbnail": _changed(run.thumbnail),
        "painted": (run.mesh / "painted.glb").is_file(),
        "splats": (run.mesh / "splats.ply").is_file(),
    }


def _changed(path: Path) -> str | None:
    return str(path.stat().st_mtime_ns) if path.exists() else None


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked.get(key)
    if not isinstance(value, str) or len(value) > 1000:
        raise RequestError(f"{key} must be text of at most 1000 characters")
    return value


def _number(asked: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = asked.get(key)
    if value in (None, ""):
        return None
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{key} must be a whole number from {low:,} to {high:,}")
    return value
