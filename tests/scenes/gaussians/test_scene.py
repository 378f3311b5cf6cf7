"""The scene of Gaussian splats: rendering, schedules, relocation, checkpoints, start."""

import copy
import math

import pytest
import torch

from dreamfusion.config.schedules import Schedule
from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.graphics.shading import Lighting
from dreamfusion.scenes.base import Views
from dreamfusion.scenes.gaussians.scene import GaussianScene, smoothness
from dreamfusion.scenes.gaussians.settings import GaussianSettings, SplatRates
from dreamfusion.scenes.gaussians.splats import PARAMETERS, relocate, rotations
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.optimizers import load_optimizer, optimizer_tensors, under
from dreamfusion.utils.state import Progress


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scene(**settings) -> GaussianScene:
    return GaussianScene(GaussianSettings(**{"count": 200, **settings}), generator=_generator())


def _step(scene: GaussianScene, progress: Progress, generator: torch.Generator) -> None:
    """One step towards a red disc, by the scene's own hooks."""
    scene.before_step(progress, generator)
    views = Views(turntable_cameras(2), 24, 24, background=torch.ones(3))
    rendered = scene.render(views)
    loss = (rendered.rgb - torch.tensor([1.0, 0.0, 0.0])).square().mean()
    loss = loss + sum(scene.regularisers(rendered, progress, generator).values())
    scene.optimizer.zero_grad()
    loss.backward()
    for group in scene.optimizer.param_groups:
        group["lr"] = group["base_lr"]
    scene.optimizer.step()
    scene.after_step(progress, generator)


def test_a_ball_is_round_and_grey() -> None:
    out = _scene(opacity=0.9, count=3000).render(Views(turntable_cameras(4), 48, 48))
    assert out.opacity[:, 23:25, 23:25].min() > 0.95
    assert out.opacity[:, 0].max() == 0
    # The ball's radius is 0.5, the distance 2.8: its edge lies at tan(asin(0.5 / 2.8)).
    radius = 24 / math.tan(math.radians(20)) * math.tan(math.asin(0.5 / 2.8))
    area = (out.opacity > 0.5).float().sum(dim=(1, 2)) / (math.pi * radius**2)
    assert area.min() > 1.0 and area.max() < 1.4  # splats extend beyond the ball by their width
    assert (out.rgb[:, 23:25, 23:25] - 0.5).abs().max() < 0.1
    nearest = out.depth[:, 23:25, 23:25]
    assert nearest.min() > 2.2 and nearest.max() < 2.6


def test_backgrounds_are_blended_by_opacity() -> None:
    scene, cameras = _scene(), turntable_cameras(2)
    background = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    on_color = scene.render(Views(cameras, 16, 16, background=background))
    on_black = scene.render(Views(cameras, 16, 16, background=torch.zeros(3)))
    expected = on_black.rgb + (1 - on_black.opacity)[..., None] * background[:, None, None]
    torch.testing.assert_close(on_color.rgb, expected)


def test_light_acts_on_the_normals_of_a_ball() -> None:
    scene, cameras = _scene(opacity=0.95, count=4000), turntable_cameras(1, elevation_deg=0.0)
    above = torch.tensor([0.0, 10.0, 0.0])
    light = Lighting("textureless", above, ambient=0.2)
    out = scene.render(Views(cameras, 48, 48, light, background=torch.zeros(3), normals=True))
    upper, lower = out.rgb[0, 14:20, 20:28].mean(), out.rgb[0, 30:36, 20:28].mean()
    assert upper > lower + 0.2
    centre = out.normals[0, 20:28, 20:28].mean(dim=(0, 1))
    assert torch.nn.functional.normalize(centre, dim=0)[2] > 0.9


def test_two_sizes_show_the_same_image() -> None:
    scene = _scene(opacity=0.9, count=1000)
    small = scene.render(Views(turntable_cameras(1), 48, 48)).rgb
    large = scene.render(Views(turntable_cameras(1), 192, 192)).rgb.movedim(-1, 1)
    shrunk = torch.nn.functional.avg_pool2d(large, 4).movedim(1, -1)
    assert (small - shrunk).abs().mean() < 0.004


def test_rotations_are_those_of_scipy() -> None:
    from scipy.spatial.transform import Rotation

    quaternions = torch.randn(20, 4, generator=_generator(), dtype=torch.float64)
    expected = Rotation.from_quat(quaternions[:, [1, 2, 3, 0]].numpy()).as_matrix()
    torch.testing.assert_close(rotations(quaternions), torch.from_numpy(expected))


def test_smoothness_is_zero_on_a_plane_and_grows_with_bumps() -> None:
    flat = torch.tensor([0.0, 0.0, 1.0]).expand(1, 8, 8, 3)
    opaque = torch.ones(1, 8, 8)
    assert smoothness(flat, opaque) == 0
    turned = flat.clone()
    turned[:, 4, 4] = torch.tensor([1.0, 0.0, 0.0])
    assert smoothness(turned, opaque) == pytest.approx(4 * 2 / 56)
    assert smoothness(turned, torch.zeros(1, 8, 8)) == 0


def test_relocation_moves_transparent_splats_and_keeps_the_image() -> None:
    scene = _scene(opacity=0.6)
    _step(scene, Progress(0, 100), _generator())
    splats, gone = scene.splats, torch.arange(0, 200, 4)
    with torch.no_grad():
        splats.logits[gone] = -8.0
    views = Views(turntable_cameras(2), 32, 32)
    before = scene.render(views).opacity.detach()
    moved = relocate(splats, scene.optimizer, None, seed=3)
    assert moved == 50
    assert bool((splats.opacities > 0.03).all())
    after = scene.render(views).opacity.detach()
    assert (after - before).abs().mean() < 0.03
    state = scene.optimizer.state[splats.means]
    assert state["exp_avg"][gone].abs().max() == 0
    assert relocate(splats, scene.optimizer, None, seed=4) == 0


def test_relocation_draws_one_number_however_many_splats_move() -> None:
    states = []
    for transparent in (0, 50):
        scene, generator = _scene(relocate_every=1), _generator(5)
        with torch.no_grad():
            scene.splats.logits[:transparent] = -9.0
        scene.after_step(Progress(50, 100), generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_copy_continues_to_the_same_bits(ema: float) -> None:
    settings = {
        "relocate_every": 2,
        "optimizer": SplatRates(ema=ema),
        "opacity": 0.05,
        "sharpness": Schedule(1.0, 8.0),
        "smoothness": Schedule.constant(0.1),
    }
    whole, generator = _scene(**settings), _generator(9)
    for step in range(6):
        _step(whole, Progress(step, 12), generator)
    saved = copy.deepcopy(dict(whole.state_dict()))
    moments = {k: v.clone() for k, v in optimizer_tensors(whole.optimizer).items()}
    numbers = generator.get_state()
    resumed = _scene(**settings)
    resumed.load_state_dict(saved)
    load_optimizer(resumed.optimizer, under({f"o.{k}": v for k, v in moments.items()}, "o"))
    again = _generator()
    again.set_state(numbers)
    for step in range(6, 12):
        _step(whole, Progress(step, 12), generator)
        _step(resumed, Progress(step, 12), again)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    shown = whole.averaged.splats
    assert (shown is whole.splats) == (ema == 0.0)


def test_parameters_stay_in_their_ranges() -> None:
    scene = _scene(max_scale=0.05)
    with torch.no_grad():
        scene.splats.colors += 9.0
        scene.splats.means *= 9.0
        scene.splats.log_scales += 9.0
    scene.after_step(Progress(0, 10), _generator())
    assert scene.splats.colors.max() <= 1.0
    assert scene.splats.means.abs().max() <= 1.0
    assert scene.splats.log_scales.exp().max() <= 0.05 + 1e-6


def test_a_scene_starts_from_splats_of_the_same_number() -> None:
    first = _scene()
    _step(first, Progress(0, 10), _generator())
    second = GaussianScene(first.settings, generator=_generator(8), start=first)
    for name in PARAMETERS:
        assert torch.equal(getattr(first.splats, name), getattr(second.splats, name))
    with pytest.raises(UserError, match=r"has 200 splats: set scene\.count=200"):
        GaussianScene(GaussianSettings(count=100), generator=_generator(), start=first)
