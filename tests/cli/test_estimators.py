"""The command `estimators` and the option --estimator."""

import pytest
import yaml

from dreamfusion.cli.app import main
from dreamfusion.config import presets
from dreamfusion.config.layers import Layer
from dreamfusion.config.sections import ESTIMATORS, find_section, section_names
from dreamfusion.runs.folder import find_run
from dreamfusion.runs.plan import plan_run
from tests.conftest import SMALL
from tests.helpers.tiny_priors import save_pixel_prior

OWN = [name for name in section_names(ESTIMATORS) if "-" not in name]


def test_all_estimators_are_listed_with_paper_and_cost(capsys):
    assert main(["estimators"]) == 0
    said = capsys.readouterr().out
    for name in OWN:
        found = find_section(ESTIMATORS, name)
        assert found.paper, name
        assert f"{name}\n    " in said and found.paper in said
    assert "sds\n" in said and "    2 network evaluations for each view and step\n" in said


def test_an_untuned_estimator_causes_a_warning(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dreamfusion.runs.plan.tuned_preset", lambda preset, *choices: preset)
    prior = save_pixel_prior(tmp_path / "prior")
    settings = tmp_path / "small.yaml"
    settings.write_text(yaml.safe_dump(SMALL))
    command = ["train", "a red mug", "--prior", str(prior), "--steps", "2", "--out"]
    command += [str(tmp_path / "run"), "--set", "estimator.guidance=3", "--estimator", "csd"]
    assert main([*command, "--config", str(settings)]) == 0
    assert "tuned" not in capsys.readouterr().err  # no warning with a settings file
    config = find_run(tmp_path / "run").read_config()
    assert config.estimator.name == "csd" and config.estimator.guidance.start == 3
    assert main([*command[:-2], "--overwrite", "--estimator", "csd", "--steps", "1"]) == 0
    said = capsys.readouterr().err
    assert "warning: no preset is tuned for csd with this prior: using its defaults" in said


def test_a_tuned_preset_is_chosen(monkeypatch, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "embedded.yaml").write_text("# one\nestimator:\n  guidance: 8\n")
    (folder / "embedded-csd.yaml").write_text(
        "# two\nextends: embedded\nestimator:\n  name: csd\n  t_max: 0.7\n"
    )
    monkeypatch.setattr(presets, "shipped", lambda name: folder)
    asked = {"prompt": "a red mug", "prior": {"name": "embedded"}}
    for named, guidance in (("csd", 1.0), ("sds", 8.0)):
        plan = plan_run([Layer("test", asked | {"estimator": {"name": named}})])
        assert plan.config.estimator.guidance.start == guidance
        assert (plan.config.estimator.t_max.start == 0.7) == (named == "csd")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--estimator", "nothing"], "there is no estimator 'nothing'; there is"),
        (["--estimator", "csd", "--set", "estimator=sds"], "estimator"),
        (["--estimator", "csd", "--set", "estimator.rank=4"], "unknown setting estimator.rank"),
        (["--estimator", "clip"], "needs a prior that compares images with texts, not embedded"),
    ],
)
def test_unknown_names_are_errors_of_one_line(options, said, tmp_path, capsys):
    command = ["train", "a red mug", "--prior", "embedded", "--out", str(tmp_path / "run")]
    assert main([*command, *options]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and said in error[0]
