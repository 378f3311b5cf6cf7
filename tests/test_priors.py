"""Priors of the very classes that real ones have, tiny and random, through the real loader."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tiny_priors import save_latent_prior, save_pixel_prior
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion.priors import PriorError, find_prior, load_prior, read_card
from dreamfusion.priors.model import unet_dtype
from dreamfusion.priors.sampling import sample_images
from dreamfusion.prompts import PAPER_VIEWS, PromptError
from dreamfusion.sds import sds


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("priors")
    return {
        "pixel": save_pixel_prior(base / "pixel"),
        "latent": save_latent_prior(base / "latent"),
    }


@pytest.fixture(scope="module", params=["pixel", "latent"])
def prior(request, folders):
    return load_prior(str(folders[request.param]), dtype="float32")


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of the latent prior, to be broken."""
    return shutil.copytree(folders["latent"], tmp_path / "broken")


def reference_sds_gradient(folder, images, prompt, guidance, result):
    """Slow and independent: diffusers' own classes and formulas, one picture and text at a time,
    with autograd through the image encoder."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    images = images.detach().clone().requires_grad_()
    latents = F.interpolate(images, (16, 16), mode="bilinear", antialias=True) * 2 - 1
    if (folder / "vae").exists():
        vae = AutoencoderKL.from_pretrained(folder / "vae")
        latents = vae.encode(latents).latent_dist.mean * vae.config.scaling_factor
    gradients = []
    for i, t in enumerate(result.timesteps):
        noise = result.noise[i : i + 1]
        noisy = scheduler.add_noise(latents[i : i + 1].detach(), noise, t[None])
        outputs = []
        for text in ("", prompt):
            tokens = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
            with torch.no_grad():
                outputs.append(unet(noisy, t, encoder(tokens)[0]).sample[:, : latents.shape[1]])
        guided = outputs[0] + guidance * (outputs[1] - outputs[0])
        alpha_bar = scheduler.alphas_cumprod[t]
        if scheduler.config.prediction_type == "v_prediction":
            guided = alpha_bar.sqrt() * guided + (1 - alpha_bar).sqrt() * noisy
        gradients.append((1 - alpha_bar) * (guided - noise))
    latents.backward(torch.cat(gradients))
    return images.grad


def test_sds_equals_an_independent_reference(prior, folders):
    images = torch.rand(2, 3, 24, 24, requires_grad=True)
    result = sds(
        prior,
        images,
        prior.encode_text(["a red corgi, front view"]),
        prior.encode_text([""]),
        guidance=7.5,
        t_range=(0.02, 0.98),
        generator=torch.Generator().manual_seed(0),
    )
    result.loss.backward()
    folder = folders["pixel" if prior.vae is None else "latent"]
    expected = reference_sds_gradient(folder, images, "a red corgi, front view", 7.5, result)
    torch.testing.assert_close(images.grad, expected, rtol=1e-3, atol=1e-4)


def test_is_frozen_and_keeps_no_graph(prior):
    for module in (prior.unet, prior.text_encoder, prior.vae):
        if module is not None:
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    encoded = prior.encode_image(images)
    text = prior.encode_text(["a mug"])
    assert encoded.requires_grad and encoded.dtype == torch.float32
    assert not prior.predict(encoded, torch.tensor([3]), text).requires_grad
    assert not text.requires_grad


def test_pictures_of_any_size_are_judged_at_the_models_own(prior):
    for size in (8, 16, 40):
        encoded = prior.encode_image(torch.rand(1, 3, size, size))
        assert encoded.shape[-1] == prior.unet.config.sample_size
    assert prior.decode_image(encoded).shape == (1, 3, prior.image_size, prior.image_size)


def test_pixels_are_only_mapped(folders):
    prior = load_prior(str(folders["pixel"]))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(prior.encode_image(images), images * 2 - 1)
    torch.testing.assert_close(prior.decode_image(images * 2 - 1), images)


def test_each_text_is_encoded_once_and_alike_in_any_company(prior, monkeypatch):
    calls = []
    encode = prior._encode
    monkeypatch.setattr(prior, "_encode", lambda text: calls.append(text) or encode(text))
    prior._embeddings.clear()
    together = prior.encode_text(["a mug", "a chair", "a mug"])
    assert calls == ["a mug", "a chair"]
    assert torch.equal(together[0], together[2])
    prior._embeddings.clear()
    assert torch.equal(prior.encode_text(["a chair"])[0], together[1])


def test_a_prompt_too_long_for_the_model_is_refused(prior):
    with pytest.raises(PromptError, match=r"the prompt is too long: .* 77 can be read"):
        prior.encode_text(["a red corgi " * 30])


def test_half_precision_agrees_with_full(folders):
    full = load_prior(str(folders["pixel"]), dtype="float32")
    half = load_prior(str(folders["pixel"]), dtype="bfloat16")
    assert half.unet.dtype == torch.bfloat16
    noisy, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    text = full.encode_text(["a mug", "a chair"])
    torch.testing.assert_close(
        half.predict(noisy, timesteps, text), full.predict(noisy, timesteps, text),
        rtol=0.05, atol=0.05,
    )  # fmt: skip
    assert unet_dtype("auto", "cuda:0") == torch.float16
    assert unet_dtype("auto", "mps") == torch.float32


def test_samples_depend_on_the_generator_alone(prior):
    text, nothing = prior.encode_text(["a mug"]), prior.encode_text([""])
    draws = [
        sample_images(
            prior, text, nothing, guidance=3.0, steps=4,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    ]  # fmt: skip
    assert draws[0].shape == (1, 3, prior.image_size, prior.image_size)
    assert draws[0].min() >= 0 and draws[0].max() <= 1 and draws[0].isfinite().all()
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_card_sets_views_words_and_cameras(folders):
    card = read_card(folders["pixel"])
    assert card.vocabulary.canonical("A red puppy") == "red corgi"
    assert [view.text for view in card.vocabulary.azimuth][1] == "left view"
    assert card.camera.distance == (2.5, 3.0)
    assert card.light.ambient == 0.4 and card.light.direction_std == 0.6
    assert card.kinds["colors"] == ("red", "blue", "green")
    assert read_card(folders["latent"]).vocabulary == PAPER_VIEWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken card: cannot read dreamfusion.json"),
        ("[]", "dreamfusion.json holds no JSON object"),
        ('{"format": 2}', "has format 2, this version reads 1"),
        ('{"format": 1}', "malformed: KeyError: 'azimuth'"),
        ('{"format": 1, "views": {"azimuth": []}}', "views.azimuth is empty"),
        (
            '{"format": 1, "views": {"azimuth": [{"center_deg": 0, "text": "x"}]},'
            ' "camera": {"distance": [3, 2]}}',
            "3 is greater than 2",
        ),
    ],
)
def test_a_malformed_card_is_named(broken, content, message):
    (broken / "dreamfusion.json").write_text(content)
    with pytest.raises(PriorError) as error:
        load_prior(str(broken))
    assert message in str(error.value) and "\n" not in str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BREAKAGES = {
    "no index": (
        lambda folder: (folder / "model_index.json").unlink(),
        "is not a diffusers model: there is no model_index.json",
    ),
    "index is not JSON": (
        lambda folder: (folder / "model_index.json").write_text("{"),
        "is not a diffusers model: cannot read model_index.json",
    ),
    "wrong pipeline": (
        lambda folder: edit(folder / "model_index.json", _class_name="FluxPipeline"),
        "is a FluxPipeline, which is not supported; use a IFPipeline or StableDiffusionPipeline",
    ),
    "wrong component": (
        lambda folder: edit(
            folder / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]
        ),
        "its text_encoder is a T5EncoderModel, only CLIPTextModel is supported",
    ),
    "component not named": (
        lambda folder: edit(folder / "model_index.json", vae=[None, None]),
        "model_index.json names no vae",
    ),
    "no component": (lambda folder: shutil.rmtree(folder / "vae"), "there is no folder"),
    "no weights": (
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "is incomplete: there is no",
    ),
    "no config": (
        lambda folder: (folder / "vae" / "config.json").unlink(),
        "is incomplete: there is no",
    ),
    "corrupt weights": (
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"),
        "cannot be loaded",
    ),
    "weights of another shape": (
        lambda folder: edit(folder / "vae" / "config.json", block_out_channels=[8, 16]),
        "cannot be loaded",
    ),
    "no scheduler": (
        lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler_config.json",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(broken, name):
    breakage, message = BREAKAGES[name]
    breakage(broken)
    with pytest.raises(PriorError) as error:
        load_prior(str(broken))
    assert message in str(error.value)
    assert str(broken) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "./nowhere/at-all",
            "no such prior: ./nowhere/at-all (a prior is auto, embedded, a folder",
        ),
        ("sd15", "no such prior: sd15"),
        ("someone/something", "neither a folder here nor in the local cache"),
        (
            "runwayml/stable-diffusion-v1-5",
            "it was removed from the hub: use stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        (__file__, "is a file; a prior is "),
    ],
)
def test_a_name_that_leads_nowhere(name, message):
    with pytest.raises(PriorError) as error:
        load_prior(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_finding_a_prior_loads_no_library(folders):
    code = (
        "import sys; from dreamfusion.priors import find_prior, read_card;"
        "read_card(find_prior(sys.argv[1]).path);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    command = [sys.executable, "-c", code, str(folders["pixel"])]
    assert subprocess.run(command).returncode == 0
    assert find_prior(str(folders["pixel"])).space == "pixel"
