"""Links to the finished models of a batch: DIR/a-blue-mug.glb."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dreamfusion.batch.jobs import BatchFolder, State
from dreamfusion.runs.folder import slug
from dreamfusion.utils.files import make_link


def link_names(prompts: Iterable[str]) -> dict[str, str]:
    """A name for each prompt: its slug, with part of a hash if several prompts have the same."""
    slugs = {prompt: slug(prompt) for prompt in prompts}
    shared = Counter(slugs.values())
    for prompt, name in slugs.items():
        if shared[name] > 1:
            slugs[prompt] = f"{name}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    return slugs


def link_models(batch_folder: BatchFolder) -> list[Path]:
    """Link the models of all finished jobs in the folder of the batch, and return the links.

    A prompt with one job has PROMPT.glb, with several jobs PROMPT-sSEED.glb for each, or the name
    of the job if a seed occurs twice, and PROMPT.glb for the best one, if chosen (DIR/best/PROMPT).
    Files that are no links are not replaced.
    """
    jobs = [(folder.read(), folder) for folder in batch_folder.jobs().values()]
    names = link_names(job.prompt for job, _ in jobs)
    of_prompt = Counter(job.prompt for job, _ in jobs)
    of_seed = Counter((job.prompt, job.seed) for job, _ in jobs)
    models: dict[str, Path] = {}
    for job, folder in jobs:
        model, name = folder.result.mesh / "model.glb", names[job.prompt]
        if folder.state() is not State.done or not model.is_file():
            continue
        if of_seed[job.prompt, job.seed] > 1:
            models[folder.path.name] = model
        elif of_prompt[job.prompt] > 1:
            models[f"{name}-s{job.seed}"] = model
        best = batch_folder.path / "best" / name
        if of_prompt[job.prompt] == 1 or best.resolve() == folder.result.path.resolve():
            models[name] = model
    for old in batch_folder.path.glob("*.glb"):
        if old.is_symlink() and old.stem not in models:
            old.unlink()
    links = {batch_folder.path / f"{name}.glb": model for name, model in models.items()}
    return [
        make_link(link, model)
        for link, model in links.items()
        if link.is_symlink() or not link.exists()
    ]
