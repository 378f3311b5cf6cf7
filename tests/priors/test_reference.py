"""Compares each supported pipeline with diffusers: texts, noise levels and the gradient of SDS.

The reference is slow and independent: diffusers' pipeline loads the folder, encodes the prompts and
adds the noise. Its network is called for one image and one text at a time, and the formulas are
implemented separately.
"""

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.distillation.functional import sds
from dreamfusion.priors import load_prior
from tests.helpers.tiny_priors import PRIORS

PROMPT = "a Red corgi, front view"


@pytest.fixture(scope="module", params=PRIORS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return PRIORS[kind](tmp_path_factory.mktemp("priors") / kind)


@pytest.fixture(scope="module")
def prior(folder):
    return load_prior(str(folder), PriorConfig(dtype="float32"))


@pytest.fixture(scope="module")
def pipeline(folder):
    absent = {"text_encoder_3": None, "tokenizer_3": None} if folder.name == "sd3" else {}
    loaded = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **absent)
    for name, part in loaded.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.float()
    return loaded


def reference_texts(pipeline, kind):
    """Diffusers' embeddings of PROMPT and of no prompt: (tokens, pooled or None) each."""
    if kind == "sdxl":
        tokens, empty, pooled, empty_pooled = pipeline.encode_prompt(PROMPT, device="cpu")
        return (tokens, pooled), (empty, empty_pooled)
    if kind.startswith("sd3"):
        tokens, empty, pooled, empty_pooled = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, "cpu")
        return (tokens, pooled), (empty, empty_pooled)
    if kind.startswith("if"):
        # One text at a time, as in `TextEncoders`.
        return tuple(
            (pipeline.encode_prompt(text, do_classifier_free_guidance=False, device="cpu")[0], None)
            for text in (PROMPT, "")
        )
    tokens, empty = pipeline.encode_prompt(
        PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return (tokens, None), (empty, None)


@torch.no_grad()
def test_text_embeddings_equal_those_of_diffusers(prior, pipeline, kind):
    for text, (tokens, pooled) in zip((PROMPT, ""), reference_texts(pipeline, kind), strict=True):
        found = prior.encode_text([text])
        if kind.startswith("if-clip"):
            # Diffusers masks the padding, but the embedded prior was trained without a mask.
            real = len(pipeline.tokenizer(text).input_ids)
            torch.testing.assert_close(found.tokens[:, :real], tokens[:, :real])
            ids = pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
            tokens = pipeline.text_encoder(ids).last_hidden_state
        torch.testing.assert_close(found.tokens, tokens)
        assert (found.pooled is None) == (pooled is None)
        if pooled is not None:
            torch.testing.assert_close(found.pooled, pooled)


def test_the_gradient_depends_on_the_text(prior):
    """Otherwise these tests would not detect misplaced embeddings."""
    noisy, t = torch.randn(1, prior.channels, 8, 8), torch.tensor([500])
    a, b = (
        prior.predict(noisy, t, Condition(prior.encode_text([text])))
        for text in ("a mug", "a chair")
    )
    assert (a - b).abs().max() > 1e-4


def test_noise_levels_equal_the_schedulers(prior, pipeline, kind):
    scheduler = pipeline.scheduler
    clean, noise = torch.randn(2, 1, 3, 4, 4)
    steps = len(prior.alphas)
    assert steps == scheduler.config.num_train_timesteps
    for t in (0, 17, 500, steps - 1):
        mixed = prior.alphas[t] * clean + prior.sigmas[t] * noise
        if kind.startswith("sd3"):
            time = prior.schedule.times[t]
            torch.testing.assert_close(time / 1000, prior.sigmas[t])
            expected = scheduler.scale_noise(clean, time[None], noise)
        elif kind == "sdxl":
            # Euler's add_noise uses another scale; the betas are DDPM's.
            expected = DDPMScheduler.from_config(scheduler.config).add_noise(
                clean, noise, torch.tensor([t])
            )
        else:
            expected = scheduler.add_noise(clean, noise, torch.tensor([t]))
        torch.testing.assert_close(mixed, expected)
    assert (prior.sigmas[1:] > prior.sigmas[:-1]).all()
    if kind == "sd-v":
        assert prior.alphas[-1] == 0.0
    if kind.startswith("sd3"):
        assert prior.sigmas[-1] == 1.0 and prior.prediction == "flow"


def reference_gradient(pipeline, kind, images, guidance, result):
    """d SDS / d images, by autograd through the image encoder."""
    images = images.detach().clone().requires_grad_()
    encoded = F.interpolate(images, (16, 16), mode="bilinear", antialias=True) * 2 - 1
    if getattr(pipeline, "vae", None) is not None:
        config = pipeline.vae.config
        encoded = pipeline.vae.encode(encoded).latent_dist.mean
        encoded = (encoded - (config.shift_factor or 0)) * config.scaling_factor
    flow = kind.startswith("sd3")
    scheduler = pipeline.scheduler if flow else DDPMScheduler.from_config(pipeline.scheduler.config)
    gradients = []
    for i, t in enumerate(result.timesteps):
        noise, clean = result.noise[i : i + 1], encoded[i : i + 1].detach()
        outputs = []
        if flow:
            sigma = scheduler.sigmas[999 - t]
            noisy = scheduler.scale_noise(clean, sigma[None] * 1000, noise)
        else:
            noisy = scheduler.add_noise(clean, noise, t[None])
        for tokens, pooled in reversed(reference_texts(pipeline, kind)):
            with torch.no_grad():
                if kind.startswith("if-clip"):
                    text = PROMPT if outputs else ""
                    ids = pipeline.tokenizer(text, padding="max_length", return_tensors="pt")
                    tokens = pipeline.text_encoder(ids.input_ids).last_hidden_state
                if flow:
                    output = pipeline.transformer(noisy, tokens, pooled, sigma[None] * 1000).sample
                else:
                    extra = None
                    if pooled is not None:
                        ids = pipeline._get_add_time_ids(
                            (16, 16), (0, 0), (16, 16), torch.float32, 8
                        )
                        extra = {"text_embeds": pooled, "time_ids": ids}
                    output = pipeline.unet(noisy, t, tokens, added_cond_kwargs=extra).sample
                outputs.append(output[:, : clean.shape[1]])
        guided = outputs[0] + guidance * (outputs[1] - outputs[0])
        if flow:
            weight, predicted = sigma**2, noisy + (1 - sigma) * guided
        else:
            alpha_bar = scheduler.alphas_cumprod[t]
            weight = 1 - alpha_bar
            predicted = {
                "epsilon": guided,
                "v_prediction": alpha_bar.sqrt() * guided + weight.sqrt() * noisy,
                "sample": (noisy - alpha_bar.sqrt() * guided) / weight.sqrt(),
            }[scheduler.config.prediction_type]
        gradients.append(weight * (predicted - noise))
    encoded.backward(torch.cat(gradients))
    return images.grad


def distil(prior, images):
    return sds(
        prior, images, prior.encode_text([PROMPT]), prior.encode_text([""]), guidance=7.5,
        t_range=(0.02, 0.98), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def test_sds_equals_an_independent_reference(prior, pipeline, kind):
    images = torch.rand(2, 3, 24, 24, requires_grad=True)
    result = distil(prior, images)
    result.loss.backward()
    expected = reference_gradient(pipeline, kind, images, 7.5, result)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(images.grad, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_nothing_is_stored_for_a_backward_pass_through_the_denoiser(prior):
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    prior.encode_text([PROMPT, ""])
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t) or t, lambda t: t):
        alone = prior.encode_image(images)
        before = len(sizes)
        result = distil(prior, images)
    # As much as the image encoder keeps, and the gradient of the loss.
    assert len(sizes) - before <= before + 1
    weights = {parameter.data_ptr() for parameter in prior.denoiser.parameters()}
    assert not weights & {tensor.data_ptr() for tensor in sizes}
    assert not any(parameter.requires_grad for parameter in prior.denoiser.parameters())
    assert alone.requires_grad and not result.predicted_noise.requires_grad


def test_attention_uses_torchs_fused_function(prior):
    """Otherwise, memory would grow with the fourth power of the image size."""
    names = {type(processor).__name__ for processor in prior.denoiser.attn_processors.values()}
    assert names and all("2_0" in name for name in names)


HALVES = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # with the unit roundoff of each


def rounding_error(module, work, dtype):
    """The relative error of `work` with `module` in `dtype`, the unit roundoff u, and the number of
    layers that run.

    Each layer rounds its input, its weights and its result, each by at most u relative to their
    size. These errors are independent, so that n of them add up to about u sqrt(n). A backward pass
    doubles their number.
    """
    layers = set()
    hooks = [
        part.register_forward_hook(lambda layer, *_: layers.add(layer))
        for part in module.modules()
        if not list(part.children())
    ]
    exact = work()
    for hook in hooks:
        hook.remove()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.to(dtype)
    try:
        found = work()
    finally:
        module.to(torch.float32)
        module.load_state_dict(before)
    error = float((found - exact).norm() / exact.norm())
    return error, HALVES[dtype], len(layers)


@pytest.mark.parametrize("dtype", HALVES)
def test_denoisers_in_half_precision_are_within_rounding_errors(prior, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    size = prior.denoiser.config.sample_size
    noisy = torch.randn(4, prior.channels, size, size, generator=generator)
    text = prior.encode_text([PROMPT] * 4)

    def predict():
        monkeypatch.setattr(prior, "dtype", prior.denoiser.dtype)
        return prior.predict(noisy, torch.tensor([50, 300, 600, 950]), Condition(text))

    error, u, layers = rounding_error(prior.denoiser, predict, dtype)
    assert u / 4 < error < u * (3 * layers) ** 0.5


@pytest.mark.parametrize("dtype", HALVES)
def test_encoders_in_half_precision_are_within_rounding_errors(prior, dtype):
    if prior.vae is None:
        pytest.skip("judges pixels")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    push = torch.randn(2, 4, 8, 8, generator=generator)

    def gradient():
        leaf = images.clone().requires_grad_()
        encoded = prior.encode_image(leaf)
        # As small as for a mean over the pixels of a real image.
        (encoded * push * 1e-5).sum().backward()
        return torch.cat([leaf.grad.flatten() * 1e5, encoded.detach().flatten()])

    error, u, layers = rounding_error(prior.vae, gradient, dtype)
    assert u / 4 < error < u * (6 * layers) ** 0.5
