"""The configurations of the study of latent priors, and its measures."""

import pytest
import yaml

from dreamfusion.config.layers import build_config
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import read_settings
from scripts.latent_study import BASE, CONFIGURATIONS, largest, main
from tests.helpers.solids import Balls, scene_of


def test_all_configurations_are_valid_and_different(tmp_path):
    found = []
    for name, changes in CONFIGURATIONS.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(merged(BASE, changes)))
        found.append(build_config(*read_settings(str(file))))
    assert len(set(map(repr, found))) == len(CONFIGURATIONS) >= 16
    assert found[0].scene.field.sharpness.is_constant and found[0].estimator.guidance.start == 100


def test_an_unknown_configuration_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "out"), "guidance-3"])
    assert "unknown: guidance-3; there are preset" in capsys.readouterr().err


def test_the_share_of_the_largest_piece_counts_what_export_drops():
    balls = [[0.0, 0.0, 0.0, 0.5], [0.75, 0.0, 0.0, 0.1]]
    assert largest(scene_of(Balls(balls))) == pytest.approx(1 / (1 + 0.2**3), rel=2e-3)
    assert largest(scene_of(Balls(balls[:1]))) == 1
    assert largest(scene_of(Balls(balls, peak=1e-3))) is None
