"""MVDream's U-Net: Stable Diffusion's with joint attention and cameras, from its own files."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

import dreamfusion as df
from dreamfusion.config.layers import build_config, override
from dreamfusion.config.presets import read_settings
from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.distillation.functional import sds
from dreamfusion.graphics.cameras import orbit_cameras, turntable_cameras
from dreamfusion.priors import PriorError, load_prior, resolve_prior
from dreamfusion.priors.mvdream.unet import camera_matrices
from dreamfusion.training.trainer import Trainer
from tests.helpers.tiny_priors import save_mvdream_prior

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_mvdream_prior(tmp_path_factory.mktemp("priors") / "mvdream")


@pytest.fixture(scope="module")
def prior(folder):
    return load_prior(str(folder), PriorConfig(dtype="float32"))


def inputs(prior, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn((n, *prior.shape), generator=generator)
    timesteps = torch.full((n,), 500)
    return noisy, timesteps, prior.encode_text(["a red corgi"])


def test_cameras_are_unit_poses_in_blenders_axes():
    azimuth, elevation = torch.arange(24.0) * 15 - 100, torch.arange(24.0) * 5 - 30
    cameras = orbit_cameras(azimuth, elevation, torch.full((24,), 2.8), torch.full((24,), 40.0))
    for matrix, a, e in zip(
        camera_matrices(cameras).view(-1, 4, 4), azimuth.tolist(), elevation.tolist(), strict=True
    ):
        a, e = math.radians(a), math.radians(e)
        backward = torch.tensor([
            math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)
        ])  # fmt: skip
        right = torch.tensor([math.cos(a), math.sin(a), 0.0])
        expected = torch.eye(4)
        expected[:3] = torch.stack(
            [right, torch.linalg.cross(backward, right), backward, backward], dim=1
        )
        torch.testing.assert_close(matrix, expected, atol=1e-6, rtol=0)


def test_a_group_is_denoised_by_attention_over_its_views(prior, monkeypatch):
    """The reference computes self-attention by a matrix over all tokens of a group."""
    noisy, timesteps, text = inputs(prior, 8)
    turn = turntable_cameras(4)
    cameras = type(turn).cat([turn, turn])
    found = prior.predict(noisy, timesteps, Condition(text, cameras))

    class Reference:
        def __call__(self, attn, x, encoder_hidden_states=None, frames=None, **_):
            context = x if encoder_hidden_states is None else encoder_hidden_states
            q, k, v = (
                layer(values).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for layer, values in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
            )
            if encoder_hidden_states is None:  # each view asks all views of its group
                k, v = (
                    torch.stack([
                        torch.cat(list(t[4 * (i // 4) : 4 * (i // 4) + 4]), dim=1) for i in range(8)
                    ])
                    for t in (k, v)
                )  # fmt: skip
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
            return attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))

    before = prior.denoiser.attn_processors
    prior.denoiser.set_attn_processor(Reference())
    monkeypatch.setattr("dreamfusion.priors.model._n_pieces", lambda n: 1)
    expected = prior.predict(noisy, timesteps, Condition(text, cameras))
    prior.denoiser.set_attn_processor(before)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_views_depend_on_their_group_only(prior):
    noisy, timesteps, text = inputs(prior, 8)
    turn = turntable_cameras(4)
    condition = Condition(text, type(turn).cat([turn, turn]))
    found = prior.predict(noisy, timesteps, condition)
    changed = noisy.clone()
    changed[1] += 1.0
    others = prior.predict(changed, timesteps, condition)
    assert torch.equal(found[4:], others[4:])
    assert all(not torch.allclose(found[i], others[i], atol=1e-3) for i in range(4))
    # The camera matters, and its distance does not.
    turned = Condition(text, type(turn).cat([turntable_cameras(4, elevation_deg=40.0), turn]))
    assert not torch.allclose(found[:4], prior.predict(noisy, timesteps, turned)[:4], atol=1e-3)
    far = Condition(text, type(turn).cat([turntable_cameras(4, distance=5.0), turn]))
    torch.testing.assert_close(prior.predict(noisy, timesteps, far), found)


def test_an_image_without_camera_is_denoised_by_stable_diffusions_unet(prior):
    noisy, timesteps, text = inputs(prior, 3)
    found = prior.predict(noisy, timesteps, Condition(text))
    config = {k: v for k, v in prior.denoiser.config.items() if not k.startswith("_")}
    config |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    plain = UNet2DConditionModel(**config)
    weights = prior.denoiser.state_dict()
    plain.load_state_dict({k: v for k, v in weights.items() if "class_embedding" not in k})
    with torch.no_grad():
        expected = plain(noisy, timesteps, text.tokens.expand(3, -1, -1)).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_close(folder, prior):
    half = load_prior(str(folder), PriorConfig(dtype="bfloat16"))
    noisy, timesteps, text = inputs(prior, 4)
    condition = Condition(text, turntable_cameras(4))
    exact = prior.predict(noisy, timesteps, condition)
    error = (half.predict(noisy, timesteps, condition) - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_its_preset_trains_and_can_be_distilled_by_vsd(folder, prior):
    assert resolve_prior(str(folder)).preset == "mvdream" and prior.group_size == 4
    small = {
        "prompt": "a red corgi",
        "prior": {"negative_prompt": "flat"},
        "steps": 3,
        "render": {"resolution": 16},
        "scene": {
            "marching": {"step_size": 0.05},
            "field": {"log2_table_size": 8, "max_resolution": 32, "levels": 4, "hidden": 8},
        },
    }
    config = build_config(*read_settings("mvdream"), small)
    found = list(Trainer(config, prior))
    assert all(len(set(metrics.timesteps)) == 1 for metrics in found)
    config = override(config, {"estimator": {"name": "vsd"}})
    assert all(metrics.gradient_norm > 0 for metrics in Trainer(config, load_prior(str(folder))))
    with pytest.raises(df.UserError, match=r"set camera\.views to a multiple of 4"):
        next(iter(Trainer(override(config, {"camera": {"views": 2}}), load_prior(str(folder)))))


def test_the_functional_form_takes_groups(prior):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 16, 16, generator=generator).requires_grad_()
    result = sds(
        prior, images, prior.encode_text(["a red corgi"]), prior.encode_text([""]), guidance=50.0,
        t_range=(0.02, 0.98), cameras=turntable_cameras(4), generator=generator,
    )  # fmt: skip
    result.loss.backward()
    assert len(set(result.timesteps.tolist())) == 1 and images.grad.abs().max() > 0


def edited(folder, target, **changes):
    shutil.copytree(folder, target)
    path = target / "unet" / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return target


def test_other_models_are_refused_in_one_line(folder, tmp_path):
    for changes, expected in (
        ({"ip_dim": 16}, "is an ImageDream, which needs an image; use ashawkey/mvdream"),
        ({"camera_dim": None}, "is not MVDream's: KeyError: 'camera_dim'"),
        ({"channel_mult": 2}, "is not MVDream's: TypeError"),
        ({"context_dim": 8}, "size mismatch"),
    ):
        with pytest.raises(PriorError, match=expected) as error:
            load_prior(str(edited(folder, tmp_path / str(len(str(changes))), **changes)))
        assert "\n" not in str(error.value)


def test_missing_weights_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for lost, expected in (
        ("middle_block.1.proj_in.weight", "lacks 1 of its weights, for example mid_block"),
        ("camera_embed.0.bias", "label_emb.0.0.bias|class_embedding"),
    ):
        save_file({k: v for k, v in weights.items() if k != lost}, file)
        with pytest.raises(PriorError, match=expected):
            load_prior(str(copy))


def test_a_loaded_pipeline_of_the_public_code_is_refused():
    class MVDreamPipeline:
        pass

    with pytest.raises(PriorError, match="a MVDreamPipeline is not supported; use a"):
        df.DiffusionPrior.from_pipe(MVDreamPipeline())


def test_cross_attention_keeps_to_the_text_of_each_view(prior):
    noisy, timesteps, _ = inputs(prior, 4)
    cameras = turntable_cameras(4)
    same = prior.encode_text(["a red corgi"] * 4)
    other = prior.encode_text(["a red corgi"] * 3 + ["a blue mug"])
    first, second = (
        prior.predict(noisy, timesteps, Condition(text, cameras)) for text in (same, other)
    )
    change = (first - second).flatten(1).norm(dim=1)
    assert change[3] > 2 * change[:3].max() > 0
    assert F.cosine_similarity(first.flatten(), second.flatten(), dim=0) < 1
