"""Sections whose class is chosen by name, from this package and others."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from dreamfusion.config import sections
from dreamfusion.config.layers import ConfigError, build_config, settings, to_mapping
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.config.sections import ESTIMATORS, SCENES, Section, setting
from dreamfusion.distillation.sds.settings import SDSSettings
from dreamfusion.distillation.settings import ScoreSettings
from dreamfusion.scenes.nerf.settings import NerfSettings
from dreamfusion.scenes.settings import SceneSettings
from dreamfusion.utils.errors import UserError

ALL = "asd, bridge, cfd, clip, csd, dds, diffusion_loss, hifa, ism, nfsd, rfds, sdi, sds, sjc, sync"
ALL += ", vsd"
HUNDRED = Schedule.constant(100.0)


@dataclass(frozen=True)
class Other(ScoreSettings):
    """An estimator of another package."""

    name: str = setting("other", "name of the estimator")
    guidance: Schedule = setting(HUNDRED, "of its own", low=0)
    rank: int = setting(4, "which only it has", low=1, high=64)

    def check(self):
        super().check()
        if self.rank == 13:
            raise ValueError("rank must not be 13")

    def build(self, prior, *, seed):
        return prior, seed


@dataclass(frozen=True)
class Plain(SceneSettings):
    """A scene of another package."""

    name: str = setting("plain", "the kind of scene")
    size: int = setting(64, "its size", low=1)

    def build(self, *, device, generator, start=None):
        return None


class Fails:
    """An invalid target of an entry point."""


@pytest.fixture
def register(monkeypatch):
    """Declares further entry points of a group: (name, "module:attribute")."""

    def do(group, *pairs):
        before = sections._entries
        more = [EntryPoint(name, value, group) for name, value in pairs]

        def entries(asked):
            return [*before(asked), *(more if asked == group else [])]

        monkeypatch.setattr(sections, "_entries", entries)
        sections.find_section.cache_clear()

    yield do
    sections.find_section.cache_clear()


@pytest.fixture
def others(register):
    register(ESTIMATORS, ("other", f"{__name__}:Other"))
    register(SCENES, ("plain", f"{__name__}:Plain"))


def test_this_package_declares_its_sections():
    assert sections.section_names(ESTIMATORS) == ALL.split(", ")
    assert sections.section_names(SCENES) == ["gaussians", "mesh", "nerf"]
    config = Config()
    assert type(config.estimator) is SDSSettings and type(config.scene) is NerfSettings
    assert isinstance(config.estimator, Section) and isinstance(config.scene, Section)


def test_another_name_starts_from_the_defaults_of_its_class(others):
    tuned = {"estimator": {"guidance": 7, "t_min": 0.3}}
    found = build_config(tuned, {"estimator": {"name": "other"}}).estimator
    assert found == Other()
    found = build_config(tuned, {"estimator": {"name": "other", "rank": 8}}).estimator
    assert found == Other(rank=8)
    back = build_config({"estimator": {"name": "other", "rank": 8}}, {"estimator": {"name": "sds"}})
    assert back == Config()


def test_the_same_name_keeps_earlier_settings(others):
    layers = [{"estimator": {"name": "other", "rank": 8}}, {"estimator": {"t_min": 0.1}}]
    again = {"estimator": {"name": "other", "guidance": 50}}
    found = build_config(*layers, again).estimator
    assert (found.rank, found.t_min.start, found.guidance.start) == (8, 0.1, 50)


def test_a_scene_is_chosen_by_name_and_round_trips(others):
    config = build_config({"scene": {"name": "plain", "size": 32}, "estimator": {"name": "other"}})
    assert config.scene == Plain(size=32)
    assert build_config(to_mapping(config)) == config
    names = {name for name, _, _ in settings(config)}
    assert {"scene.size", "estimator.rank"} <= names and "scene.field.levels" not in names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": {"name": "other", "rnak": 2}},
         "unknown setting estimator.rnak; did you mean estimator.rank?"),
        ({"estimator": {"name": "other", "rank": 0}},
         "estimator.rank must be between 1 and 64, not 0"),
        ({"estimator": {"name": "other", "rank": 13}}, "estimator: rank must not be 13"),
        ({"estimator": {"name": "other", "t_min": 0.9}},
         "estimator: t_min (0.9) must not exceed t_max (0.5)"),
        ({"estimator": {"rank": 2}}, "unknown setting estimator.rank"),
        ({"scene": {"name": "plain", "field": {"levels": 3}}}, "unknown setting scene.field"),
        ({"estimator": {"name": 3}}, "estimator.name takes text, not 3"),
        ({"estimator": "other"}, "estimator holds settings, not 'other'"),
    ],
)  # fmt: skip
def test_errors_refer_to_the_chosen_class(others, changes, message):
    with pytest.raises(ConfigError) as error:
        build_config(changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "group", "message"),
    [
        ("estimator", ESTIMATORS, f"there is no estimator 'nonsense'; there is {ALL}"),
        ("scene", SCENES, "there is no scene 'nonsense'; there is gaussians, mesh, nerf"),
    ],
)
def test_an_unknown_name_is_an_error_of_one_line(section, group, message):
    with pytest.raises(UserError) as error:
        build_config({section: {"name": "nonsense"}})
    assert str(error.value) == message


def test_a_plugin_that_cannot_be_loaded_is_an_error_of_one_line(register):
    register(
        ESTIMATORS,
        ("absent", "no_such_package.module:Settings"),
        ("wrong", f"{__name__}:Fails"),
        ("twice", f"{__name__}:Other"),
        ("twice", "another_package:Other"),
    )
    expected = {
        "absent": "the estimator 'absent' of no_such_package.module:Settings cannot be imported "
        "(ModuleNotFoundError: No module named 'no_such_package')",
        "wrong": f"the estimator 'wrong' of {__name__}:Fails is no dataclass of settings",
        "twice": f"another_package:Other and {__name__}:Other both declare the estimator 'twice': "
        "uninstall one of them",
        "nonsense": "there is no estimator 'nonsense'; there is absent, "
        f"{ALL[:-3]}twice, vsd, wrong",
    }
    for name, message in expected.items():
        with pytest.raises(sections.PluginError) as error:
            build_config({"estimator": {"name": name}})
        assert str(error.value) == message


def test_only_the_chosen_plugin_is_imported(register):
    register(ESTIMATORS, ("absent", "no_such_package.module:Settings"))
    assert build_config({"steps": 3}).estimator == SDSSettings()


def test_the_command_line_lists_the_alternatives(capsys):
    from dreamfusion.cli.app import main

    assert main(["train", "a mug", "--set", "estimator.name=nonsense"]) == 2
    assert capsys.readouterr().err == f"error: there is no estimator 'nonsense'; there is {ALL}\n"
