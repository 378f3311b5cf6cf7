"""Missing or invalid weights are refused, not replaced by random numbers."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfusion.priors import PriorError, load_prior, resolve_prior
from tests.helpers.tiny_priors import save_latent_prior

UNET = "unet/diffusion_pytorch_model.safetensors"
CLIP = "text_encoder/model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return save_latent_prior(tmp_path / "prior")


def change(file, function):
    tensors = load_file(file)
    save_file(function(tensors), file, metadata={"format": "pt"})


def load(folder):
    return load_prior(str(folder), prompts=["a mug", ""])


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def renamed(function):
    return lambda tensors: {function(key): value for key, value in tensors.items()}


def as_lora(key):
    return re.sub(r"to_q[.]weight$", "to_q.base_layer.weight", key)


CASES = {
    "missing": (UNET, without("conv_in.weight"), "lacks 1 of its weights, for example "
                "conv_in.weight; the file is incomplete or of another kind of model"),
    "missing text": (CLIP, without("final_layer_norm.bias"), "lacks 1 of its weights, for example "
                     "final_layer_norm.bias; the file is incomplete or of another kind of model"),
    "lora": (UNET, renamed(as_lora), "to_q.weight; the file is incomplete or of another kind"),
    "nan": (UNET, lambda t: t | {"conv_in.bias": t["conv_in.bias"] * torch.nan},
            "has weights that are not finite, for example conv_in.bias"),
    "inf in text": (CLIP, lambda t: t | {"final_layer_norm.bias": t["final_layer_norm.bias"] / 0},
                    "has weights that are not finite, for example final_layer_norm.bias"),
    "shape": (UNET, lambda t: t | {"conv_in.bias": torch.zeros(3)}, "conv_in.bias"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "function", "said"), CASES.values(), ids=CASES)
def test_weights_that_do_not_match_the_model_are_refused(folder, file, function, said):
    change(folder / file, function)
    with pytest.raises(PriorError) as caught:
        load(folder)
    part = file.partition("/")[0]
    assert f"its {part} in {folder / part}" in str(caught.value)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_additional_weights_are_ignored(folder):
    expected = load(folder).encode_text(["a mug"]).tokens
    change(
        folder / CLIP,
        lambda t: (
            {f"text_model.{key}": value for key, value in t.items()}
            | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        ),
    )
    assert torch.equal(load(folder).encode_text(["a mug"]).tokens, expected)


def test_a_missing_shard_is_reported(folder):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(PriorError, match="has 1 of 2 files of weights"):
        resolve_prior(str(folder))


def test_packed_weights_and_pointers_are_refused(folder):
    change(folder / UNET, lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()})
    with pytest.raises(PriorError, match="holds weights in F8_E4M3, which is not supported"):
        resolve_prior(str(folder))
    (folder / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PriorError, match="was cut off or is a pointer of Git LFS"):
        resolve_prior(str(folder))
