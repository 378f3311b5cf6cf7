"""Tiny random priors of the supported classes, loaded by the real loader."""

import gc
import json
import shutil
import subprocess
import sys
import weakref

import pytest
import torch
from transformers import CLIPTextModel

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.distillation.functional import sds
from dreamfusion.priors import PriorError, load_prior, model, read_card, resolve_prior, text
from dreamfusion.priors.model import _vae_dtype, choose_dtype
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.sampling import sample_images
from dreamfusion.priors.view_prompts import PAPER_VIEWS
from tests.helpers.tiny_priors import (
    save_latent_prior,
    save_pixel_prior,
    save_sd3_prior,
    save_xl_prior,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("priors")
    return {
        "pixel": save_pixel_prior(base / "pixel"),
        "latent": save_latent_prior(base / "latent"),
        "sdxl": save_xl_prior(base / "sdxl"),
        "sd3-t5": save_sd3_prior(base / "sd3-t5", t5=True),
    }


@pytest.fixture(scope="module", params=["pixel", "latent", "sdxl", "sd3-t5"])
def prior(request, folders):
    return load_prior(str(folders[request.param]), PriorConfig(dtype="float32"))


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of the latent prior that tests may damage."""
    return shutil.copytree(folders["latent"], tmp_path / "broken")


def test_a_prior_is_frozen_and_keeps_no_graph(prior):
    text = prior.encode_text(["a mug"])
    encoder = prior.text.models[0]
    for module in (prior.denoiser, encoder, prior.vae):
        if module is not None:
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    encoded = prior.encode_image(images)
    assert encoded.requires_grad and encoded.dtype == torch.float32
    with torch.no_grad():
        assert not prior.predict(encoded, torch.tensor([3]), Condition(text)).requires_grad
    assert not prior.predict(encoded.detach(), torch.tensor([3]), Condition(text)).requires_grad
    assert not text.tokens.requires_grad


def test_predictions_have_gradients_if_required(prior):
    """Gradients of the image and of trained parameters, with and without a split."""
    noisy = torch.randn(6, *prior.shape, requires_grad=True)
    timesteps, condition = torch.arange(6) * 100, Condition(prior.encode_text(["a mug"] * 6))
    prior.predict(noisy, timesteps, condition).square().sum().backward()
    assert noisy.grad.isfinite().all() and noisy.grad.abs().flatten(1).sum(dim=1).min() > 0
    (weight, *_) = (p for p in prior.denoiser.parameters() if p.dim() > 1)
    weight.requires_grad_()
    try:
        prior.predict(noisy.detach(), timesteps, condition).square().sum().backward()
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_predictions_do_not_depend_on_the_split_among_threads(prior, n_threads, one_thread):
    size = prior.denoiser.config.sample_size
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(6, prior.channels, size, size, generator=generator)
    timesteps = torch.arange(6)
    text = prior.encode_text(["a mug", "a chair", "red", "a mug", "a corgi", ""])
    alone = [
        prior.predict(noisy[i : i + 1], timesteps[i : i + 1], Condition(text[i : i + 1]))
        for i in range(6)
    ]
    torch.set_num_threads(n_threads)
    torch.testing.assert_close(prior.predict(noisy, timesteps, Condition(text)), torch.cat(alone))
    of_one_text = prior.predict(noisy, timesteps, Condition(text[1:2]))
    torch.testing.assert_close(of_one_text[1:2], alone[1])


def test_images_of_any_size_are_resized_to_the_models_own(prior):
    for size in (8, 16, 40):
        encoded = prior.encode_image(torch.rand(1, 3, size, size))
        assert encoded.shape[-1] == prior.denoiser.config.sample_size
    assert prior.decode_image(encoded).shape == (1, 3, prior.image_size, prior.image_size)


def test_pixels_are_only_mapped(folders):
    prior = load_prior(str(folders["pixel"]))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(prior.encode_image(images), images * 2 - 1)
    torch.testing.assert_close(prior.decode_image(images * 2 - 1), images)


def test_each_text_is_encoded_once_and_independently_of_the_batch(folders, monkeypatch):
    asked = []
    answer = CLIPTextModel.forward

    def counted(self, input_ids, **options):
        asked.append(input_ids)
        return answer(self, input_ids, **options)

    monkeypatch.setattr(CLIPTextModel, "forward", counted)
    prior, other = (load_prior(str(folders["latent"])) for _ in range(2))
    asked.clear()  # of the check of each prior
    together = prior.encode_text(["a mug", "a chair", "a mug"])
    prior.encode_text(["a chair"])
    assert len(asked) == 2 and all(len(ids) == 1 for ids in asked)
    assert not torch.equal(*asked)
    assert torch.equal(together.tokens[0], together.tokens[2])
    assert torch.equal(other.encode_text(["a chair"]).tokens[0], together.tokens[1])


@pytest.mark.parametrize("early", [True, False])
def test_prepared_texts_are_available_without_encoders(folders, early):
    name, prompts = str(folders["sdxl"]), ["a mug", "", "a chair"]
    expected = load_prior(name).encode_text(["a chair", ""])
    prior = load_prior(name, prompts=prompts if early else None)
    kept = weakref.WeakSet()
    if not early:
        prior.encode_text(["a mug"])
        kept.update(prior.text.models)
        assert len(kept) == 2
        prior.prepare(prompts)
    gc.collect()
    assert not kept and not prior.text.models
    found = prior.encode_text(["a chair", ""])
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.pooled, expected.pooled)
    with pytest.raises(PromptError) as error:
        prior.encode_text(["a mug", "a corgi"])
    assert str(error.value) == (
        "'a corgi' is not among the prepared prompts, and the text encoders are no longer in "
        "memory; prepare all prompts of a run at once"
    )


def gradient(prior):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    result = sds(
        prior, images, prior.encode_text(["a mug"]), prior.encode_text([""]), guidance=5.0,
        t_range=(0.02, 0.98), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    result.loss.backward()
    return images.grad


@pytest.mark.parametrize(
    "options",
    [
        {"vae_checkpointing": True},
        {"vae_slicing": True},
        {"vae_checkpointing": True, "vae_slicing": True},
        {"offload": True},
    ],
)
def test_options_that_save_memory_change_no_gradient(folders, options):
    name = str(folders["latent"])
    prior = load_prior(name, PriorConfig(dtype="float32", **options))
    assert prior.vae.encoder.gradient_checkpointing == options.get("vae_checkpointing", False)
    assert prior.vae.use_slicing == options.get("vae_slicing", False)
    plain = load_prior(name, PriorConfig(dtype="float32"))
    torch.testing.assert_close(gradient(prior), gradient(plain), rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_less_for_the_backward_pass(folders):
    def kept(**options):
        prior, sizes = (
            load_prior(str(folders["latent"]), PriorConfig(dtype="float32", **options)),
            [],
        )
        images = torch.rand(2, 3, 16, 16, requires_grad=True)
        hooks = torch.autograd.graph.saved_tensors_hooks
        with hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            prior.encode_image(images)
        return sum(sizes)

    assert kept(vae_checkpointing=True) < 0.5 * kept()


def test_offloading_leaves_the_decoder_on_the_cpu(folders, monkeypatch):
    """The meta device has no memory, but modules can be moved to it."""
    monkeypatch.setattr(model, "check_parts", lambda prior, prompt: None)
    prior = load_prior(
        str(folders["latent"]), PriorConfig(dtype="float32", offload=True), device="meta"
    )
    assert prior.vae.decoder.conv_in.weight.device.type == "cpu"
    assert prior.vae.encoder.conv_in.weight.device.type == "meta"
    assert prior.denoiser.device.type == "meta"
    plain = load_prior(str(folders["latent"]), PriorConfig(dtype="float32"), device="meta")
    assert plain.vae.decoder.conv_in.weight.device.type == "meta"


@pytest.mark.parametrize(("offload", "moves"), [(True, ["cpu:0", "cpu"]), (False, ["cpu:0"])])
def test_an_offloaded_text_encoder_goes_back_to_the_cpu(folders, monkeypatch, offload, moves):
    found = []
    monkeypatch.setattr(CLIPTextModel, "to", lambda self, device: found.append(device))
    encoders = text.encoders_of(
        resolve_prior(str(folders["latent"])), device="cpu:0", dtype=torch.float32, offload=offload
    )
    encoders.encode(["a mug", "a chair"])
    assert found == moves


def test_only_the_denoiser_is_compiled_on_request(folders, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda call, **options: compiled.append(call.__self__) or call
    )
    plain = load_prior(str(folders["latent"]), PriorConfig(dtype="float32"))
    assert not compiled
    prior = load_prior(str(folders["latent"]), PriorConfig(dtype="float32", compile=True))
    assert compiled == [prior.denoiser]
    assert torch.equal(gradient(prior), gradient(plain))


def test_half_precision_agrees_with_full(folders):
    full = load_prior(str(folders["pixel"]), PriorConfig(dtype="float32"))
    half = load_prior(str(folders["pixel"]), PriorConfig(dtype="bfloat16"))
    assert half.denoiser.dtype == torch.bfloat16
    noisy, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    condition = Condition(full.encode_text(["a mug", "a chair"]))
    torch.testing.assert_close(
        half.predict(noisy, timesteps, condition), full.predict(noisy, timesteps, condition),
        rtol=0.05, atol=0.05,
    )  # fmt: skip


def test_default_precision_depends_on_the_device():
    assert choose_dtype("auto", "cuda:0") == torch.float16
    assert choose_dtype("bfloat16", "cuda:0") == torch.bfloat16
    assert choose_dtype("auto", "mps") == torch.float32
    assert choose_dtype("float16", "cpu") == torch.float16


def test_an_autoencoder_that_overflows_stays_in_full_precision(broken):
    """Only if its config has force_upcast; configs of older models lack the entry."""
    path = broken / "vae" / "config.json"
    content = json.loads(path.read_text())
    del content["force_upcast"]
    for entry, expected in (({"force_upcast": True}, torch.float32), ({}, torch.float16)):
        path.write_text(json.dumps(content | entry))
        folder = resolve_prior(str(broken))
        assert _vae_dtype(folder, "auto", torch.float16, "cuda") == expected
        assert _vae_dtype(folder, "bfloat16", torch.float16, "cuda") == torch.bfloat16
        assert _vae_dtype(folder, "auto", torch.float16, "cpu") == torch.float32


def test_samples_depend_only_on_the_generator(prior):
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
    assert card.settings["camera"]["distance"] == [2.5, 3.0]
    assert card.settings["shading"] == {"ambient": 0.4, "light_spread": 0.6}
    assert card.settings["background"] == {"brightness": [0.25, 0.75]}
    assert read_card(folders["latent"]).settings == {}
    assert card.vocabulary.words.colors == ("red", "blue", "green")
    assert card.vocabulary.words.groups == {} and card.vocabulary.words.related == {}
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
            "camera.distance: 3.0 is greater than 2.0",
        ),
        (
            '{"format": 1, "views": {"azimuth": [{"center_deg": 0, "text": "x"}]},'
            ' "background": [0, 255]}',
            "background.brightness must be between 0 and 1, not 255",
        ),
        (
            '{"format": 1, "views": {"azimuth": [{"center_deg": 0, "text": "x"}]},'
            ' "words": {"dog": "corgi"}, "groups": {"animals": "corgi"}}',
            "malformed: TypeError: a list of strings is needed, not 'corgi'",
        ),
        (
            '{"format": 1, "views": {"azimuth": [{"center_deg": 0, "text": "x"}]},'
            ' "words": {"dog": "corgi"}, "related": ["dragon"]}',
            "malformed: AttributeError: 'list' object has no attribute 'items'",
        ),
    ],
)
def test_a_malformed_card_is_reported(broken, content, message):
    (broken / "dreamfusion.json").write_text(content)
    with pytest.raises(PriorError) as error:
        load_prior(str(broken))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_resolving_a_prior_imports_no_library(folders):
    code = (
        "import sys; from dreamfusion.priors import resolve_prior;"
        "resolve_prior(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    command = [sys.executable, "-c", code, str(folders["pixel"])]
    assert subprocess.run(command).returncode == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_gradients_are_as_precise_in_half_precision_as_large_ones(folders, dtype):
    """A mean over pixels divides by their number, which exceeds the range of float16."""
    prior = load_prior(str(folders["latent"]), PriorConfig(dtype="float32"))
    shape = (1, 3, prior.image_size, prior.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def image_gradient(size):
        leaf = images.clone().requires_grad_()
        encoded = prior.encode_image(leaf)
        push = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(0))
        (encoded * push * size).sum().backward()
        return leaf.grad / size

    exact = image_gradient(1.0)
    prior.vae.to(dtype)

    def error(size):
        return float((image_gradient(size) - exact).norm() / exact.norm())

    # The gradient of a mean over 768 pixels.
    assert error(2.0**-12) < 1.1 * error(1.0) < 0.3


def test_float32_files_are_converted_to_the_requested_precision(folders, tmp_path):
    """Without accelerate, diffusers considers only the first tensor of a file."""
    prior = load_prior(str(folders["sd3-t5"]), PriorConfig(dtype="bfloat16"))
    assert {p.dtype for p in prior.denoiser.parameters()} == {torch.bfloat16}


def test_scaling_around_the_encoder_does_not_change_float32(folders):
    prior = load_prior(str(folders["latent"]), PriorConfig(dtype="float32"))
    images = torch.rand(2, 3, prior.image_size, prior.image_size, requires_grad=True)
    found = torch.autograd.grad(prior.encode_image(images).square().sum(), images)[0]
    latents = prior.vae.encode(images * 2 - 1).latent_dist.mode() * prior.vae.config.scaling_factor
    expected = torch.autograd.grad(latents.square().sum(), images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
