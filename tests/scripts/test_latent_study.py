"""The configurations of the study of latent priors, and its measures."""

import numpy as np
import pytest
import trimesh
import yaml

from dreamfusion.config.layers import build_config
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import read_settings
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import write_mesh
from scripts.latent_study import BASE, CONFIGURATIONS, largest, main


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


def test_the_share_of_the_largest_piece(tmp_path):
    boxes = [trimesh.creation.box(extents=(side,) * 3) for side in (1.0, 0.5)]
    boxes[1].apply_translation((2, 0, 0))
    both = trimesh.util.concatenate(boxes)
    mesh = Mesh(np.asarray(both.vertices), np.asarray(both.faces), np.full((16, 3), 0.5))
    file = tmp_path / "model.glb"
    assert largest(file) is None
    write_mesh(mesh, file)
    assert largest(file) == pytest.approx(1 / (1 + 0.125), rel=1e-4)
