"""Estimators with state in complete runs: killed and resumed, on one and two processes."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import SMALL
from tests.helpers.tiny_priors import save_pixel_prior

STATEFUL = {
    "sync": {"fit_steps": 4, "guidance": 3},
    "vsd": {"rank": 2, "adapter_lr": 0.01},
    "cfd": {"noise_refresh": 0.2, "guidance": 5},
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_pixel_prior(tmp_path_factory.mktemp("priors") / "pixel")


def last_tensors(run):
    return load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stopped_run_resumes_bit_for_bit_and_two_processes_agree(forks, prior, tmp_path, name):
    settings = {**SMALL, "estimator": {"name": name, **STATEFUL[name]}}
    settings["prior"] = {"dtype": "float32"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = ["train", "a red mug", "--prior", prior, "--config", tmp_path / "settings.yaml"]
    command += ["--device", "cpu", "--set", "estimator.t_max=0.9", "--set", "estimator.t_min=0.1"]

    def run(name, *options, **more):
        done = forks.complete(*command, "--out", name, *options, cwd=tmp_path, **more)
        assert done.returncode == 0, done.stderr
        return last_tensors(tmp_path / name)

    whole = run("whole", "--steps", 7)
    for file in (tmp_path / "whole" / "checkpoints").glob("step_0000007.*"):
        file.unlink()  # as if killed before; the checkpoint of step 6 exists
    done = forks.complete("resume", "whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = last_tensors(tmp_path / "whole")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert any(key.startswith("estimator.") for key in whole)
    two = run("two", "--steps", 7, processes=2)
    for key, value in whole.items():
        torch.testing.assert_close(value, two[key], rtol=2e-2, atol=2e-3, msg=key)
