"""What a run will be, before anything heavy is imported: its prior is found, its settings are put
together, its prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.config.layers import Layer, build_config
from dreamfusion.config.presets import preset_for, read_settings, tuned_preset
from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.priors import PluginPrior, PriorCard, PriorSettings, ResolvedPrior, resolve_prior
from dreamfusion.priors.identity import PriorIdentity, has_weights, read_identity
from dreamfusion.priors.reading import PromptError
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.runs.stages import Stage, stages_of
from dreamfusion.runs.tensorboard import require_tensorboard

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior

FoundPrior = ResolvedPrior | PluginPrior


@dataclass(frozen=True)
class PlannedStage:
    """A stage that could start.

    prior: the one that was found, None for one that is loaded already. canonical_prompt: the prompt
    in the prior's own words.
    """

    stage: Stage
    prior: FoundPrior | None
    canonical_prompt: str


@dataclass(frozen=True)
class Plan:
    """A run that could start.

    config: every setting. layers: where they come from, lowest first; the defaults are below all.
    stages: its optimisations; the first is the configuration's own.
    """

    config: Config
    layers: tuple[Layer, ...]
    stages: tuple[PlannedStage, ...]

    @property
    def prior(self) -> FoundPrior | None:
        """The first stage's prior."""
        return self.stages[0].prior

    @property
    def canonical_prompt(self) -> str:
        """The first stage's prompt in its prior's own words."""
        return self.stages[0].canonical_prompt


def plan_run(layers: Sequence[Layer], *, preset: str | None = None) -> Plan:
    """The run that these layers ask for, over a preset or settings file; None takes the one that
    suits the prior. What the prior's card knows stands below all of them.

    Raises ConfigError, PriorError or PromptError, one line that says what is wrong.
    """
    base = [] if preset is None else read_settings(preset)
    wanted = build_config(*base, *layers)
    prior = find_prior(wanted.prior, wanted.device)
    if preset is None:
        base = read_settings(tuned_preset(prior.preset, wanted.estimator.name))
    config, whole = _with_card(prior.name, prior.card, [*base, *layers])
    return _plan(config, whole, prior)


def plan_of_loaded(prior: Prior, layers: Sequence[Layer], *, preset: str | None = None) -> Plan:
    """As `plan_run`, for a prior that is loaded."""
    has_card = prior.card.vocabulary.words is not None
    pipeline = getattr(prior, "pipeline", None)
    suits = "embedded" if pipeline is None else preset_for(pipeline, has_card=has_card)
    base = read_settings(preset or suits)
    config, whole = _with_card(prior.name, prior.card, [*base, *layers])
    return _plan(config, whole, loaded=prior)


def plan_again(config: Config, layers: Sequence[Layer] = (), *, prior: Prior | None = None) -> Plan:
    """The plan of a run whose configuration is whole, to be resumed. prior: if it is loaded."""
    return _plan(config, tuple(layers), loaded=prior)


def prior_before(run: RunFolder, planned: PlannedStage) -> PriorIdentity | None:
    """The prior that a stage was begun with, where the planned one is known to be another."""
    known, found = read_identity(planned.stage.folder(run).prior), planned.prior
    if known is None or known.weights is None or not isinstance(found, ResolvedPrior):
        return None
    return None if has_weights(found, known.weights) else known


def find_prior(options: PriorConfig, device: str) -> FoundPrior:
    """The prior that the settings name; nothing heavy is imported for one that lies here."""
    if isinstance(options, PriorSettings):
        return PluginPrior(options)
    if options.name != "embedded" and not Path(options.name).is_dir():
        # What `auto` means, and which files of a hub's model are fetched, depends on the device.
        from dreamfusion.utils.devices import choose_device

        device = choose_device(device)
    return resolve_prior(options.name, device=device, dtype=options.dtype)


def _plan(
    config: Config,
    layers: tuple[Layer, ...],
    found: FoundPrior | None = None,
    loaded: Prior | None = None,
) -> Plan:
    """The plan, once what would stop the run is ruled out. found, loaded: the first stage's
    prior."""
    if config.logging.tensorboard:
        require_tensorboard()
    planned = []
    for stage in stages_of(config):
        own = stage.config
        prior: Any = loaded if own.prior == config.prior else None
        if prior is None:
            same = found is not None and own.prior == config.prior
            prior = found if same else find_prior(own.prior, own.device)
        vocabulary = prior.card.vocabulary
        if own.prior.negative_prompt:
            try:
                vocabulary.require_known(own.prior.negative_prompt)
            except PromptError as error:
                message, brief = (f"prior.negative_prompt: {text}" for text in (error, error.brief))
                raise PromptError(message, brief=brief) from None
        prompt = vocabulary.canonical(own.prompt)
        planned.append(PlannedStage(stage, None if prior is loaded else prior, prompt))
    return Plan(config, layers, tuple(planned))


def _with_card(
    name: str, card: PriorCard, layers: Sequence[Layer]
) -> tuple[Config, tuple[Layer, ...]]:
    """The configuration of these layers over what a prior's card knows, and all layers.

    What goes with a scene stands above files and presets, and below what the user set.
    """
    below = [Layer(f"prior {name}", card.settings)] if card.settings else []
    whole = [*below, *layers]
    scene: Any = build_config(*whole).scene
    if extra := scene.layer():
        own = [i for i, layer in enumerate(whole) if not layer.name.startswith(_FILES)]
        at = own[0] if own else len(whole)
        whole.insert(at, Layer(f"scene {scene.name}", extra))
    config = build_config(*whole)
    if config.start:
        find_run(Path(config.start))
    return config, tuple(whole)


_FILES = ("prior ", "preset ", "file ")
