"""Long and unusual prompts give the same embeddings as in diffusers, and a warning if a part has no
effect."""

import json
import shutil
import warnings

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

import dreamfusion as df
from dreamfusion.priors import PriorError, load_prior
from dreamfusion.utils.errors import RunWarning
from tests.helpers.tiny_priors import PRIORS

LONG = "a mug, " * 40 + "a blue corgi"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("texts")
    kinds = ("sd", "sdxl", "sd3-t5", "if-t5", "if-clip")
    return {kind: PRIORS[kind](base / kind) for kind in kinds}


def pipe_of(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    for name, part in pipe.components.items():
        if name.startswith("text_encoder"):
            part.float()
    return pipe


def reference(pipe, prompt):
    """Diffusers' (tokens, pooled or None)."""
    options = {"prompt_2": None, "prompt_3": None}
    if not isinstance(pipe, StableDiffusion3Pipeline):
        options = {}
    found = pipe.encode_prompt(
        prompt=prompt,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **options,
    )
    return found[0], (found[2] if len(found) == 4 else None)


def agree(prior, pipe, prompt):
    found, (tokens, pooled) = prior.encode_text([prompt]), reference(pipe, prompt)
    torch.testing.assert_close(found.tokens, tokens)
    if pooled is not None:
        torch.testing.assert_close(found.pooled, pooled)


def with_inversion(pipe):
    """The pipeline with an embedding of three vectors, as from textual inversion."""
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({"<my-mug>": vectors}, token="<my-mug>")
    if hasattr(pipe, "text_encoder_2"):
        pipe.load_textual_inversion(
            {"<my-mug>": vectors},
            token="<my-mug>",
            text_encoder=pipe.text_encoder_2,
            tokenizer=pipe.tokenizer_2,
        )
    return pipe


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_an_embedding_of_several_vectors_is_supported(folders, tmp_path, kind):
    pipe = with_inversion(pipe_of(folders[kind]))
    prompt = "a red <my-mug>, front view"
    names = ["<my-mug>", "<my-mug>_1", "<my-mug>_2"]
    assert (
        pipe.maybe_convert_prompt(prompt, pipe.tokenizer) == f"a red {' '.join(names)}, front view"
    )
    pipe.save_pretrained(tmp_path / kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(load_prior(str(tmp_path / kind)), pipe, prompt)
        agree(load_prior(str(tmp_path / kind), prompts=[prompt]), pipe, prompt)
        agree(df.DiffusionPrior.from_pipe(pipe), pipe, prompt)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3-t5", "if-t5"])
def test_a_long_prompt_is_truncated_as_in_diffusers_with_a_warning(folders, kind):
    pipe = pipe_of(folders[kind])
    for prior in (load_prior(str(folders[kind])), df.DiffusionPrior.from_pipe(pipe)):
        with pytest.warns(RunWarning) as caught:
            agree(prior, pipe, LONG)
        (said,) = (str(warning.message) for warning in caught)
        assert "cuts its texts off after 77 tokens and ignores '" in said
        assert said.count("mug") > 5 and said.endswith("; shorten the prompt")


def test_t5_of_stable_diffusion_3_encodes_256_tokens(folders):
    prior = load_prior(str(folders["sd3-t5"]))
    with pytest.warns(RunWarning):
        found = prior.encode_text([LONG, LONG.replace("blue", "green")])
    clip, t5 = (found.tokens[0] - found.tokens[1]).abs().amax(dim=1).split([77, 256])
    assert clip.max() == 0 and t5.max() > 1e-3
    with pytest.warns(RunWarning) as caught:
        prior.encode_text(["a mug, " * 85 + "blue corgi"])
    assert len(caught) == 2
    assert "after 256 tokens and ignores 'blue corgi'" in str(caught[1].message)


def test_truncated_view_words_cause_one_warning_for_all_prompts(folders):
    views = [f"{'a ' * 75}, {side} view" for side in ("front", "left", "right", "back")]
    with pytest.warns(RunWarning) as caught:
        load_prior(str(folders["sd"]), prompts=views)
    (said,) = (str(warning.message) for warning in caught)
    assert "ignores ', front view', ', left view', ', right view' and 1 more; shorten" in said


def test_the_embedded_kind_of_prior_truncates_too(folders):
    prior = load_prior(str(folders["if-clip"]))
    with pytest.warns(RunWarning, match="cuts its texts off after 77 tokens"):
        found = prior.encode_text([LONG])
    assert found.tokens.shape == (1, 77, 16)


def test_a_tokenizer_without_a_limit_uses_its_encoders_limit(folders, tmp_path):
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    path = folder / "tokenizer" / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["model_max_length"]
    path.write_text(json.dumps(content))
    found = load_prior(str(folder)).encode_text(["a mug"]).tokens
    assert torch.equal(found, load_prior(str(folders["sd"])).encode_text(["a mug"]).tokens)


@pytest.mark.parametrize("zeros", [True, False])
def test_an_empty_prompt_equals_diffusers_missing_negative_prompt(folders, zeros):
    pipe = StableDiffusionXLPipeline.from_pretrained(
        folders["sdxl"], force_zeros_for_empty_prompt=zeros
    )
    prior = df.DiffusionPrior.from_pipe(pipe)
    _, tokens, _, pooled = pipe.encode_prompt("a mug", device="cpu")
    found = prior.encode_text([""])
    assert torch.equal(found.tokens, tokens.float()) and torch.equal(found.pooled, pooled.float())
    assert (found.tokens.abs().max() == 0) == zeros


def test_a_pipeline_without_its_text_encoder_is_refused(folders):
    pipe = StableDiffusionPipeline.from_pretrained(folders["sd"], text_encoder=None)
    with pytest.raises(PriorError, match="has no text_encoder, which the prompts need"):
        df.DiffusionPrior.from_pipe(pipe)
