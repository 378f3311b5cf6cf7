"""The estimate of a prior's GPU memory, without any GPU."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from dreamfusion.cli.app import main
from dreamfusion.config.layers import Layer
from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import PriorCard, PriorError, load_prior, resolve_prior
from dreamfusion.priors.memory import (
    MARGIN,
    VAE_MAPS,
    VAE_MAPS_CHECKPOINTED,
    check_memory,
    estimate_memory,
)
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.runs import train as runs_train
from dreamfusion.runs.plan import plan_run
from dreamfusion.scenes.nerf.scene import NerfScene
from dreamfusion.scenes.nerf.settings import NerfSettings
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.errors import UserError, explain_out_of_memory
from tests.helpers import PAGES
from tests.helpers.tiny_priors import save_pixel_prior, save_sd3_prior, save_xl_prior

HALF, FULL = 2, 4  # bytes per number


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return resolve_prior(str(save_xl_prior(tmp_path_factory.mktemp("priors") / "xl")))


def estimate(prior, *, views=4, precision=HALF, vae_precision=FULL, prepared=False, **options):
    return estimate_memory(
        prior, PriorConfig(**options), views=views, precision=precision,
        vae_precision=vae_precision, prepared=prepared,
    )  # fmt: skip


def test_weights_are_counted_exactly(xl):
    prior = load_prior(str(xl.path))
    prior.encode_text(["a mug"])
    modules = {"unet": prior.denoiser, "vae": prior.vae}
    modules |= dict(zip(("text_encoder", "text_encoder_2"), prior.text.models, strict=True))
    assert xl.weights == {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in modules.items()
    }


def test_the_estimate_follows_its_rule(xl):
    weights = xl.weights
    encoders = [weights["text_encoder"] * 2, weights["text_encoder_2"] * 2]
    models = weights["unet"] * 2 + weights["vae"] * 4
    # 8 x 8 latents of 8 channels, twice (guidance); images of 16 x 16 with 8 channels.
    activations = 2 * 4 * 32 * 8 * 64 * 2 + 4 * 24 * 8 * 256 * 4
    assert estimate(xl) == models + sum(encoders) + activations + MARGIN
    assert estimate(xl, prepared=True) == models + activations + MARGIN
    assert estimate(xl, offload=True) == models + activations + MARGIN


def test_views_increase_and_options_reduce_the_estimate(xl):
    assert estimate(xl, views=1) < estimate(xl, views=4)
    plain, least = estimate(xl), {"vae_checkpointing": True, "vae_slicing": True}
    assert estimate(xl, **least) < estimate(xl, vae_checkpointing=True) < plain
    assert estimate(xl, precision=HALF) < estimate(xl, precision=FULL)


# Published models: parameters of the denoiser and the autoencoder, and the size of the latents.
PUBLISHED = {
    "Stable Diffusion 1.5": (859_520_964, 83_653_863, 64, HALF),
    "Stable Diffusion XL": (2_567_463_684, 83_653_863, 128, FULL),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documentation_states_the_estimates(name):
    unet, vae, size, vae_precision = PUBLISHED[name]
    configs = {
        "unet": {"sample_size": size, "block_out_channels": [320]},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    }
    # Text encoders are freed by then, and are smaller than the denoiser.
    weights = {"unet": unet, "vae": vae, "text_encoder": 0}
    folder = ResolvedPrior(
        name, Path(), "", dict.fromkeys(weights, ""), {}, weights, PriorCard(), {}, configs, {}
    )
    saving = {"vae_checkpointing": True, "vae_slicing": True, "offload": True}
    estimates = [
        estimate(folder, views=views, vae_precision=vae_precision, prepared=True, **options)
        for options in ({}, saving)
        for views in (1, 4)
    ]
    row = "".join(f" {needed / 2**30:.1f} |" for needed in estimates)
    assert f"| {name} |{row}\n" in PAGES["docs/gpu.md"]


def test_a_large_text_encoder_can_be_the_peak(tmp_path):
    folder = resolve_prior(str(save_sd3_prior(tmp_path / "sd3", t5=True)))
    folder.weights["text_encoder_3"] = 10**10
    encoders = [count for name, count in folder.weights.items() if name.startswith("text_encoder")]
    assert estimate(folder, prepared=True) == 2 * sum(encoders) + MARGIN
    assert estimate(folder) > estimate(folder, offload=True) > estimate(folder, prepared=True)


@pytest.mark.parametrize(
    ("checkpointing", "maps"), [(False, VAE_MAPS), (True, VAE_MAPS_CHECKPOINTED)]
)
def test_the_rule_for_the_autoencoder_holds_for_stable_diffusions(checkpointing, maps):
    """The activations that its encoder keeps for the backward pass, counted on the meta device."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).requires_grad_(False)
        images = torch.empty(1, 3, 512, 512, requires_grad=True)
    if checkpointing:
        vae.enable_gradient_checkpointing()
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage()._cdata for parameter in vae.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        vae.encode(images)
    size = sum(size for key, size in kept.items() if key not in weights)
    assert 0.7 * maps < size / (128 * 512 * 512 * 4) <= 1.05 * maps


def test_a_run_that_needs_too_much_memory_is_refused_before_it_starts():
    check_memory(8 * 2**30, free=8 * 2**30, name="someone/model")
    with pytest.raises(PriorError) as error:
        check_memory(12 * 2**30, free=int(7.5 * 2**30), name="someone/model")
    assert str(error.value) == (
        "someone/model needs about 12.0 GiB of GPU memory (an estimate), and 7.5 GiB are free; use "
        "the low-vram preset, a smaller --prior or fewer views (camera.views; of `sample`, --count)"
    )


def test_the_check_comes_before_any_weights_are_loaded(xl, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**34))
    with pytest.raises(PriorError, match=r"needs about 0\.5 GiB .* and 0\.0 GiB are free"):
        load_prior(str(xl.path), device="cuda", views=4)


def test_an_unreadable_config_is_an_error_of_one_line(xl, tmp_path):
    folder = shutil.copytree(xl.path, tmp_path / "copy")
    (folder / "vae" / "config.json").write_text(json.dumps([]))
    with pytest.raises(PriorError, match=r"is broken: config.json holds no JSON object"):
        estimate(resolve_prior(str(folder)))


def test_running_out_of_memory_is_an_error_of_one_line_with_advice():
    with pytest.raises(UserError) as error, explain_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB …")
    assert str(error.value) == (
        "the GPU ran out of memory; lower camera.views, render.resolution, --resolution, "
        "--size or --count, or set prior.vae_checkpointing=true"
    )
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory():
        raise RuntimeError("something else")


def test_the_command_line_reports_out_of_memory(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB …")

    monkeypatch.setattr(Trainer, "loss", full)
    prior = save_pixel_prior(tmp_path / "pixel")
    run = str(tmp_path / "run")
    assert main(["train", "a red corgi", "--prior", str(prior), "--out", run]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the GPU ran out of memory; lower") and error.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "render"])
def test_all_commands_report_out_of_memory(command, tmp_path, monkeypatch, capsys):
    def full(*arguments, **more):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB …")

    prior = save_pixel_prior(tmp_path / "pixel")
    small = [f"output.{name}=8" for name in ("mesh_resolution", "video_frames")]
    small += ["output.video_size=16", "output.texture_size=16", "camera.views=1"]
    run = str(tmp_path / "run")
    options = ["--steps", "1", *(part for one in small for part in ("--set", one))]
    assert main(["train", "a red corgi", "--prior", str(prior), "--out", run, *options]) == 0
    capsys.readouterr()
    for owner, name in ((NerfSettings, "build"), (NerfScene, "load_state_dict")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            assert main([command, run]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: the GPU ran out of memory; lower")
        assert error.count("\n") == 1


def test_settings_are_passed_to_the_prior(tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def load(prior, options, **more):
        raise Asked(prior, options, more)

    monkeypatch.setattr(runs_train, "load_prior", load)
    asked = {"vae_checkpointing": True, "vae_slicing": True, "offload": True, "compile": True}
    options = {"name": "embedded", "dtype": "float32", **asked}
    layer = Layer("test", {"device": "cpu", "prompt": "a mug", "prior": options})
    with pytest.raises(Asked) as error:
        runs_train.train_run(plan_run([layer]), tmp_path / "run")
    prior, config, more = error.value.args
    assert prior.name == "embedded" and config == PriorConfig(**options)
    texts = more.pop("prompts")
    assert len(texts) > 100 and "" in texts and all("mug" in text for text in texts if text)
    assert more == {"device": "cpu", "views": 4}
