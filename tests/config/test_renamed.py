"""Old names of settings."""

from __future__ import annotations

import warnings

import pytest

from dreamfusion.config import nested as nested_settings
from dreamfusion.config.layers import (
    ConfigError,
    Layer,
    build_config,
    nested,
    parse_assignments,
    settings,
    sources,
    to_mapping,
)
from dreamfusion.config.nested import RENAMED, flat, with_new_names
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.utils.errors import RunWarning

# For a setting under each new name, a value other than the default.
CHANGED = {
    "estimator": ("guidance", 7.5),
    "scene.field": ("levels", 5),
    "scene.occupancy": ("threshold", 0.25),
    "scene.marching.step_size": ("", 0.05),
    "scene.marching.min_transmittance": ("", 0.25),
    "scene.marching.backend": ("", "reference"),
    "scene.losses.sparsity": ("", 0.5),
    "scene.losses.orientation": ("", 0.5),
    "scene.losses.smoothness": ("", 0.5),
    "scene.optimizer.grid_lr": ("", 0.5),
    "scene.optimizer.network_lr": ("", 0.5),
    "scene.optimizer.background_lr": ("", 0.5),
    "scene.optimizer.ema": ("", 0.5),
    "scene.optimizer.beta1": ("", 0.5),
    "scene.optimizer.beta2": ("", 0.5),
    "scene.optimizer.epsilon": ("", 0.5),
}


def dotted(*parts: str) -> str:
    return ".".join(filter(None, parts))


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_causes_a_warning_and_still_works(old):
    below, value = CHANGED[RENAMED[old]]
    changes, new_changes = (nested({dotted(n, below): value}) for n in (old, RENAMED[old]))
    with pytest.warns(RunWarning) as caught:
        found = build_config(changes)
    assert [str(one.message) for one in caught] == [
        f"{old} is now called {RENAMED[old]}; old names of settings still work "
        "(`dreamfusion configs embedded` prints the new ones)"
    ]
    assert found == build_config(new_changes) != Config()


def test_new_names_exist_and_old_ones_do_not():
    names = {name for name, _, _ in settings(Config())}

    def known(name):
        return any(one == name or one.startswith(f"{name}.") for one in names)

    assert all(known(new) and not known(old) for old, new in RENAMED.items())


def test_a_process_warns_only_once():
    with pytest.warns(RunWarning, match=r"^field is now called scene\.field;") as caught:
        build_config({"field": {"levels": 5}, "optimizer": {"ema": 0.5}})
    assert len(caught) == 1
    build_config({"sds": {"guidance": 5}})  # a second warning would be an error


def test_new_names_are_not_changed():
    changes = {"scene": {"field": {"levels": 5}}, "optimizer": {"scale": 2}, "render": {}}
    assert with_new_names(changes) is changes


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(nested_settings, "_warned", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_other_settings_of_a_section_are_kept(silent):
    found = build_config(
        {
            "render": {"resolution": 24, "step_size": 0.05},
            "losses": {"entropy": 1, "sparsity": 2},
            "optimizer": {"scale": 3, "ema": 0.5, "warmup_steps": 4},
        }
    )
    assert found.render.resolution == Schedule.constant(24.0)
    assert found.scene.marching.step_size == Schedule.constant(0.05)
    assert (found.losses.entropy.start, found.scene.losses.sparsity.start) == (1, 2)
    assert (found.optimizer.scale.start, found.optimizer.warmup_steps) == (3, 4)
    assert found.scene.optimizer.ema == 0.5


def test_the_new_name_takes_precedence(silent):
    mixed = {
        "sds": {"guidance": 5, "t_min": 0.1, "t_max": {"start": 0.9, "end": 0.6}},
        "estimator": {"guidance": 6, "t_max": {"end": 0.7}},
        "optimizer": {"ema": 0.5},
        "scene": {"optimizer": {"ema": 0.6, "beta1": 0.7}},
    }
    before = repr(mixed)
    found = build_config(mixed)
    assert repr(mixed) == before
    assert found.estimator.guidance.start == 6 and found.estimator.t_min.start == 0.1
    assert found.estimator.t_max == Schedule(0.9, 0.7)
    assert (found.scene.optimizer.ema, found.scene.optimizer.beta1) == (0.6, 0.7)


def test_layers_may_use_either_name(silent):
    old, new = {"sds": {"guidance": 5, "t_min": 0.1}}, {"estimator": {"guidance": 6}}
    for layers, guidance in (([old, new], 6), ([new, old], 5)):
        found = build_config(*layers).estimator
        assert (found.guidance.start, found.t_min.start) == (guidance, 0.1)
    named = [Layer("file", old), Layer("--set", new)]
    assert sources(named) == {"estimator.t_min": "file", "estimator.guidance": "--set"}


def test_assignments_may_use_old_names(silent):
    found = build_config(parse_assignments(["sds.t_max.end=0.7", "render.backend=reference"]))
    assert found.estimator.t_max == Schedule(0.98, 0.7)
    assert found.scene.marching.backend == "reference"


def test_stages_may_use_old_names(silent):
    found = build_config({"stages": {"fine": {"sds": {"guidance": 5}}}})
    assert build_config(to_mapping(found)) == found
    with pytest.raises(ConfigError, match=r"did you mean stages\.fine\.estimator\.guidance"):
        build_config({"stages": {"fine": {"sds": {"guidanse": 5}}}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sds": 5}, "estimator holds settings, not 5"),
        ({"field": {"level": 5}}, "unknown setting scene.field.level; did you mean "
         "scene.field.levels?"),
        ({"optimizer": {"ema": 2}}, "scene.optimizer.ema must be between 0 and 0.9999, not 2"),
        ({"scene": 5, "field": {"levels": 5}}, "scene holds settings, not 5"),
        ({"scene": {"optimizer": 5}, "optimizer": {"ema": 0.5}},
         "scene.optimizer holds settings, not 5"),
        ({"estimator": 5, "sds": {"guidance": 5}}, "estimator holds settings, not 5"),
    ],
)  # fmt: skip
def test_errors_have_the_new_names(silent, changes, message):
    with pytest.raises(ConfigError) as error:
        build_config(changes)
    assert str(error.value) == message


def test_every_renamed_setting_is_tested():
    assert CHANGED.keys() == set(RENAMED.values())
    assert dict(flat(nested({"a.b": 1}))) == {"a.b": 1}
