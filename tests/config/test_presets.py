"""The files in configs/: valid, listed, and suitable for priors of their class."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import yaml

from dreamfusion.cli.app import main
from dreamfusion.config import presets
from dreamfusion.config.layers import (
    ConfigError,
    Layer,
    build_config,
    override,
    to_mapping,
    to_yaml,
)
from dreamfusion.config.presets import (
    describe_preset,
    preset_names,
    read_settings,
)
from dreamfusion.config.schedules import Schedule
from dreamfusion.evaluation.comparison import METHODS
from dreamfusion.priors import load_prior, resolve_prior
from dreamfusion.priors.layout import PIPELINES
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import Trainer
from tests.helpers.glb_files import artists_file
from tests.helpers.tiny_priors import (
    save_deepfloyd_prior,
    save_latent_prior,
    save_mvdream_prior,
    save_pixel_prior,
    save_xl_prior,
)

# Estimators with a preset for the embedded prior: all of `compare`'s but SDS, which `embedded` is.
TUNED = [f"embedded-{name}" for name in METHODS if name != "sds"]
NAMES = sorted([
    "deepfloyd-if", "dreamfusion-paper", "embedded", "embedded-mesh", *TUNED, "fast-preview",
    "low-vram", "mvdream", "oracle", "sdxl", "splats", "splats-fast", "stable-diffusion",
])  # fmt: skip
# Tiny pipelines of the presets' classes.
PRIORS = {
    "deepfloyd-if": save_deepfloyd_prior,
    "dreamfusion-paper": save_deepfloyd_prior,
    "embedded": save_pixel_prior,
    "embedded-mesh": save_pixel_prior,
    **dict.fromkeys(TUNED, save_pixel_prior),
    "oracle": save_pixel_prior,
    "fast-preview": save_pixel_prior,
    "low-vram": save_latent_prior,
    "mvdream": save_mvdream_prior,
    "sdxl": save_xl_prior,
    "splats": save_pixel_prior,
    "splats-fast": save_pixel_prior,
    "stable-diffusion": save_latent_prior,
}
CARDS = {"ambient", "light_spread", "light_distance", "brightness"}
# Settings that make a step small enough for a test and are not in presets.
SMALL = {
    "render": {"resolution": 16},
    "scene": {
        "marching": {"step_size": 0.05},
        "field": {"log2_table_size": 8, "max_resolution": 32, "levels": 4, "hidden": 8},
        "occupancy": {"resolution": 16},
    },
}


def test_these_presets_exist():
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_contains_only_differences_and_round_trips(name):
    config = build_config(*read_settings(name))
    assert config != build_config()
    assert build_config(yaml.safe_load(to_yaml(config))) == config
    assert 10 < len(describe_preset(name)) < 100

    def same_as_default(layer, default):
        for key, value in layer.items():
            current = getattr(default, key)
            if dataclasses.is_dataclass(current) and not isinstance(current, Schedule):
                yield from same_as_default(value, current)
            # A preset may restore a default that a prior's card overrides.
            elif key not in {*CARDS, "name"} and override(default, {key: value}) == default:
                yield key

    *below, own = read_settings(name)
    # Another estimator begins with its own defaults.
    estimator = {k: v for k, v in own.settings.get("estimator", {}).items() if k == "name"}
    assert not list(same_as_default(own.settings, build_config(*below, {"estimator": estimator})))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_takes_five_real_steps(name, tmp_path):
    prior = load_prior(str(PRIORS[name](tmp_path / "prior")))
    small = SMALL
    if name.startswith("splats"):
        small = {**SMALL, "scene": {"count": 200, "opacity": 0.6}}
    if name == "mvdream":  # whose negative prompt is too long for the tiny prior
        small = {**SMALL, "prior": {"negative_prompt": "flat"}}
    if name.endswith("mesh"):
        small = {**SMALL, "scene": {"file": str(artists_file(tmp_path / "car.glb"))}}
    config = override(build_config(*read_settings(name), small), {"prompt": "a red corgi"})
    state = new_state(config, prior)
    parameter = state.scene.optimizer.param_groups[0]["params"][0]
    before = parameter.detach().clone()
    # Include the ends of the schedules, with lit steps and final weights.
    state.step = config.steps - 5
    found = [metrics.gradient_norm for metrics in Trainer(config, prior, state)]
    assert len(found) == 5 and all(norm > 0 for norm in found)
    assert not torch.equal(before, parameter)


def test_each_pipeline_class_has_a_default_preset(tmp_path):
    assert {about["preset"] for about in PIPELINES.values()} == {
        "stable-diffusion", "mvdream", "sdxl", "deepfloyd-if",
    }  # fmt: skip
    folder = resolve_prior(str(save_pixel_prior(tmp_path / "prior")))
    assert folder.preset == "embedded"


def test_settings_come_from_a_preset_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("steps: 7\n")
    assert read_settings("mine.yaml") == [Layer("file mine.yaml", {"steps": 7})]
    assert [layer.name for layer in read_settings("sdxl")] == [
        "preset stable-diffusion", "preset sdxl",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no preset and no file sdx; did you mean sdxl"):
        read_settings("sdx")
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_settings("missing.yaml")


def test_a_file_can_extend_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: low-vram\nsteps: 7\n")
    config = build_config(*read_settings("mine.yaml"))
    assert config == override(build_config(*read_settings("low-vram")), {"steps": 7})
    (tmp_path / "mine.yaml").write_text("extends: low-ram\n")
    with pytest.raises(ConfigError, match="no preset and no file low-ram; did you mean low-vram"):
        read_settings("mine.yaml")
    (tmp_path / "mine.yaml").write_text("extends: [sdxl]\n")
    with pytest.raises(ConfigError, match="extends takes the name of a preset"):
        read_settings("mine.yaml")


def test_presets_that_extend_each_other_are_refused(tmp_path, monkeypatch):
    for name, base in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}\n")
    monkeypatch.setattr(presets, "shipped", lambda folder: tmp_path)
    with pytest.raises(ConfigError, match="preset one extends preset two extends preset one"):
        read_settings("one")


def test_presets_inherit_changes_of_their_base():
    wanted = build_config(*read_settings("stable-diffusion")).losses
    for name in ("sdxl", "deepfloyd-if", "low-vram"):
        assert build_config(*read_settings(name)).losses == wanted


def test_configs_lists_and_prints(capsys):
    assert main(["configs"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[: len(NAMES)]] == NAMES
    assert main(["configs", "low-vram"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == to_mapping(build_config(*read_settings("low-vram")))
    assert main(["configs", "low-ram"]) == 2
    assert "did you mean low-vram" in capsys.readouterr().err
