"""What a run will be, before anything heavy is imported: its prior is found, its settings are put
together, its prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreamfusion.config.layers import Layer, build_config
from dreamfusion.config.presets import preset_for, read_settings
from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.priors import PriorCard, ResolvedPrior, resolve_prior
from dreamfusion.runs.tensorboard import require_tensorboard

if TYPE_CHECKING:
    from dreamfusion.priors import DiffusionPrior


@dataclass(frozen=True)
class Plan:
    """A run that could start.

    config: every setting. layers: where they come from, lowest first; the defaults are below all.
    prior: who judges, None for one that is loaded already. reading: the prompt in its own words.
    """

    config: Config
    layers: tuple[Layer, ...]
    prior: ResolvedPrior | None
    reading: str


def plan_run(layers: Sequence[Layer], *, preset: str | None = None) -> Plan:
    """The run that these layers ask for, over a preset or settings file; None takes the one that
    suits the prior. What the prior's card knows stands below all of them.

    Raises ConfigError, PriorError or PromptError, one line that says what is wrong.
    """
    base = [] if preset is None else read_settings(preset)
    wanted = build_config(*base, *layers)
    prior = find_prior(wanted.prior, wanted.device)
    if preset is None:
        base = read_settings(preset_for(prior.pipeline, has_card=prior.has_card))
    config, whole = _on_card(prior.name, prior.card, [*base, *layers])
    return _plan(config, whole, prior, prior.card)


def plan_of_loaded(
    prior: DiffusionPrior, layers: Sequence[Layer], *, preset: str | None = None
) -> Plan:
    """As `plan_run`, for a prior that is loaded."""
    has_card = prior.card.vocabulary.words is not None
    base = read_settings(preset or preset_for(prior.pipeline, has_card=has_card))
    config, whole = _on_card(prior.name, prior.card, [*base, *layers])
    return _plan(config, whole, None, prior.card)


def plan_again(
    config: Config, layers: Sequence[Layer] = (), *, prior: DiffusionPrior | None = None
) -> Plan:
    """The plan of a run whose configuration is whole, to go on with. prior: if it is loaded."""
    if prior is not None:
        return _plan(config, tuple(layers), None, prior.card)
    found = find_prior(config.prior, config.device)
    return _plan(config, tuple(layers), found, found.card)


def find_prior(options: PriorConfig, device: str) -> ResolvedPrior:
    """The prior that the settings name; nothing heavy is imported for one that lies here."""
    if options.name != "embedded" and not Path(options.name).is_dir():
        # What `auto` means, and which files of a hub's model are fetched, depends on the device.
        from dreamfusion.utils.devices import choose_device

        device = choose_device(device)
    return resolve_prior(options.name, device=device, dtype=options.dtype)


def _plan(
    config: Config, layers: tuple[Layer, ...], prior: ResolvedPrior | None, card: PriorCard
) -> Plan:
    """The plan, once what would stop the run is ruled out."""
    if config.logging.tensorboard:
        require_tensorboard()
    vocabulary = card.vocabulary
    if config.prior.negative_prompt:
        vocabulary.canonical(config.prior.negative_prompt)
    return Plan(config, layers, prior, vocabulary.canonical(config.prompt))


def _on_card(
    name: str, card: PriorCard, layers: Sequence[Layer]
) -> tuple[Config, tuple[Layer, ...]]:
    """The configuration of these layers over what a prior's card knows, and all layers."""
    below = [Layer(f"prior {name}", card.settings)] if card.settings else []
    whole = (*below, *layers)
    return build_config(*whole), whole
