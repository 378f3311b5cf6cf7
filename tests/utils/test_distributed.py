"""Several processes take the same step as one, and only one of them writes."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dreamfusion.utils import distributed as parallel
from dreamfusion.utils.rng import rand, randint, randn
from tests.helpers.processes import launch
from tests.helpers.tiny_priors import save_pixel_prior

SETTINGS = {
    "prior": {"dtype": "float32", "perp_neg": 1.0},
    "camera": {"views": 4},
    "render": {"resolution": 16},
    "shading": {"lambertian": 1.0, "textureless": 0.0},
    "background": {"kind": "learned", "plain_share": 0.0},  # otherwise it may have no gradient
    "losses": {"entropy": 0.1, "opacity": 0.1},
    "scene": {
        "losses": {"sparsity": 0.1, "orientation": 0.1, "smoothness": 0.1},
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 2},
    },
    "output": {"video_frames": 2, "video_size": 32, "mesh_resolution": 16, "texture_size": 32},
}  # fmt: skip

GRADIENT = """
import sys, torch, yaml
from dreamfusion.config.layers import build_config
from dreamfusion.utils.distributed import average_gradients, process_group, is_first
from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import load_prior
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.state import Progress
torch.set_num_threads(1)
prior, settings, out = sys.argv[1:]
with process_group("cpu"):
    prior = load_prior(prior, PriorConfig(dtype="float32"))
    layers = (prior.card.settings, yaml.safe_load(open(settings)), {"prompt": "a red mug"})
    trainer = Trainer(build_config(*layers), prior)
    state = trainer.state
    _, _, terms, _ = trainer.loss(Progress(0, 1), state.generator)
    sum(terms.values()).backward()
    parameters = [p for group in state.scene.optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    if is_first():
        torch.save([p.grad for p in parameters] + [state.generator.get_state()], out)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    save_pixel_prior(folder / "prior")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "gradient.py").write_text(GRADIENT)
    return folder


def test_gradients_of_two_processes_equal_those_of_one(forks, files):
    for processes in (1, 2):
        out = files / f"gradient-{processes}.pt"
        done = forks.complete(
            files / "prior", files / "settings.yaml", out,
            script=files / "gradient.py", processes=processes,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(files / f"gradient-{n}.pt", weights_only=True) for n in (1, 2))
    assert sum(bool(gradient.any()) for gradient in one) >= 6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_only_one_of_two_processes_writes(forks, files, tmp_path):
    command = ["-m", "dreamfusion", "train", "a red mug", "--steps", "3"]
    command += ["--prior", files / "prior", "--config", files / "settings.yaml", "--device", "cpu"]
    alone = forks.complete(*command[2:], "--out", "run-1", cwd=tmp_path)
    for done in (alone, launch(2, *command, "--out", "run-2", cwd=tmp_path)):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("prompt    a red mug") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-1", "run-2"]
    one, two = (
        load_file(tmp_path / f"run-{n}" / "checkpoints" / "step_0000003.safetensors")
        for n in (1, 2)
    )
    torch.testing.assert_close(
        one["scene.field.mlp.weight2"], two["scene.field.mlp.weight2"], atol=2e-3, rtol=0
    )
    assert torch.equal(one["generator"], two["generator"])
    assert len((tmp_path / "run-2" / "metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "run-2" / "mesh" / "model.glb").exists()


def test_indivisible_views_are_an_error_of_one_line(forks, files, tmp_path):
    command = ["train", "a red mug", "--set", "camera.views=3"]
    command += ["--prior", files / "prior", "--config", files / "settings.yaml", "--device", "cpu"]
    done = forks.complete(*command, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert "error: 3 views cannot be split over 2 processes; set camera.views" in done.stderr
    assert list(tmp_path.iterdir()) == []


SHARE = """
import os, sys
from pathlib import Path
from dreamfusion.cli.app import main
from dreamfusion.runs import train
load = train.load_prior
def told(*args, **kwargs):
    Path(__file__).with_name("views-" + os.environ["RANK"]).write_text(str(kwargs["views"]))
    return load(*args, **kwargs)
train.load_prior = told
sys.exit(main(sys.argv[1:]))
"""


def test_the_memory_check_counts_the_share_of_the_views(forks, files, tmp_path):
    """`load_prior` raises if these views need more than the GPU's memory."""
    (tmp_path / "share.py").write_text(SHARE)
    command = ["train", "a red mug", "--steps", "1", "--prior", files / "prior"]
    command += ["--config", files / "settings.yaml", "--device", "cpu", "--out", tmp_path / "run"]
    done = forks.complete(*command, script=tmp_path / "share.py", processes=2)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"views-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]


def test_a_single_process_changes_nothing():
    assert parallel.processes() == 1 and parallel.is_first()
    assert parallel.share(5) == slice(0, 5)
    assert parallel.any_process(True, "cpu") and not parallel.any_process(False, "cpu")
    assert parallel.from_first("x") == "x"


def test_parts_have_separate_random_numbers():
    def made(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    for draw in (
        lambda n, g: rand((n, 3), g),
        lambda n, g: randn((n, 3), g),
        lambda n, g: randint(0, 100, (n,), g),
    ):
        whole = draw(6, made([1, 2, 3]))
        assert torch.equal(whole[2:4], draw(2, made([2])))
        assert torch.equal(draw(6, made([4])[0]), draw(6, made([4])))
        assert draw(0, made([1, 2])).shape[0] == 0
        with pytest.raises(ValueError, match="cannot share 5"):
            draw(5, made([1, 2]))


UNEQUAL = """
import sys, torch
from torch import nn
from dreamfusion.utils.distributed import average_gradients, is_first, process_group
import torch.distributed as dist
with process_group("cpu"):
    both, first, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.full((2,), float(dist.get_rank()))
    if is_first():
        first.grad = torch.ones(2)
    average_gradients([none, first, both])
    assert none.grad is None
    assert both.grad.tolist() == [0.5, 0.5] and first.grad.tolist() == [0.5, 0.5]
"""


def test_processes_with_unequal_sets_of_gradients_do_not_hang(forks, tmp_path):
    (tmp_path / "unequal.py").write_text(UNEQUAL)
    done = forks.complete(script=tmp_path / "unequal.py", processes=2)
    assert done.returncode == 0, done.stderr
