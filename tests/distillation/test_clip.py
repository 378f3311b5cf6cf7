"""CLIP guidance: crops, similarities, and the priors that compare images with texts."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

import dreamfusion as df
from dreamfusion.config.schedules import Schedule
from dreamfusion.diffusion.condition import Condition, Conditions
from dreamfusion.distillation.base import Batch
from dreamfusion.distillation.clip.estimator import random_crops
from dreamfusion.distillation.clip.settings import CLIPSettings
from dreamfusion.evaluation.guides import CLIPGuideSettings, ToyGuideSettings
from dreamfusion.graphics.cameras import orbit_cameras
from dreamfusion.toyworld.objects import make_object
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress
from tests.helpers.mixtures import Mixture
from tests.helpers.tiny_clips import save_clip
from tests.helpers.toy_images import draw_object


def generators(n):
    return [torch.Generator().manual_seed(seed) for seed in range(n)]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def clip(request, tmp_path_factory):
    folder = save_clip(tmp_path_factory.mktemp("models") / request.param, request.param)
    return CLIPGuideSettings(model=str(folder)).build(device="cpu", prompts=None)


@pytest.fixture(scope="module")
def toy():
    return ToyGuideSettings().build(device="cpu", prompts=None)


def test_the_similarity_equals_the_models_cosine(clip):
    images = torch.rand(2, 3, 32, 32)
    texts = ["a red mug", "a blue chair"]
    found = clip.similarity(images, Condition(clip.encode_text(texts)))
    scores = clip._judge.scores(images.movedim(1, -1), texts, "color").diagonal()
    model = clip._judge._model
    bias = getattr(model, "logit_bias", torch.zeros(1))
    torch.testing.assert_close(found, (scores - bias) / model.logit_scale.exp())


def test_the_loss_is_the_mean_over_crops_and_the_transmittance(clip):
    images = torch.rand(2, 3, 24, 24, requires_grad=True)
    opacity = torch.tensor([0.2, 0.9])[:, None, None].expand(-1, 24, 24)
    text = Condition(clip.encode_text(["a red mug"] * 2))
    settings = CLIPSettings(crops=3, transmittance=Schedule.constant(0.5))
    out = settings.build(clip, seed=0)(
        Batch(images, Conditions(text, text), None, None, opacity),
        progress=Progress(0, 10),
        generator=generators(2),
    )
    own = generators(2)
    crops = [random_crops(images, 0.7, own) for _ in range(3)]
    embedded = [clip._judge.embed_images(crop) for crop in crops]
    wanted = [cosine_similarity(one, text.text.tokens[:, 0]).mean() for one in embedded]
    torch.testing.assert_close(out.losses["clip"], -sum(wanted) / 3)
    torch.testing.assert_close(
        out.losses["clip_transmittance"], torch.tensor(-0.5 * (0.5 + 0.1) / 2)
    )
    (gradient,) = torch.autograd.grad(out.losses["clip"], images)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert out.timesteps is None


def test_crops_lie_inside_and_are_linear():
    ramp = torch.linspace(0, 1, 32).expand(5, 3, 32, 32)
    crops = random_crops(ramp, 0.5, generators(5))
    assert crops.min() >= 0 and crops.max() <= 1
    slope = crops[:, 0, 16].diff(dim=1)[:, 2:-2] / (1 / 31)
    assert ((slope > 0.49) & (slope < 1.01)).all()
    assert slope.mean(dim=1).std() > 0.05
    whole = random_crops(ramp, 1.0, generators(5))
    torch.testing.assert_close(whole, ramp, atol=1e-5, rtol=0)
    again = random_crops(ramp[2:], 0.5, generators(5)[2:])
    torch.testing.assert_close(again, crops[2:])  # independently of other images in the batch


def test_the_toy_classifier_prefers_the_true_object_and_view(toy):
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0])
    full = torch.full_like(azimuth, 15.0)
    cameras = orbit_cameras(azimuth, full, torch.full_like(full, 2.9), torch.full_like(full, 40.0))
    images = draw_object(make_object("corgi", "orange"), cameras, 64).movedim(-1, 1)

    def mean(prompt, cameras):
        text = toy.encode_text([prompt] * 4)
        return toy.similarity(images, Condition(text, cameras)).mean()

    right = mean("orange corgi, front, level, unlit", cameras)
    assert right > mean("orange car", cameras) + 3
    assert right > mean("blue corgi", cameras) + 1
    behind = orbit_cameras(
        azimuth + 180.0, full, torch.full_like(full, 2.9), torch.full_like(full, 40.0)
    )
    assert right > mean("orange corgi", behind) + 1
    plain = mean("red mug", None)
    assert plain.isfinite() and mean("red mug", cameras) == plain  # a mug has no face


@pytest.mark.parametrize("prior", ["toy-classifier"])
def test_clip_guidance_trains_by_name(prior, tmp_path):
    run = df.train(
        "a red mug",
        prior=prior,
        out=tmp_path / "run",
        steps=6,
        settings={
            "estimator": {"name": "clip", "crops": 1},
            "camera": {"views": 1},
            "render": {"resolution": 32},
            "output": {"mesh_resolution": 16, "video_frames": 2, "video_size": 16},
        },
    )
    assert all(row["clip_similarity"] < 0 for row in run.metrics)
    assert all("loss_clip_transmittance" in row for row in run.metrics)


def test_a_diffusion_prior_does_not_compare_images():
    with pytest.raises(UserError, match="compares images with texts, not mixture: --prior clip"):
        CLIPSettings().build(Mixture(), seed=0)


def test_a_classifier_is_not_a_diffusion_prior(tmp_path):
    with pytest.raises(UserError, match="'sds' needs a diffusion prior, not toy-classifier"):
        df.train("a red mug", prior="toy-classifier", out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run" / "config.yaml").exists()
