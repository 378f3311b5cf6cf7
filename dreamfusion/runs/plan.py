"""Plans a run before heavy imports: finds the prior, merges settings and parses the prompt."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.config.layers import ConfigError, Layer, build_config, given, to_mapping
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import read_settings, tuned_preset
from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.priors import PriorError, PriorSettings, ResolvedPrior, resolve_prior
from dreamfusion.priors.identity import PriorIdentity, has_weights, read_identity
from dreamfusion.priors.reading import PromptError
from dreamfusion.runs.folder import RunFolder, Stage, find_run, stages_of
from dreamfusion.runs.metrics import require_tensorboard
from dreamfusion.utils.errors import command

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior

FoundPrior = ResolvedPrior | PriorSettings


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is ready to start.

    prior: found on disk, or already loaded. canonical_prompt: in the vocabulary of the prior.
    """

    stage: Stage
    prior: FoundPrior | Prior
    canonical_prompt: str


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    config: all settings. layers: their sources above the defaults, lowest first. stages: the
    optimisations; the first one uses the configuration itself.
    """

    config: Config
    layers: tuple[Layer, ...]
    stages: tuple[PlannedStage, ...]

    @property
    def prior(self) -> FoundPrior | None:
        """The first stage's prior; None if it is already loaded."""
        found = self.stages[0].prior
        return found if isinstance(found, FoundPrior) else None

    @property
    def canonical_prompt(self) -> str:
        """The first stage's prompt in the vocabulary of its prior."""
        return self.stages[0].canonical_prompt


def plan_run(
    layers: Sequence[Layer], *, preset: str | None = None, prior: Prior | None = None
) -> Plan:
    """Plan the run that these layers describe.

    preset: a preset or a settings file below the layers; None takes the default preset of the
    prior. The settings on the prior's card are below all of these. prior: if already loaded.

    Raises ConfigError, PriorError or PromptError with a message of one line.
    """
    base = [] if preset is None else read_settings(preset)
    found: FoundPrior | Prior | None = prior
    requested = build_config(*base, *layers)
    if found is None:
        found = find_prior(requested.prior, requested.device)
    if preset is None:
        named = str(getattr(found, "preset", "embedded"))
        scene, estimator = requested.scene.name, requested.estimator.name
        base = read_settings(tuned_preset(named, scene, estimator))
    config, all_layers = _with_card(found, [*base, *layers])
    return plan_again(config, all_layers, prior=found)


def plan_again(
    config: Config, layers: Sequence[Layer] = (), *, prior: FoundPrior | Prior | None = None
) -> Plan:
    """Validate a complete configuration and return its plan. prior: the first stage's, if known."""
    if config.logging.tensorboard:
        require_tensorboard()
    planned = []
    for stage in stages_of(config):
        settings = stage.config
        settings.scene.require_files()  # type: ignore[attr-defined]
        known = prior if settings.prior == config.prior else None
        found = find_prior(settings.prior, settings.device) if known is None else known
        vocabulary = found.card.vocabulary
        if settings.prior.negative_prompt:
            try:
                vocabulary.require_known(settings.prior.negative_prompt)
            except PromptError as error:
                message, brief = (f"prior.negative_prompt: {text}" for text in (error, error.brief))
                raise PromptError(message, brief=brief) from None
        planned.append(PlannedStage(stage, found, vocabulary.canonical(settings.prompt)))
    return Plan(config, tuple(layers), tuple(planned))


def plan_resumed(
    run: RunFolder,
    *,
    steps: int | None = None,
    device: str | None = None,
    prior: str | Prior | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan to resume a run. prior: the new location of its prior, or the loaded prior. settings:
    nested, to change from here on. Raises PriorError if the weights differ, or if the prior is no
    longer at its old location, and ConfigError for a setting that cannot be changed."""
    settings = {} if settings is None else settings
    if fixed := sorted({"prompt", "seed", "steps", "start", "stages"} & set(settings)):
        raise ConfigError(
            f"a resumed run keeps its {fixed[0]}: "
            + ("use --steps" if fixed == ["steps"] else "start a new run instead")
        )
    moved, loaded = (prior, None) if isinstance(prior, str) else (None, prior)
    config = run.read_config()
    changes = merged(config.with_steps(steps) | given(device=device, prior=moved), settings)
    config = build_config(to_mapping(config), changes)
    location = Path(config.prior.name)
    if loaded is None and location.is_absolute() and not location.exists():
        raise PriorError(
            f"the prior of {run.path} is no longer at {location}; pass its new folder: "
            + command("resume", run.path, "--prior", "PATH")
        )
    layers = run.read_layers()
    if changes:
        used = {layer.name for layer in layers}
        names = ("resume" if n == 1 else f"resume {n}" for n in itertools.count(1))
        layers.append(Layer(next(name for name in names if name not in used), changes))
    plan = plan_again(config, layers, prior=loaded)
    for planned in plan.stages if moved is not None else ():
        if before := prior_before(run, planned):
            raise PriorError(
                f"{moved} has other weights than the prior of {run.path}, {before.id}; pass a copy "
                "of that prior, or start a new run with `dreamfusion train --prior`"
            )
    return plan


def prior_before(run: RunFolder, planned: PlannedStage) -> PriorIdentity | None:
    """The prior that a stage was started with, if the planned one is known to differ."""
    known, found = read_identity(planned.stage.folder(run).prior), planned.prior
    if known is None or known.weights is None or not isinstance(found, ResolvedPrior):
        return None
    return None if has_weights(found, known.weights) else known


def find_prior(options: PriorConfig, device: str) -> FoundPrior:
    """Find the prior of the settings; without heavy imports if it is local. Raises PriorError."""
    if isinstance(options, PriorSettings):
        if options.lora:
            raise PriorError(f"the prior {options.name} takes no LoRA files")
        return options
    if options.name != "embedded" and not Path(options.name).is_dir():
        # The meaning of `auto`, and the files to download from the hub, depend on the device.
        from dreamfusion.utils.devices import choose_device

        device = choose_device(device)
    return resolve_prior(options.name, device=device, dtype=options.dtype, loras=options.lora)


def _with_card(prior: FoundPrior | Prior, layers: Sequence[Layer]) -> tuple[Config, list[Layer]]:
    """The configuration of these layers above the settings on the prior's card, and all layers.

    The settings of a scene are above files and presets, and below the user's options.
    """
    on_card = prior.card.settings
    all_layers = [Layer(f"prior {prior.name}", on_card)] if on_card else []
    all_layers += layers
    scene: Any = build_config(*all_layers).scene
    if extra := scene.layer():
        of_user = (i for i, layer in enumerate(all_layers) if not layer.name.startswith(_FILES))
        all_layers.insert(next(of_user, len(all_layers)), Layer(f"scene {scene.name}", extra))
    config = build_config(*all_layers)
    if config.start:
        find_run(Path(config.start))
    return config, all_layers


_FILES = ("prior ", "preset ", "file ")
