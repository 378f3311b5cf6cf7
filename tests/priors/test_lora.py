"""LoRA files: merged into the weights as diffusers applies them, or refused by name."""

from __future__ import annotations

import diffusers
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from dreamfusion.cli.app import main
from dreamfusion.config.layers import ConfigError, build_config, to_mapping
from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.priors import PriorError, load_prior, resolve_prior
from dreamfusion.priors.identity import has_weights, identify
from dreamfusion.priors.resolve import read_lora
from tests.helpers.tiny_priors import save_latent_prior, save_xl_prior

ATTENTION, PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"], ["q_proj", "v_proj"]


def adapters(model, targets, seed):
    """Random LoRA weights of a model, which change its output."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    inject_adapter_in_model(config, model)
    found = get_peft_model_state_dict(model)
    return {name: value.detach().clone() for name, value in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_latent_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def style(folder, tmp_path_factory):
    """A LoRA of U-Net and text encoder, saved by diffusers."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.to(torch.float32)
    unet, text = adapters(pipe.unet, ATTENTION, 0), adapters(pipe.text_encoder, PROJECTIONS, 1)
    out = tmp_path_factory.mktemp("lora")
    pipe.save_lora_weights(out, unet_lora_layers=unet, text_encoder_lora_layers=text)
    (file,) = out.glob("*.safetensors")
    return file


def predict(prior, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn((1, *prior.shape), generator=generator)
    text = prior.encode_text(["a red mug"])
    return prior.predict(noisy, torch.tensor([300]), Condition(text))


def prior_with(folder, *loras):
    return load_prior(str(folder), PriorConfig(lora=tuple(map(str, loras))))


def test_predictions_equal_those_of_diffusers_and_peft(folder, style):
    """The U-Net by diffusers' own loader; the text encoder by peft, since transformers' loader
    needs a newer one."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.to(torch.float32)
    weights = load_file(style)
    pipe.unet.load_lora_adapter(weights, prefix="unet", adapter_name="style")
    pipe.unet.set_adapters(["style"], [0.6])
    adapters(pipe.text_encoder, PROJECTIONS, 1)
    for module in pipe.text_encoder.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] = 0.6
    ours = prior_with(folder, f"{style}:0.6")
    tokens = pipe.tokenizer(
        "a red mug", padding="max_length", max_length=pipe.tokenizer.model_max_length,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        text = pipe.text_encoder(tokens.input_ids)[0]
        found = ours.encode_text(["a red mug"]).tokens
        torch.testing.assert_close(found, text, atol=1e-5, rtol=1e-4)
        noisy = torch.randn((1, *ours.shape), generator=torch.Generator().manual_seed(0))
        expected = pipe.unet(noisy, torch.tensor([300]), text).sample
    torch.testing.assert_close(predict(ours), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(predict(ours), predict(load_prior(str(folder))), atol=1e-3)


def test_weight_zero_gives_the_same_bits_as_no_lora(folder, style):
    assert predict(prior_with(folder, f"{style}:0")).equal(predict(load_prior(str(folder))))


def test_several_files_add_up(folder, style):
    twice = predict(prior_with(folder, f"{style}:0.25", f"{style}:0.5"))
    torch.testing.assert_close(
        twice, predict(prior_with(folder, f"{style}:0.75")), atol=1e-4, rtol=1e-4
    )


def test_files_in_kohyas_names_are_converted(folder, style, tmp_path):
    named = {}
    for name, value in load_file(style).items():
        part, _, rest = name.partition(".")
        if part != "unet":
            continue
        module, _, side = rest.rpartition(".lora_")
        kohya = "lora_unet_" + module.replace(".", "_")
        named[f"{kohya}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = value
        named[f"{kohya}.alpha"] = torch.tensor(3.0)
    save_file(named, tmp_path / "kohya.safetensors")
    unet_alone = {k: v for k, v in load_file(style).items() if k.startswith("unet.")}
    save_file(unet_alone, tmp_path / "unet.safetensors")
    ours = predict(prior_with(folder, tmp_path / "kohya.safetensors"))
    # Without alphas in the file, the scale is 1 in place of alpha / rank = 3 / 2.
    same = predict(prior_with(folder, f"{tmp_path / 'unet.safetensors'}:1.5"))
    torch.testing.assert_close(ours, same, atol=1e-4, rtol=1e-4)


def test_a_lora_of_another_model_is_refused_by_name(folder, style, tmp_path):
    xl = save_xl_prior(tmp_path / "xl")
    with pytest.raises(PriorError, match=r"is a LoRA of another model than .*xl"):
        prior_with(xl, style)
    save_file({"transformer.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "flux.safetensors")
    with pytest.raises(PriorError, match=r"flux\.safetensors is a LoRA of another model"):
        prior_with(folder, tmp_path / "flux.safetensors")


def test_text_encoders_are_found_under_their_older_names(folder, style, tmp_path):
    """Before version 5 of transformers, the modules of CLIP's text encoder were in text_model."""
    older = {
        k.replace("text_encoder.", "text_encoder.text_model."): v
        for k, v in load_file(style).items()
    }
    save_file(older, tmp_path / "older.safetensors")
    assert predict(prior_with(folder, tmp_path / "older.safetensors")).equal(
        predict(prior_with(folder, style))
    )


def test_bad_files_are_one_line(folder, tmp_path):
    with pytest.raises(PriorError, match=r"no such LoRA file: .*none\.safetensors"):
        prior_with(folder, tmp_path / "none.safetensors")
    (tmp_path / "old.pt").write_bytes(b"x")
    with pytest.raises(PriorError, match=r"not a \.safetensors file"):
        prior_with(folder, tmp_path / "old.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(PriorError, match=r"broken\.safetensors cannot be read as a LoRA"):
        prior_with(folder, tmp_path / "broken.safetensors")


def test_a_file_may_have_a_colon_in_its_name(tmp_path):
    file = tmp_path / "a:b.safetensors"
    file.write_bytes(b"")
    assert read_lora(str(file)) == (file, 1.0)
    assert read_lora(f"{file}:-0.5") == (file, -0.5)


def test_the_identity_includes_loras(folder, style):
    plain = resolve_prior(str(folder))
    styled = resolve_prior(str(folder), loras=[f"{style}:0.5"])
    assert identify(plain).weights != identify(styled).weights
    assert has_weights(styled, identify(styled).weights)
    assert not has_weights(resolve_prior(str(folder), loras=[str(style)]), identify(styled).weights)


def test_the_setting_is_a_list_of_texts(style):
    assert build_config({"prior": {"lora": str(style)}}).prior.lora == (str(style),)
    config = build_config({"prior": {"lora": ["a", "b:0.5"]}})
    assert to_mapping(config)["prior"]["lora"] == ["a", "b:0.5"]
    with pytest.raises(ConfigError):
        build_config({"prior": {"lora": [1]}})


def test_priors_without_weights_take_none(style, tmp_path, capsys):
    command = ["train", "a mug", "--prior", "oracle", "--lora", str(style)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "the prior oracle takes no LoRA files" in capsys.readouterr().err


def test_a_run_keeps_its_loras(folder, style, tmp_path, monkeypatch):
    monkeypatch.chdir(style.parent)
    small = [
        "--set=output.video_frames=1",
        "--set=output.video_size=16",
        "--set=render.resolution=16",
    ]
    small += ["--set=output.mesh_resolution=16", "--set=output.texture_size=0"]
    command = ["train", "a red mug", "--prior", str(folder), "--lora", f"{style.name}:0.5"]
    main([*command, "--steps", "1", "--out", str(tmp_path / "run"), *small])
    from dreamfusion.runs.folder import find_run

    assert find_run(tmp_path / "run").read_config().prior.lora == (f"{style}:0.5",)
