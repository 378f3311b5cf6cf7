"""Variants of pipelines give the same results as in diffusers."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

import dreamfusion as df
from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import load_prior
from dreamfusion.priors.sampling import sample_images
from tests.helpers.tiny_priors import save_latent_prior, save_sd3_prior, save_xl_prior

NONE = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "sd": save_latent_prior(folder / "sd"),
        "xl": save_xl_prior(folder / "xl"),
        "sd3": save_sd3_prior(folder / "sd3", t5=False),
    }


def edited(folder, target, file, **changes):
    copy = shutil.copytree(folder, target)
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


def test_latents_are_normalised_by_the_autoencoders_statistics(folders, tmp_path):
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 2.0, 1.5, 1.0]
    folder = edited(
        folders["sd"], tmp_path / "sd", "vae/config.json", latents_mean=mean, latents_std=std
    )
    prior = load_prior(str(folder))
    images = torch.rand(2, 3, prior.image_size, prior.image_size)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        raw = vae.encode(images * 2 - 1).latent_dist.mode()
        # The inverse of what StableDiffusionXLPipeline does before decoding.
        m, s = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
        expected = (raw - m) * vae.config.scaling_factor / s
        found = prior.encode_image(images)
        torch.testing.assert_close(found, expected)
        decoded = (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(prior.decode_image(found), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divide_by", [1.0, 3e6, 1e-4], ids=["sum", "mean", "large"])
def test_gradients_of_a_float16_autoencoder_equal_those_in_float32(folders, divide_by):
    grads = []
    for dtype in ("float32", "float16"):
        prior = load_prior(str(folders["sd"]), PriorConfig(dtype="float32", vae_dtype=dtype))
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 3, 16, 16, generator=generator).requires_grad_()
        text, none = prior.encode_text(["a mug"]), prior.encode_text([""])
        result = df.sds(
            prior, images, text, none, guidance=100.0, t_range=(0.5, 0.5), generator=generator
        )
        (result.loss / divide_by).backward()
        grads.append(images.grad)
    assert grads[0].abs().max() > 0
    error = (grads[0] - grads[1]).norm() / grads[0].norm()
    assert error < 0.05, error


def test_an_autoencoder_that_overflows_is_upcast_in_a_loaded_pipeline(folders):
    pipe = StableDiffusionXLPipeline.from_pretrained(folders["xl"], torch_dtype=torch.float16)
    prior = df.DiffusionPrior.from_pipe(pipe)
    assert prior.vae.dtype == torch.float32 and pipe.vae.dtype == torch.float16
    assert prior.encode_image(torch.rand(1, 3, 16, 16)).isfinite().all()


def test_a_used_pipeline_gives_the_same_prior(folders):
    pipe = StableDiffusion3Pipeline.from_pretrained(folders["sd3"], **NONE)
    fresh = df.DiffusionPrior.from_pipe(pipe)
    pipe.scheduler.set_timesteps(7)
    used = df.DiffusionPrior.from_pipe(pipe)
    assert len(used.alphas) == 1000
    assert torch.equal(used.alphas, fresh.alphas) and torch.equal(used.sigmas, fresh.sigmas)
    assert torch.equal(used.schedule.times, fresh.schedule.times)


def test_a_flow_is_shifted_for_the_size_of_the_image_as_its_pipeline_does(folders, tmp_path):
    file = "scheduler/scheduler_config.json"
    folder = edited(folders["sd3"], tmp_path / "sd3", file, use_dynamic_shifting=True)
    prior = load_prior(str(folder))
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **NONE)
    config, transformer = pipe.scheduler.config, pipe.transformer.config
    mu = calculate_shift(
        (transformer.sample_size // transformer.patch_size) ** 2,
        config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift,
    )  # fmt: skip
    pipe.scheduler.set_timesteps(sigmas=[1 - i / 1000 for i in range(1000)], mu=mu)
    expected = pipe.scheduler.sigmas[:-1].flip(0)
    torch.testing.assert_close(prior.sigmas, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prior.alphas, 1 - expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prior.schedule.times, 1000 * expected, rtol=1e-5, atol=1e-3)


def test_samples_are_clamped_only_where_the_scheduler_clamps(folders, tmp_path, monkeypatch):
    """Latents exceed one; a scheduler without `clip_sample` never clamps."""
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    EulerDiscreteScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = "EulerDiscreteScheduler"
    (folder / "model_index.json").write_text(json.dumps(index))
    prior = load_prior(str(folder))
    clamped = load_prior("embedded")
    assert clamped.schedule.config["clip_sample"] and not prior.schedule.config["clip_sample"]
    seen = []
    monkeypatch.setattr(prior, "decode_image", lambda z: seen.append(z) or torch.zeros(1))
    # A prior that always predicts a latent of three.
    monkeypatch.setattr(
        prior,
        "predict",
        lambda z, t, condition: (
            (z - prior.alphas[t][:, None, None, None] * 3.0) / prior.sigmas[t][:, None, None, None]
        ),
    )
    text = prior.encode_text(["a mug"])
    sample_images(
        prior, text, text, guidance=1.0, steps=5, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 3.0), rtol=0, atol=0.2)
