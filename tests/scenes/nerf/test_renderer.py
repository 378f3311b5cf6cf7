import pytest
import torch
from torch import Tensor

from dreamfusion.config.schedules import Schedule
from dreamfusion.graphics.cameras import Rays, generate_rays, orbit_cameras, turntable_cameras
from dreamfusion.graphics.shading import Lighting
from dreamfusion.scenes.base import Views, render_image
from dreamfusion.scenes.nerf.background import LearnedBackground
from dreamfusion.scenes.nerf.field import Field, FieldOutput
from dreamfusion.scenes.nerf.losses import orientation_loss
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.renderer import RenderOutput, render
from dreamfusion.scenes.nerf.scene import NerfScene
from dreamfusion.scenes.nerf.settings import MarchingConfig
from tests.helpers.scenes import FieldScene

RED = torch.tensor([0.9, 0.1, 0.2])


class Ball:
    """A solid ball of one colour around the origin, with exact normals."""

    def __init__(self, radius: float = 0.5) -> None:
        self.radius = radius

    def density(self, points: Tensor) -> Tensor:
        return 500.0 * (points.norm(dim=-1) < self.radius)

    def __call__(self, points: Tensor) -> FieldOutput:
        return FieldOutput(self.density(points), RED.expand(len(points), 3))

    def normals(self, points: Tensor) -> Tensor:
        return torch.nn.functional.normalize(points, dim=-1)


def occupied_by(field) -> OccupancyGrid:
    grid = OccupancyGrid(resolution=32)
    with torch.no_grad():
        grid.update(field.density, torch.Generator().manual_seed(0))
    return grid


def scene_of(field) -> NerfScene:
    return FieldScene(field, occupied_by(field))


def lit(shading: str, position: Tensor) -> Lighting:
    return Lighting(shading, position, ambient=0.1)


def rays(n_views: int = 2, size: int = 32) -> Rays:
    return generate_rays(turntable_cameras(n_views, elevation_deg=0.0), size, size)


BLUE = torch.tensor([0.0, 0.0, 1.0])


def test_shapes_and_a_solid_ball_in_front_of_a_plain_background():
    ball = Ball()
    out = render(scene_of(ball), rays(), background=BLUE)
    assert out.rgb.shape == (2, 32, 32, 3)
    assert out.opacity.shape == out.depth.shape == (2, 32, 32)
    assert out.normals is None and out.surface is None
    torch.testing.assert_close(out.rgb[0, 16, 16], RED, atol=1e-3, rtol=0)
    assert torch.equal(out.rgb[0, 0, 0], BLUE)
    assert out.opacity[1, 16, 16] > 0.999 and out.opacity[1, 0, 0] == 0
    # The camera is at a distance of 2.8, and the ball has a radius of 0.5.
    assert out.depth[0, 16, 16].item() == pytest.approx(2.3, abs=0.04)


def test_silhouette_has_the_area_of_the_ball():
    ball = Ball()
    fine = MarchingConfig(step_size=Schedule.constant(0.01))
    out = render(scene_of(ball), rays(1, 64), background=BLUE, options=fine)
    # A ball of radius r at distance d covers a circle of tangent r / sqrt(d^2 - r^2).
    tangent = 0.5 / (2.8**2 - 0.25) ** 0.5
    pixels = torch.pi * (tangent / torch.tan(torch.deg2rad(torch.tensor(20.0))) * 32) ** 2
    assert out.opacity.sum().item() == pytest.approx(pixels.item(), rel=0.03)


def test_lambertian_is_bright_towards_the_light_only():
    ball = Ball()
    scene = scene_of(ball)
    lights = torch.tensor([[0.0, 0, 5], [0, 0, 5]])  # in front of view 0, behind view 1
    out = render(scene, rays(), background=BLUE, lighting=lit("lambertian", lights))
    torch.testing.assert_close(out.rgb[0, 16, 16], RED, atol=0.01, rtol=0)
    torch.testing.assert_close(out.rgb[1, 16, 16], 0.1 * RED, atol=0.01, rtol=0)
    clay = render(scene, rays(), background=BLUE, lighting=lit("textureless", lights))
    torch.testing.assert_close(clay.rgb[0, 16, 16], torch.ones(3), atol=0.01, rtol=0)
    assert out.normals[0, 16, 16, 2] > 0.99 and out.normals[1, 16, 16, 2] < -0.99


def test_true_normals_have_no_orientation_loss():
    ball = Ball()
    out = render(scene_of(ball), rays(), background=BLUE, with_normals=True)
    s = out.surface
    # The first sample is up to a step inside, where a grazing normal may face away slightly.
    assert orientation_loss(s.weights, s.normals, s.directions, n_rays=2048) < 1e-3


def test_lit_views_need_light_positions():
    with pytest.raises(ValueError, match="needs a position of the light"):
        Lighting("lambertian")
    lights = lit("lambertian", torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"\(3,\) or \(2, 3\)"):
        render(scene_of(Ball()), rays(), background=BLUE, lighting=lights)
    with pytest.raises(ValueError, match="unknown shading"):
        lit("phong", torch.zeros(3))


@pytest.mark.parametrize("shading", ["albedo", "lambertian", "textureless"])
def test_all_parameters_have_gradients_that_are_reproducible(shading):
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        field = Field(generator=generator)
        background = LearnedBackground(generator=generator)
        out = render(
            scene_of(field), rays(), background=background, generator=generator,
            lighting=lit(shading, torch.tensor([1.0, 2, 3])),
        )  # fmt: skip
        out.rgb.square().sum().backward()
        assert out.rgb.isfinite().all()
        results.append([*(p.grad for p in field.parameters()), background.mlp.bias2.grad])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all() and first.abs().sum() > 0


def test_rays_without_samples_show_the_background_and_keep_a_graph():
    field = Field(generator=torch.Generator().manual_seed(0))
    away = rays(1, 4)
    away = Rays(away.origins * 3, -away.directions)
    background = LearnedBackground()
    out = render(
        FieldScene(field, OccupancyGrid(resolution=4)), away, background=background,
        lighting=lit("lambertian", torch.ones(3)),
    )  # fmt: skip
    out.rgb.sum().backward()
    assert len(out.samples) == 0 and (out.opacity == 0).all()
    assert background.mlp.bias2.grad.abs().sum() > 0


def test_a_nan_in_the_field_reaches_the_image():
    field = Field(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        field.encoding.table.fill_(torch.nan)
    out = render(scene_of(field), rays(), background=BLUE)
    assert out.rgb.isnan().any()


@pytest.mark.parametrize("shading", ["albedo", "lambertian"])
@pytest.mark.parametrize(("sharpness", "share"), [(1.0, 0.9), (12.0, 0.6)], ids=["fog", "sharp"])
def test_samples_of_low_weight_are_excluded_from_gradients(sharpness, share, shading):
    field = Field(generator=torch.Generator().manual_seed(0))
    field.sharpen(sharpness)
    scene, upstream = scene_of(field), torch.rand(2, 32, 32, 3, generator=torch.manual_seed(1))

    def look(**options):
        out = render(
            scene, rays(), background=BLUE, lighting=lit(shading, torch.tensor([1.0, 2, 3])),
            **options,
        )  # fmt: skip
        grads = torch.autograd.grad((out.rgb * upstream).sum(), list(field.parameters()))
        return out, torch.cat([grad.flatten() for grad in grads])

    (some, grad), (full, expected) = look(), look(min_weight=0.0)
    assert len(some.samples) < share * len(full.samples)
    assert (full.weights.sum() - some.weights.sum()).abs() < 5e-3 * full.weights.sum()
    torch.testing.assert_close(some.rgb, full.rgb, atol=0.01, rtol=0)
    assert (grad - expected).norm() < 0.01 * expected.norm()
    with torch.no_grad():  # pictures to show have all of it
        shown = render(scene, rays(), background=BLUE)
        assert len(shown.samples) == len(full.samples)


def test_samples_of_low_weight_have_the_mean_shade_of_their_ray():
    field = Field(generator=torch.Generator().manual_seed(0))
    scene, light = scene_of(field), lit("textureless", torch.tensor([1.0, 2, 3]))
    looks = [
        render(scene, rays(), background=BLUE, lighting=light, options=MarchingConfig(
            min_normal_weight=least
        )) for least in (0.0, 2.0, 1e9)
    ]  # fmt: skip
    every, some, none = (out.surface for out in looks)
    assert len(every.index) == len(looks[0].samples) > len(some.index) > len(none.index) == 0
    solid = looks[2].opacity > 0.5
    # Without any normal, the ambient light and half of the rest.
    shade = (looks[2].rgb - (1 - looks[2].opacity[..., None]) * BLUE)[solid]
    torch.testing.assert_close(
        shade, (0.55 * looks[2].opacity[..., None]).expand_as(looks[2].rgb)[solid]
    )
    assert not torch.allclose(looks[0].rgb, looks[1].rgb, atol=1e-3)


@pytest.mark.parametrize("mode", ["color", "albedo", "normals", "depth", "textureless"])
def test_images_of_all_modes(mode, monkeypatch):
    monkeypatch.setattr("dreamfusion.scenes.nerf.scene._RAYS_PER_CHUNK", 100)
    ball = Ball()
    cameras = orbit_cameras(*(torch.tensor([v, v]) for v in (0.0, 0.0, 2.8, 40.0)))
    image = render_image(scene_of(ball), cameras, height=16, width=24, mode=mode)
    assert image.shape == (2, 16, 24, 4)
    assert image.min() >= 0 and image.max() <= 1
    assert (image[0, 0, 0] == 0).all()
    assert image[0, 8, 12, 3] > 0.9 and image[0, 8, 12, :3].sum() > 0.2
    if mode == "normals":
        front = torch.tensor([0.5, 0.5, 1.0])
        torch.testing.assert_close(image[0, 8, 12, :3], front, atol=0.1, rtol=0)


def test_image_does_not_depend_on_chunks(monkeypatch):
    ball = Ball()
    cameras = turntable_cameras(1)
    images = []
    for n in (37, 256):
        monkeypatch.setattr("dreamfusion.scenes.nerf.scene._RAYS_PER_CHUNK", n)
        images.append(render_image(scene_of(ball), cameras, height=16, width=16))
    torch.testing.assert_close(images[0], images[1])


@torch.no_grad()
def test_views_in_chunks_equal_those_rendered_at_once(monkeypatch):
    """Each view has its own light and background."""
    scene = scene_of(Ball())
    scene.background.mlp.bias2 += 1.0
    lights = lit("lambertian", torch.tensor([[0.0, 0, 5], [3, 0, 3], [0, 4, 0]]))
    cameras = turntable_cameras(3)
    for background in (None, BLUE, torch.rand(3, 3)):
        views = Views(cameras, 8, 12, lights, background)
        monkeypatch.setattr("dreamfusion.scenes.nerf.scene._RAYS_PER_CHUNK", 1000)
        whole = scene.render(views)
        monkeypatch.setattr("dreamfusion.scenes.nerf.scene._RAYS_PER_CHUNK", 17)
        parts = scene.render(views)
        assert parts.rgb.shape == (3, 8, 12, 3)
        assert isinstance(whole, RenderOutput) and not isinstance(parts, RenderOutput)
        for name in ("rgb", "opacity", "depth", "normals"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_a_colored_ball_is_learned_from_images():
    generator = torch.Generator().manual_seed(0)
    ball, field = Ball(0.4), Field(generator=generator)
    truth, learned = scene_of(ball), scene_of(field)
    optimizer = torch.optim.Adam(field.parameters(), 1e-2)
    for _ in range(25):
        angle = 360 * torch.rand(2, generator=generator)
        cameras = orbit_cameras(
            angle, torch.full((2,), 20.0), torch.full((2,), 2.8), torch.full((2,), 40.0)
        )
        view = generate_rays(cameras, 24, 24)
        target = render(truth, view, background=BLUE).rgb
        out = render(learned, view, background=BLUE, generator=generator)
        loss = (out.rgb - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.004


def test_a_scene_is_rendered_on_a_plain_background():
    scene = scene_of(Ball())
    pictures = scene.images(turntable_cameras(2), size=16, mode="albedo", background=(0, 0, 1))
    assert pictures.shape == (2, 16, 16, 3)
    torch.testing.assert_close(pictures[0, 0, 0], BLUE)
    torch.testing.assert_close(pictures[1, 8, 8], RED, atol=1e-3, rtol=0)
