"""Incompatible parts are reported before anything is loaded."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

import dreamfusion as df
from dreamfusion.priors import PriorError, load_prior, resolve_prior
from dreamfusion.priors.fit import sample_size
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


UNET, TRANSFORMER, VAE = "unet/config.json", "transformer/config.json", "vae/config.json"
CLIP, SECOND, T5 = (f"text_encoder{suffix}/config.json" for suffix in ("", "_2", "_3"))
INDEX = "model_index.json"
DIFFERENT = "they are of different models; take both from one"
DISTILLED = "it has no guidance, which SDS needs; use the model that it was distilled from"
MADE_FROM = "which is not supported; use the text-to-image model that it was made from"

MISFITS = {
    "inpainting": ("sd", UNET, {"in_channels": 9}, "its unet takes 9 channels and its vae gives "
                   f"4: it is a model for inpainting, {MADE_FROM}"),
    "edit": ("sdxl", UNET, {"in_channels": 8}, "its unet takes 8 channels and its vae gives 4: it "
             f"is a model for image editing, {MADE_FROM}"),
    "autoencoder": ("sd", VAE, {"latent_channels": 16}, "its unet takes 4 channels and its vae "
                    f"gives 16: {DIFFERENT}"),
    "of sd3": ("sd3", VAE, {"latent_channels": 16}, "its transformer takes 4 channels and its vae "
               f"gives 16: {DIFFERENT}"),
    "super-resolution": ("if-t5", UNET, {"in_channels": 6}, "its unet takes 6 channels and "
                         "images have 3: use a text-to-image model"),
    "out": ("sd", UNET, {"out_channels": 3}, "its unet takes 4 channels and returns 3"),
    "colours": ("sd", VAE, {"in_channels": 1}, "its vae has in_channels 1, images have 3"),
    "no number": ("sd", UNET, {"in_channels": "four"}, "the config.json of its unet has "
                  "in_channels four, which is no positive number"),
    "text": ("sd", CLIP, {"hidden_size": 24}, "its unet takes texts of width 16, and its "
             f"text_encoder gives 24: {DIFFERENT}"),
    "text by default": ("sd", CLIP, {"hidden_size": "absent"}, "its text_encoder gives 512"),
    "widths": ("sd", UNET, {"cross_attention_dim": [16, 24]}, "its unet takes texts of width "
               f"[16, 24], and its text_encoder gives 16: {DIFFERENT}"),
    "texts": ("sdxl", SECOND, {"hidden_size": 24}, "its unet takes texts of width 32, and its "
              f"text_encoder and text_encoder_2 give 40: {DIFFERENT}"),
    "pooled": ("sdxl", SECOND, {"projection_dim": 4}, "its unet takes 32 numbers for pooled text "
               f"and sizes, and its text_encoder_2 and six sizes give 4 + 24: {DIFFERENT}"),
    "T5": ("if-t5", CLIP, {"d_model": 32}, "its unet takes texts of width 24, and its "
           f"text_encoder gives 32: {DIFFERENT}"),
    "T5 of sd3": ("sd3-t5", T5, {"d_model": 32}, "its transformer takes texts of width 40, and "
                  f"its text_encoder_3 gives 32: {DIFFERENT}"),
    "CLIPs of sd3": ("sd3", CLIP, {"hidden_size": 32}, "its transformer takes texts of width 40, "
                     f"and its text_encoder and text_encoder_2 give 48: {DIFFERENT}"),
    "pooled of sd3": ("sd3", SECOND, {"projection_dim": 4}, "its transformer takes pooled texts "
                      f"of width 16, and its text_encoder and text_encoder_2 give 12: {DIFFERENT}"),
    "classes": ("sd", UNET, {"num_class_embeds": 1000}, "its unet has num_class_embeds 1000, which "
                "a StableDiffusionPipeline does not support"),
    "images": ("sd", UNET, {"addition_embed_type": "image"}, "its unet has addition_embed_type "
               "image, which a StableDiffusionPipeline does not support"),
    "LCM": ("sd", UNET, {"time_cond_proj_dim": 256}, "was distilled (time_cond_proj_dim in "
            f"unet/config.json): {DISTILLED}"),
    "guidance": ("sd3", TRANSFORMER, {"guidance_embeds": True}, "was distilled (guidance_embeds in "
                 f"transformer/config.json): {DISTILLED}"),
    "said": ("sd", INDEX, {"is_distilled": True}, f"was distilled (is_distilled in {INDEX}): "),
    "scheduler": ("sd", INDEX, {"scheduler": ["diffusers", "LCMScheduler"]}, "was distilled (a "
                  f"LCMScheduler in {INDEX}): {DISTILLED}"),
    "no size": ("sd", UNET, {"sample_size": None}, "the config.json of its unet has sample_size "
                "null, which every pipeline requires; write the height of its latents"),
    "no size by default": ("sdxl", UNET, {"sample_size": "absent"}, "sample_size null"),
    "not square": ("sd", UNET, {"sample_size": [8, 12]}, "the config.json of its unet has "
                   "sample_size [8, 12]; only one number or a square pair is supported"),
    "words": ("sd", UNET, {"sample_size": "8"}, "has sample_size 8; only one number or"),
    "lists": ("sd", UNET, {"sample_size": [[8], [8]]}, "has sample_size [[8], [8]]; only one"),
    "no list": ("sd", UNET, {"sample_size": []}, "has sample_size []; only one"),
    "lists of widths": ("sd", UNET, {"cross_attention_dim": [[16], {}]}, "[[16], {}], and its"),
    "pair of sd3": ("sd3", TRANSFORMER, {"sample_size": [8, 8]}, "has sample_size [8, 8]; only one "
                    "number is supported"),
    "patches": ("sd3", TRANSFORMER, {"sample_size": 7}, "sample_size 7, which its patch_size 2 "
                "does not divide"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_incompatible_parts_are_errors_of_one_line(edited, case):
    kind, file, changes, said = MISFITS[case]
    folder = edited(kind, file, **changes)
    with pytest.raises(PriorError) as caught:
        resolve_prior(str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder)) and said in message and "\n" not in message


@pytest.mark.parametrize("kind", PRIORS)
def test_parts_of_one_model_are_compatible(kind, tmp_path):
    resolve_prior(str(PRIORS[kind](tmp_path / kind)))


def test_a_loaded_pipeline_with_incompatible_parts_is_refused(folders):
    pipe = DiffusionPipeline.from_pretrained(folders["sd"])
    config = dict(pipe.unet.config) | {"in_channels": 9}
    pipe.unet = UNet2DConditionModel.from_config(config)
    with pytest.raises(PriorError, match="it is a model for inpainting"):
        df.DiffusionPrior.from_pipe(pipe)


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
    with pytest.raises(PriorError, match=r"the tokenizer of text_encoder gives the token \d+, and"):
        prior.encode_text(["a <x>"])
