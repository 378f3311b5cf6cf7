"""The files in configs/: valid, listed, and fit for priors of their class."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import yaml

from dreamfusion.cli.app import main
from dreamfusion.config.presets import (
    describe_preset,
    preset_for,
    preset_names,
    read_preset,
    read_settings,
)
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import ConfigError, build_config, override, to_mapping, to_yaml
from dreamfusion.diffusion.priors import find_prior, load_prior
from dreamfusion.diffusion.priors.layout import LAYOUTS
from dreamfusion.training.step import new_state, resolve, train
from tests.helpers.tiny_priors import (
    save_deepfloyd_prior,
    save_latent_prior,
    save_pixel_prior,
    save_xl_prior,
)

NAMES = [
    "deepfloyd-if", "dreamfusion-paper", "embedded", "fast-preview", "low-vram", "sdxl",
    "stable-diffusion",
]  # fmt: skip
# Tiny pipelines of the classes that the presets are for.
PRIORS = {
    "deepfloyd-if": save_deepfloyd_prior,
    "dreamfusion-paper": save_deepfloyd_prior,
    "embedded": save_pixel_prior,
    "fast-preview": save_pixel_prior,
    "low-vram": save_latent_prior,
    "sdxl": save_xl_prior,
    "stable-diffusion": save_latent_prior,
}
# What makes a step small enough for a test, and nothing that a preset is about.
SMALL = {
    "render": {"resolution": 16, "step_size": 0.05},
    "field": {"log2_table_size": 8, "max_resolution": 32, "levels": 4, "hidden": 8},
    "occupancy": {"resolution": 16},
}


def test_these_presets_exist():
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_holds_only_what_differs_and_survives_a_round_trip(name):
    config = build_config(read_preset(name))
    assert config != build_config()
    assert build_config(yaml.safe_load(to_yaml(config))) == config
    assert 10 < len(describe_preset(name)) < 100

    def same_as_default(layer, default):
        for key, value in layer.items():
            current = getattr(default, key)
            if dataclasses.is_dataclass(current) and not isinstance(current, Schedule):
                yield from same_as_default(value, current)
            elif to_mapping(override(default, {key: value}))[key] == to_mapping(default)[key]:
                yield key

    assert not list(same_as_default(read_preset(name), build_config()))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_takes_five_real_steps(name, tmp_path):
    prior = load_prior(str(PRIORS[name](tmp_path / "prior")))
    config = override(build_config(read_preset(name), SMALL), {"prompt": "a red corgi"})
    config = resolve(config, prior, "cpu")
    state = new_state(config, "cpu")
    before = state.field.encoding.table.detach().clone()
    # The schedules' ends, where the light is on and everything has its final weight, count too.
    state.step = config.steps - 5
    found = [metrics.gradient_norm for metrics in train(state, prior, config)]
    assert len(found) == 5 and all(norm > 0 for norm in found)
    assert not torch.equal(before, state.field.encoding.table)


def test_each_class_of_pipeline_has_a_preset_of_its_own(tmp_path):
    assert {preset_for(name, has_card=False) for name in LAYOUTS} == {
        "stable-diffusion", "sdxl", "deepfloyd-if",
    }  # fmt: skip
    folder = find_prior(str(save_pixel_prior(tmp_path / "prior")))
    assert preset_for(folder.pipeline, has_card=folder.has_card) == "embedded"


def test_settings_come_from_a_preset_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("steps: 7\n")
    assert read_settings("mine.yaml") == {"steps": 7}
    assert read_settings("sdxl") == read_preset("sdxl")
    with pytest.raises(ConfigError, match="no preset and no file sdx; did you mean sdxl"):
        read_settings("sdx")
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_settings("missing.yaml")


def test_configs_lists_and_prints(capsys):
    assert main(["configs"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[: len(NAMES)]] == NAMES
    assert main(["configs", "low-vram"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == to_mapping(build_config(read_preset("low-vram")))
    assert main(["configs", "low-ram"]) == 2
    assert "did you mean low-vram" in capsys.readouterr().err
