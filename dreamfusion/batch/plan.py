"""Converts a list of prompts to jobs, which are all validated before the first one starts."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.batch.engines import ResourceRequest
from dreamfusion.batch.engines.local import GIB, visible_gpus
from dreamfusion.batch.jobs import Job
from dreamfusion.batch.prompts import BatchError, Entry, make_all
from dreamfusion.config.layers import Layer, build_config, given, to_mapping
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import read_settings
from dreamfusion.priors import PriorSettings
from dreamfusion.priors.memory import estimate_memory
from dreamfusion.runs.plan import find_prior, plan_run
from dreamfusion.utils.errors import UserError

# Memory of a run in addition to the prior's weights, measured on a CPU with the embedded prior.
BASE_MEMORY = int(1.1 * GIB)
# GPU memory for CUDA, the scene and its images: an estimate, not measured.
GPU_BASE_MEMORY = 3 * GIB


@dataclass(frozen=True)
class Options:
    """Default options for the entries of a list.

    seeds: number of seeds of an entry without a seed, counted up from `seed`. settings: nested;
    each item makes a separate job. config: a preset or a settings file.
    """

    seeds: int = 1
    seed: int = 0
    steps: int | None = None
    config: str | None = None
    prior: str | None = None
    device: str | None = None
    threads: int = 1
    settings: Sequence[Mapping[str, Any]] = ({},)


def plan_jobs(entries: Sequence[Entry], options: Options) -> list[Job]:
    """The jobs for all combinations of entries, seeds and settings, without duplicates. Raises
    BatchError, which reports all invalid prompts and settings at once."""

    def make(pair: tuple[Entry, Mapping[str, Any]]) -> list[Job]:
        where = pair[0].where
        try:
            return _jobs(*pair, options)
        except UserError as error:
            raise BatchError(f"{where}: {error}", brief=f"{where}: {error.brief}") from None

    made = make_all(list(itertools.product(entries, options.settings)), make)
    return list({job.id: job for jobs in made for job in jobs}.values())


def _jobs(entry: Entry, grid: Mapping[str, Any], options: Options) -> list[Job]:
    """The jobs of an entry with all its seeds."""
    preset, file = entry.preset or options.config, None
    defaults = given(steps=options.steps, device=options.device, prior=options.prior)
    settings = merged(merged(defaults, grid), entry.settings)
    name = settings.get("prior", {}).get("name")
    if name is not None and Path(name).expanduser().is_dir():
        # Make the path independent of the working directory.
        settings["prior"]["name"] = str(Path(name).expanduser().resolve())
    config = _resolve(entry.prompt, preset, settings)
    settings = merged(settings, {"prior": {"name": config["prior"]["name"]}})
    if preset is not None and Path(preset).is_file():
        file, preset = Path(preset).read_text(encoding="utf-8"), None
    seeds: Sequence[int] = range(options.seed, options.seed + options.seeds)
    return [
        Job(entry.prompt, seed, options.threads, config | {"seed": seed}, preset, file, settings)
        for seed in (seeds if entry.seed is None else [entry.seed])
    ]


def _resolve(prompt: str, preset: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings except the seed. The prior "auto", which depends on the machine, is resolved."""
    layers = [Layer("settings", settings), Layer("batch", {"prompt": prompt})]
    base = [] if preset is None else read_settings(preset)
    # If a GPU driver is present, only torch can determine whether there is a GPU.
    drivers = ("/proc/driver/nvidia", "/dev/kfd", "/dev/dxg")
    may_have_gpu = any(Path(path).exists() for path in drivers)
    if build_config(*base, *layers).prior.name == "auto" and not may_have_gpu:
        layers.append(Layer("this machine", {"prior": {"name": "embedded"}}))
    plan = plan_run(layers, preset=preset)
    assert plan.prior is not None
    config = to_mapping(plan.config)
    return config | {"prior": config["prior"] | {"name": plan.prior.name}}


def request_of(jobs: Sequence[Job]) -> ResourceRequest:
    """The resources of the largest of these jobs, with the estimated GPU memory of its prior."""
    memory, gpu_memory, gpus = 0, 0, bool(visible_gpus())
    distinct = {
        repr((job.config["prior"], job.config["device"], job.config["camera"]["views"])): job
        for job in jobs
    }
    for job in distinct.values():
        config = build_config(job.config)
        prior = find_prior(config.prior, config.device)
        on_gpu = config.device.startswith("cuda") or (config.device == "auto" and gpus)
        if isinstance(prior, PriorSettings):  # its memory is unknown
            memory = max(memory, BASE_MEMORY)
            continue
        memory = max(memory, BASE_MEMORY + sum(prior.weights.values()) * (2 if on_gpu else 4))
        if on_gpu:
            estimate = estimate_memory(
                prior,
                config.prior,
                views=config.camera.views,
                precision=4 if config.prior.dtype == "float32" else 2,
                vae_precision=4 if config.prior.vae_dtype in ("auto", "float32") else 2,
                prepared=True,
            )
            gpu_memory = max(gpu_memory, GPU_BASE_MEMORY + estimate)
    return ResourceRequest(max(job.threads for job in jobs), memory, gpu_memory)
