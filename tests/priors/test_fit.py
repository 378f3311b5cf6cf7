"""Unsupported kinds of models, and parts that do not fit together."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedConfig

import dreamfusion as df
from dreamfusion.priors import PriorError, load_prior, resolve_prior
from dreamfusion.priors.layout import sample_size
from tests.helpers.tiny_priors import PRIORS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("fit")
    kinds = ("sd", "sdxl", "if-t5", "sd3", "sd3-t5")
    return {kind: PRIORS[kind](base / kind) for kind in kinds}


@pytest.fixture
def edited(folders, tmp_path):
    def edit(kind, file, **changes):
        folder = tmp_path / kind
        if not folder.exists():
            shutil.copytree(folders[kind], folder)
        path = folder / file
        content = json.loads(path.read_text()) | changes
        content = {key: value for key, value in content.items() if value != "absent"}
        path.write_text(json.dumps(content))
        return folder

    return edit


UNET, TRANSFORMER, INDEX = "unet/config.json", "transformer/config.json", "model_index.json"
DISTILLED = "it has no guidance, which SDS needs; use the model that it was distilled from"

UNSUPPORTED = {
    "LCM": ("sd", UNET, {"time_cond_proj_dim": 256}, "was distilled (time_cond_proj_dim in "
            f"its configuration): {DISTILLED}"),
    "guidance": ("sd3", TRANSFORMER, {"guidance_embeds": True}, "was distilled (guidance_embeds in "
                 f"its configuration): {DISTILLED}"),
    "said": ("sd", INDEX, {"is_distilled": True}, "was distilled (is_distilled in its conf"),
    "scheduler": ("sd", INDEX, {"scheduler": ["diffusers", "LCMScheduler"]}, "was distilled ("
                  f"LCMScheduler in its configuration): {DISTILLED}"),
    "no size": ("sd", UNET, {"sample_size": None}, "the config.json of its unet has sample_size "
                "null; write the height of its latents there, one number, for example 64"),
    "no size by default": ("sdxl", UNET, {"sample_size": "absent"}, "sample_size null"),
    "not square": ("sd", UNET, {"sample_size": [8, 12]}, "sample_size [8, 12]; write the height"),
    "words": ("sd", UNET, {"sample_size": "8"}, 'sample_size "8"; write the height'),
    "lists": ("sd", UNET, {"sample_size": [[8], [8]]}, "sample_size [[8], [8]]; write"),
    "pair of sd3": ("sd3", TRANSFORMER, {"sample_size": [8, 8]}, "sample_size [8, 8]; write"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_kinds_are_errors_of_one_line_before_anything_is_loaded(edited, case):
    kind, file, changes, said = UNSUPPORTED[case]
    folder = edited(kind, file, **changes)
    with pytest.raises(PriorError) as caught:
        resolve_prior(str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder)) and said in message and "\n" not in message


# Parts of another model, by the configurations that differ; and what the error contains.
MISFITS = {
    "latents": ("sd", "vae", {"latent_channels": 8}, "expected input[1, 8, 8, 8]"),
    "inpainting": ("sd", "unet", {"in_channels": 9}, "expected input[1, 4, 8, 8] to have 9 chan"),
    "images": ("sd", "vae", {"in_channels": 1}, "got 3 channels"),
    "outputs": ("sd", "unet", {"out_channels": 3}, "it predicts (1, 3, 8, 8)"),
    "texts": ("sd", "unet", {"cross_attention_dim": 24}, "cannot be multiplied"),
    "pooled texts": ("sdxl", "unet", {"projection_class_embeddings_input_dim": 40}, "multiplied"),
    "T5": ("sd3-t5", "text_encoder_3", {"d_model": 32}, "multiplied"),
    "classes": ("sd", "unet", {"num_class_embeds": 1000}, "class_labels"),
    "conditions": ("sd", "unet", {"addition_embed_type": "text_time",
                                  "addition_time_embed_dim": 4,
                                  "projection_class_embeddings_input_dim": 32}, "NoneType"),
    "patches": ("sd3-t5", "transformer", {"sample_size": 7}, "(1, 4, 6, 6)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_parts_of_several_models_are_refused(folders, tmp_path, case):
    kind, part, changes, said = MISFITS[case]
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    pipe = DiffusionPipeline.from_pretrained(folders[kind])
    old = getattr(pipe, part)
    config = old.config
    if isinstance(config, PreTrainedConfig):
        new = type(old)(type(config)(**(config.to_dict() | changes)))
    else:
        new = type(old).from_config(dict(config) | changes)
    new.save_pretrained(folder / part)
    setattr(pipe, part, new)
    for load in (lambda: load_prior(str(folder)), lambda: df.DiffusionPrior.from_pipe(pipe)):
        with pytest.raises(PriorError, match="its parts do not fit together") as caught:
            load()
        message = str(caught.value)
        assert said in message and message.endswith("): take all of them from one model")


@pytest.mark.parametrize("kind", PRIORS)
def test_parts_of_one_model_fit_together(kind, tmp_path):
    load_prior(str(PRIORS[kind](tmp_path / kind)))


def test_a_square_pair_is_one_size(folders, edited):
    folder = edited("sd", UNET, sample_size=[8, 8])
    plain, pair = load_prior(str(folders["sd"])), load_prior(str(folder))
    assert pair.shape == plain.shape == (4, 8, 8) and pair.image_size == plain.image_size == 16
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(pair.encode_image(images), plain.encode_image(images))
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert df.DiffusionPrior.from_pipe(pipe).shape == (4, 8, 8)


def test_sizes_equal_those_of_the_pipelines(folders, edited):
    assert sample_size("x", "StableDiffusion3Pipeline", {}) == 128
    # StableDiffusionPipeline uses 64 if a file of an early version has less.
    folder = edited("sd", UNET, _diffusers_version="0.8.1")
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert pipe.unet.config.sample_size == 64
    assert load_prior(str(folder)).shape == (4, 64, 64)
    assert sample_size("x", "IFPipeline", {"sample_size": 32, "_diffusers_version": "0.8.1"}) == 32


def test_a_tokenizer_of_another_model_is_refused(folders, tmp_path):
    """For example, with embeddings whose text encoder was not saved."""
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.tokenizer.add_tokens("<x>")
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    prior = load_prior(str(folder))
    prior.encode_text(["a mug"])
    with pytest.raises(PriorError, match=r"a tokenizer gives the token \d+, and"):
        prior.encode_text(["a <x>"])
