import dataclasses
import subprocess
import sys

import pytest
import yaml

from dreamfusion.config.layers import (
    ConfigError,
    Layer,
    build_config,
    nested,
    override,
    parse_assignments,
    read_yaml,
    settings,
    sources,
    to_mapping,
    to_yaml,
)
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config


def test_round_trips_through_yaml():
    config = build_config(
        {
            "prompt": "a corgi",
            "camera": {"distance": [2, 3]},
            "estimator": {"guidance": {"end": 20}},
        }
    )
    assert build_config(yaml.safe_load(to_yaml(config))) == config
    assert build_config(to_mapping(Config())) == Config()


def test_layers_contain_only_differences():
    config = build_config({"estimator": {"guidance": 5}}, {"estimator": {"weighting": "uniform"}})
    assert config.estimator.guidance == Schedule.constant(5.0)
    assert config.estimator.weighting == "uniform"
    assert config.camera == Config().camera


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3


def test_every_setting_is_documented_on_one_line():
    for name, _, doc in settings(Config()):
        assert doc and "\n" not in doc, name


def test_assignments_nest_and_read_yaml():
    changes = parse_assignments(
        [
            "estimator.guidance=5",
            "camera.distance=[2, 3]",
            "estimator.t_max.end=0.6",
            "scene.optimizer.epsilon=1e-8",
        ]
    )
    config = build_config(changes)
    assert config.estimator.guidance == Schedule.constant(5.0)
    assert config.estimator.t_max == dataclasses.replace(Config().estimator.t_max, end=0.6)
    assert config.camera.distance == (2.0, 3.0)
    assert config.scene.optimizer.epsilon == 1e-8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stps": 4}, "unknown setting stps; did you mean steps?"),
        (
            {"camera": {"distanse": [1, 2]}},
            "unknown setting camera.distanse; did you mean camera.distance?",
        ),
        ({"guidance": 4}, "unknown setting guidance; did you mean estimator.guidance?"),
        ({"qqqqqq": 4}, "unknown setting qqqqqq"),
        (
            {"estimator": {"t_max": {"ende": 1}}},
            "unknown setting estimator.t_max.ende; did you mean estimator.t_max.end?",
        ),
        ({"steps": "many"}, "steps takes a whole number, not 'many'"),
        ({"steps": True}, "steps takes a whole number, not True"),
        ({"steps": 0}, "steps must be between 1 and 10000000, not 0"),
        (
            {"scene": {"optimizer": {"grid_lr": -1}}},
            "scene.optimizer.grid_lr must be at least 0, not -1",
        ),
        (
            {"scene": {"optimizer": {"grid_lr": "fast"}}},
            "scene.optimizer.grid_lr takes a number, not 'fast'",
        ),
        ({"optimizer": 3}, "optimizer holds settings, not 3"),
        ({"camera": {"distance": 2}}, "camera.distance takes 2 numbers like [1, 2]; not 2"),
        ({"camera": {"distance": [3, 2]}}, "camera.distance: 3.0 is greater than 2.0"),
        (
            {"estimator": {"weighting": "sgima2"}},
            "estimator.weighting is one of sigma2, uniform, inverse_sqrt_snr, velocity; not "
            "'sgima2'",
        ),
        (
            {"estimator": {"t_max": {"begin": 2}}},
            "estimator.t_max: begin (2.0) comes after finish (1.0)",
        ),
        ({"estimator": {"t_min": 0.7}}, "estimator: t_min (0.7) must not exceed t_max (0.5)"),
        ({"prior": {"name": 3}}, "prior.name takes text, not 3"),
    ],
)
def test_errors_to_the_letter(changes, message):
    with pytest.raises(ConfigError) as error:
        build_config(changes)
    assert str(error.value) == message


@pytest.mark.parametrize("assignment", ["steps", "=3", "a.b=[1"])
def test_malformed_assignments_are_refused(assignment):
    with pytest.raises(ConfigError):
        parse_assignments([assignment])


def test_nan_is_out_of_range():
    with pytest.raises(ConfigError, match="must be at least 0"):
        build_config({"scene": {"optimizer": {"grid_lr": float("nan")}}})


def test_unreadable_files_are_reported(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_yaml(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="cannot be read as YAML") as error:
        read_yaml(broken)
    assert "\n" not in str(error.value)
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="must hold settings"):
        read_yaml(broken)
    broken.write_text("")
    assert read_yaml(broken) == {}


def test_override_does_not_touch_its_argument():
    config = Config()
    override(config, {"camera": {"views": 2}})
    assert config == Config()


def test_needs_no_torch():
    code = "import sys, dreamfusion.runs.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sources_name_the_last_layer_that_has_a_setting():
    layers = [
        Layer("prior", {"camera": {"distance": [1, 2]}}),
        Layer("preset", {"camera": {"views": 2}, "estimator": {"guidance": {"end": 3}}}),
        Layer("--set", {"camera": {"views": 3}}),
    ]
    build_config(*layers)
    assert sources(layers) == {
        "camera.distance": "prior", "camera.views": "--set", "estimator.guidance": "preset",
    }  # fmt: skip


def test_dotted_names_nest():
    assert nested({"estimator.guidance": 8, "camera": {"views": 2}, "camera.distance": [1, 2]}) == {
        "estimator": {"guidance": 8},
        "camera": {"views": 2, "distance": [1, 2]},
    }
    with pytest.raises(
        ConfigError, match=r"estimator\.guidance: estimator was given a value before"
    ):
        nested({"estimator": 3, "estimator.guidance": 8})


def test_one_of_field_of_view_and_focal_length_is_null():
    with pytest.raises(ConfigError, match="one of them must be null"):
        build_config({"camera": {"focal_length": [1, 2]}})
    with pytest.raises(ConfigError, match="one of them must be null"):
        build_config({"camera": {"fov_y_deg": None}})
    build_config({"camera": {"fov_y_deg": None, "focal_length": [1, 2]}})
