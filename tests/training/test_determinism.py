"""Results are bitwise identical under load and with any number of threads.

Scenes are as large as in a real run, since torch parallelises only above 32,768 elements.
"""

import subprocess
import sys

import pytest
import torch

from dreamfusion.config.layers import build_config
from dreamfusion.config.presets import read_settings
from dreamfusion.training.state import new_state, sample_views
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.state import Progress
from tests.helpers.states import tensors

LIT = {"shading": {"lambertian": 1, "textureless": 0.5}}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_trainer(prior, changes):
    size = {"prompt": "a mug", "device": "cpu", "steps": 6, "render": {"resolution": 64}}
    return Trainer(build_config(*read_settings("embedded"), size, changes), prior)


def gradients(trainer):
    """Gradients of a step's loss, with the same random numbers at each call."""
    state = trainer.state
    generator = torch.Generator()
    generator.set_state(state.generator.get_state())
    state.scene.optimizer.zero_grad(set_to_none=True)
    _, _, terms, _ = trainer.loss(Progress(state.step, trainer.config.steps), generator)
    torch.stack(list(terms.values())).sum().backward()
    parts = (state.scene.field, state.scene.background)
    return [p.grad.clone() for part in parts for p in part.parameters() if p.grad is not None]


SETTINGS = {
    "lit": LIT,
    "unusual": {
        **LIT,
        "background": {"kind": "learned", "plain_share": 0},
        "scene": {
            "field": {"density_activation": "exp", "blob": "gaussian", "blob_scale": 3},
            "losses": {"orientation": 0.01, "sparsity": 1e-4},
            "optimizer": {"ema": 0.9},
        },
        "losses": {"opacity": 1e-3},
        "optimizer": {"max_gradient_norm": 0.01},
        "estimator": {"surface_noise": [0, 1]},
    },
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_results_do_not_depend_on_the_number_of_threads(prior, threads, changes):
    found = []
    for n_threads in (1, 2, 3):
        threads(n_threads)
        trainer = make_trainer(prior, changes)
        metrics = [vars(trainer.step()) | {"seconds": 0} for _ in range(3)]
        found.append((tensors(trainer.state), metrics))
    for state, metrics in found[1:]:
        assert metrics == found[0][1]
        assert all(torch.equal(a, b) for a, b in zip(state, found[0][0], strict=True))


@pytest.mark.parametrize("n_views", [2, 4])
def test_the_scenes_are_large_enough_for_torch_to_parallelise(prior, n_views):
    """Otherwise these tests could not fail."""
    trainer = make_trainer(prior, LIT | {"camera": {"views": n_views}})
    state = trainer.state
    views = sample_views(trainer.config, Progress(0, trainer.config.steps), state.generator)
    assert len(state.scene.render(views, state.generator).samples) > 32_768


def test_no_operation_of_a_step_is_known_to_be_nondeterministic(prior, threads):
    threads(2)
    trainer = make_trainer(prior, SETTINGS["unusual"])
    trainer.step()
    expected = gradients(trainer)
    torch.use_deterministic_algorithms(True)
    try:
        found = gradients(trainer)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_gradients_of_a_lit_step_are_reproducible_under_load(prior, threads):
    threads(2)
    trainer = make_trainer(prior, LIT | {"camera": {"views": 2}})
    for _ in range(2):
        trainer.step()
    spin = "import torch\nx = torch.rand(300, 300)\nwhile True: x = (x @ x).sin()"
    busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    try:
        expected = gradients(trainer)
        for _ in range(200):
            found = gradients(trainer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_the_start_of_a_scene_does_not_depend_on_the_number_of_threads(prior, threads):
    config = make_trainer(prior, {}).config
    found = []
    for n_threads in (1, 3):
        threads(n_threads)
        found.append(tensors(new_state(config, prior)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
