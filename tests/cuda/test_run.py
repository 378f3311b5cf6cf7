"""Parts of a run on a simulated GPU, cuda:1, give the CPU's numbers for every kind of prior."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.priors import PriorError, load_prior
from dreamfusion.priors.sampling import sample_images
from dreamfusion.runs.checkpoint import load_checkpoint, load_scene, save_checkpoint
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.train import write_preview
from dreamfusion.scenes.nerf.mlp import two_layers
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import Trainer, TrainingError
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.errors import RunWarning
from tests.helpers import states
from tests.helpers.simulated_kernels import simulated_cuda
from tests.helpers.tiny_priors import PRIORS
from tests.helpers.tiny_runs import tiny

# At most so many times a step: the sample count, which samples matter, the longest ray, which
# samples have a normal, which of these are smoothed, whether rays are finite, all scalars at once.
MOST_WAITS = 8
COARSE = {"scene": {"marching": {"step_size": 0.1}}}  # a quarter of the samples
LIT = {
    "shading": {"lambertian": 1.0, "textureless": 0.0},
    "scene": {"losses": {"smoothness": 0.1}},
}
EVERYTHING = {
    **LIT,
    "prior": {"perp_neg": 1.0, "view_prompts": "blended"},
    "background": {"kind": "learned", "plain_share": 0.0},
    "losses": {"entropy": 0.1, "opacity": 0.1},
    "scene": {
        "losses": {"sparsity": 0.1, "orientation": 0.1, "smoothness": 0.1},
        "field": {"active_levels": 0.5},
        "optimizer": {"ema": 0.9},
    },
    "optimizer": {"max_gradient_norm": 1.0},
}  # fmt: skip


@pytest.fixture(params=PRIORS)
def folder(request, folders):
    return folders[request.param]


def first_losses(folder, device, *changes):
    prior = load_prior(str(folder), PriorConfig(dtype="float32"), device=device)
    trainer = Trainer(tiny(prior, COARSE, *changes), prior)
    return [trainer.step().loss for _ in range(2)]


def test_steps_equal_those_on_the_cpu(gpu, folder):
    """In float32, up to rounding of sums that are split differently."""
    there = first_losses(folder, choose_device("cuda:1"), LIT)
    assert there == pytest.approx(first_losses(folder, "cpu", LIT), rel=1e-3)


def test_a_run_from_its_first_step_to_its_mesh(gpu, folder, tmp_path):
    prior = load_prior(str(folder), device=choose_device("cuda:1"))
    trainer = Trainer(tiny(prior, COARSE, LIT), prior)
    trainer.step()
    run = RunFolder(tmp_path)
    assert write_preview(run, trainer.state, trainer.config).stat().st_size > 0
    save_checkpoint(run.checkpoints, trainer.state, keep=1)
    run.write_config(trainer.config)
    again = new_state(replace(trainer.config, seed=9), prior)
    load_checkpoint(run.checkpoints, again)
    for one, other in zip(states.tensors(trainer.state), states.tensors(again), strict=True):
        assert one.device == other.device and torch.equal(one, other)
    saved = load_scene(run, trainer.config, "cuda:1")
    assert saved.step == 1 and saved.scene.device == torch.device("cuda:1")
    assert len(saved.scene.surface(resolution=16).colored().faces) > 10
    pictures = sample_images(
        prior,
        prior.encode_text(["a corgi"]),
        prior.encode_text([""]),
        guidance=2.0,
        steps=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert pictures.shape == (1, 3, 16, 16) and bool(pictures.isfinite().all())
    assert {place for place, _ in gpu.kernels} <= {"cuda:1", "None"}


@pytest.mark.parametrize(
    ("kind", "changes", "backend"),
    [
        ("if-clip", {"shading": {"lambertian": 0.0}}, "triton"),
        ("sdxl", {"shading": {"lambertian": 0.0}}, "triton"),
        ("if-clip", LIT, "triton"),
        ("sdxl", LIT, "triton"),
        ("sdxl", EVERYTHING, "triton"),
        ("sdxl", EVERYTHING, "reference"),
    ],
)
def test_a_step_synchronises_only_a_few_times(gpu, folders, kind, changes, backend):
    prior = load_prior(str(folders[kind]), device=choose_device("cuda:1"))
    backends = {"scene": {"marching": {"backend": backend}, "field": {"backend": backend}}}
    trainer = Trainer(tiny(prior, COARSE, changes, backends), prior)
    trainer.step()
    gpu.waits.clear()
    trainer.step()
    assert 0 < gpu.waits.total() <= MOST_WAITS, gpu.waits


@pytest.mark.parametrize(
    "options",
    [{"vae_checkpointing": True, "vae_slicing": True}, {"offload": True}],
    ids=["checkpointing", "offload"],
)
def test_options_that_save_memory_work(gpu, folders, options):
    prior = load_prior(
        str(folders["sd"]), PriorConfig(**options), device="cuda:1", prompts=["", "a mug"], views=2
    )
    images = torch.rand(2, 3, 16, 16, device="cuda:1", requires_grad=True)
    prior.encode_image(images).square().sum().backward()
    assert str(images.grad.device) == "cuda:1" and bool(images.grad.isfinite().all())
    assert prior.decode_image(torch.zeros(1, 4, 8, 8, device="cuda:1")).device == prior.device


def test_a_prior_too_large_for_its_gpu_is_refused(folders):
    with simulated_cuda(free=1 << 20), pytest.raises(PriorError, match="are free; use the low"):
        load_prior(str(folders["sd"]), device="cuda:1", prompts=["a mug"], views=1)


def test_the_initial_state_does_not_depend_on_the_device(gpu, folders):
    prior = load_prior(str(folders["if-clip"]))
    config = tiny(prior)
    for one, other in zip(
        states.tensors(new_state(config, prior, device="cuda:1")),
        states.tensors(new_state(config, prior, device="cpu")),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize(
    ("kind", "expected"), [("sd", torch.float16), ("sdxl", torch.float32), ("sd3", torch.float32)]
)
def test_the_precision_of_autoencoders_depends_on_their_config(gpu, folders, kind, expected):
    found = {}
    images = torch.rand(1, 3, 16, 16, device="cuda:1")
    for asked in ("auto", "bfloat16"):
        prior = load_prior(str(folders[kind]), PriorConfig(vae_dtype=asked), device="cuda:1")
        found[asked] = prior.encode_image(images).cpu()
        assert prior.vae.dtype == (expected if asked == "auto" else torch.bfloat16)
        assert prior.dtype == torch.float16
    assert found["auto"].dtype == torch.float32
    # Of some 20 layers of 3 roundings each; see tests/priors/test_reference.py.
    error = (found["auto"] - found["bfloat16"]).norm() / found["auto"].norm()
    assert 0 < error < 2.0**-8 * 60**0.5


def test_t5_keeps_overflowing_weights_in_float32(gpu, folders):
    prior = load_prior(str(folders["if-t5"]), device="cuda:1")
    prior.encode_text(["a mug"])
    weights = dict(prior.text.models[0].named_parameters())
    assert {p.dtype for n, p in weights.items() if ".wo." in n} == {torch.float32}
    assert {p.dtype for n, p in weights.items() if ".wo." not in n} == {torch.float16}


@pytest.fixture
def large(folders, tmp_path):
    """A prior whose predictions exceed the range of float16."""
    folder = shutil.copytree(folders["if-clip"], tmp_path / "large")
    (file,) = (folder / "unet").glob("*.safetensors")
    weights = load_file(file)
    for layer in ("conv_norm_out", "conv_out"):
        weights[f"{layer}.weight"] *= 3000
    save_file(weights, file)
    return folder


@pytest.mark.parametrize("wider", ["bfloat16", "float32"])
def test_a_prior_that_overflows_in_float16_is_loaded_in_the_next_precision(large, wider):
    with simulated_cuda(bfloat16=wider == "bfloat16"):
        with pytest.warns(RunWarning, match=rf"large overflows in float16: using {wider}$"):
            prior = load_prior(str(large), device="cuda:1", prompts=["a mug", ""])
        assert prior.dtype == getattr(torch, wider)
        noisy = torch.randn(1, 3, 16, 16, device="cuda:1")
        found = prior.predict(noisy, torch.tensor([9]), Condition(prior.encode_text(["a mug"])))
        assert float(found.abs().max()) > 65504


def test_a_requested_precision_is_kept(gpu, large, folders):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        asked = load_prior(str(large), PriorConfig(dtype="float16"), device="cuda:1")
        assert asked.dtype == load_prior(str(folders["sd"]), device="cuda:1").dtype == torch.float16


def test_an_overflow_in_float16_stops_the_step_with_advice(gpu, large):
    prior = load_prior(str(large), PriorConfig(dtype="float16"), device="cuda:1")
    trainer = Trainer(tiny(prior), prior)
    before = [tensor.cpu().clone() for tensor in trainer.state.scene.field.parameters()]
    message = "if the prior overflows in float16, set prior.dtype=float32"
    with pytest.raises(TrainingError, match=message):
        trainer.step()
    for one, other in zip(trainer.state.scene.field.parameters(), before, strict=True):
        assert torch.equal(one.cpu(), other)
    with pytest.raises(PriorError, match="overflows in float16; use --device cpu"):
        sample_images(
            prior, prior.encode_text(["a mug"]), prior.encode_text([""]), guidance=2.0, steps=1,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip


def test_the_perceptron_has_one_block_on_a_gpu(gpu):
    """Blocks are for the caches of a CPU; on a GPU, each one costs eight launches."""
    tensors = [torch.randn(*shape) for shape in [(20000, 7), (11, 7), (11,), (3, 11), (3,)]]

    def results(device, rows):
        gpu.kernels.clear()
        x, *weights = (tensor.to(device).requires_grad_() for tensor in tensors)
        out = two_layers(x[:rows], *weights)
        out.sum().backward()
        found = [out.detach(), *(tensor.grad for tensor in weights)]
        return [tensor.cpu() for tensor in found], sum(gpu.kernels.values())

    (there, many), (_, few) = results("cuda:1", 20000), results("cuda:1", 100)
    assert many == few
    for one, other in zip(there, results("cpu", 20000)[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
