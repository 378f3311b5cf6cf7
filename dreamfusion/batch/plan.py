"""Turns a list of prompts into jobs: all are validated and resolved before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.batch.engines import ResourceRequest
from dreamfusion.batch.engines.local import visible_gpus
from dreamfusion.batch.jobs import Job
from dreamfusion.batch.prompts import BatchError, Entry, each
from dreamfusion.config.layers import Layer, build_config, given, to_mapping
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import read_settings
from dreamfusion.priors import PriorSettings
from dreamfusion.priors.memory import estimate_memory
from dreamfusion.runs.plan import find_prior, plan_run
from dreamfusion.utils.errors import UserError

GIB = 2**30
# Memory of a run besides the prior's weights: measured on the CPU, with the default settings of the
# embedded prior.
BASE_MEMORY = int(1.1 * GIB)
# GPU memory for CUDA itself, the scene and its images: an estimate, not measured.
GPU_BASE_MEMORY = 3 * GIB


@dataclass(frozen=True)
class Options:
    """Options of a command, for entries that do not set their own.

    seeds: number of seeds for an entry without a seed, counted up from `seed`. settings: nested;
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
    """The jobs of all entries, seeds and settings, without duplicates.

    Raises BatchError, which reports all invalid prompts and settings at once.
    """
    asked = [
        (entry, grid, seed)
        for entry in entries
        for grid in options.settings
        for seed in (
            range(options.seed, options.seed + options.seeds)
            if entry.seed is None
            else [entry.seed]
        )
    ]
    resolved: dict[str, Any] = {}

    def make(one: tuple[Entry, Mapping[str, Any], int]) -> Job:
        entry, grid, seed = one
        try:
            return _job(entry, grid, seed, options, resolved)
        except UserError as error:
            message, brief = f"{entry.where}: {error}", f"{entry.where}: {error.brief}"
            raise BatchError(message, brief=brief) from None

    jobs = each(asked, make)
    return list({job.id: job for job in jobs}.values())


def _job(
    entry: Entry, grid: Mapping[str, Any], seed: int, options: Options, resolved: dict[str, Any]
) -> Job:
    """One job. resolved: cache of configurations without the seed."""
    config = entry.preset or options.config
    above = given(steps=options.steps, device=options.device, prior=options.prior)
    # The settings of the entry override those of the command.
    settings = merged(merged(above, grid), entry.settings)
    name = settings.get("prior", {}).get("name")
    if name is not None and Path(name).expanduser().is_dir():
        settings["prior"]["name"] = str(Path(name).expanduser().resolve())  # in any working folder
    key = repr((entry.prompt, config, settings))
    if key not in resolved:
        resolved[key] = _resolve(entry.prompt, config, settings)
    settings = merged(settings, {"prior": {"name": resolved[key]["prior"]["name"]}})
    is_file = config is not None and (
        Path(config).is_file() or Path(config).suffix in (".yaml", ".yml")
    )
    return Job(
        prompt=entry.prompt,
        seed=seed,
        threads=options.threads,
        config=resolved[key] | {"seed": seed},
        preset=None if is_file else config,
        file=Path(config).read_text(encoding="utf-8") if config and is_file else None,
        settings=settings,
    )


def _resolve(prompt: str, preset: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings but the seed. The prior "auto" is resolved here, since it might mean another
    prior on another machine."""
    layers = [Layer("settings", settings), Layer("batch", {"prompt": prompt})]
    base = [] if preset is None else read_settings(preset)
    if build_config(*base, *layers).prior.name == "auto" and not may_have_cuda():
        layers.append(Layer("this machine", {"prior": {"name": "embedded"}}))
    plan = plan_run(layers, preset=preset)
    assert plan.prior is not None
    config = to_mapping(plan.config)
    return config | {"prior": config["prior"] | {"name": plan.prior.name}}


def may_have_cuda() -> bool:
    """Whether an NVIDIA driver is present, so that only torch can tell if there is a GPU."""
    return any(Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/kfd", "/dev/dxg"))


def request_of(jobs: Sequence[Job]) -> ResourceRequest:
    """The resources that the largest of these jobs needs; GPU memory by the prior's estimate."""
    memory, gpu_memory, gpus = 0, 0, bool(visible_gpus())
    asked = {
        repr((job.config["prior"], job.config["device"], job.config["camera"]["views"])): job
        for job in jobs
    }
    for job in asked.values():
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
