"""The optimisation, with a tiny random prior."""

import dataclasses
import re

import pytest
import torch

from dreamfusion.config.layers import build_config, override, parse_assignments, settings
from dreamfusion.config.schema import Config
from dreamfusion.distillation.noise import surface_noise
from dreamfusion.priors import load_prior
from dreamfusion.runs.checkpoint import (
    load_checkpoint,
    save_checkpoint,
)
from dreamfusion.training.state import FORGET_AFTER, new_state, render_size, sample_views
from dreamfusion.training.trainer import Trainer, TrainingError
from dreamfusion.utils.state import Progress
from tests.helpers.states import tensors
from tests.helpers.tiny_priors import save_latent_prior
from tests.helpers.tiny_runs import TINY, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def run(state, prior, config, steps=None):
    trainer = Trainer(config, prior, state)
    metrics = []
    while state.step < (config.steps if steps is None else steps):
        metrics.append(dataclasses.replace(trainer.step(), seconds=0.0))
    return metrics


def assert_same(a, b):
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    assert len(pairs) > 10 and a.step == b.step
    assert all(torch.equal(x, y) for x, y in pairs)


UNUSUAL = {
    "background": {"kind": "learned"},
    "optimizer": {"warmup_steps": 5},
    "scene": {
        "optimizer": {"ema": 0.9},
        "field": {
            "active_levels": {"start": 0.3, "end": 1},
            "sharpness": {"start": 1, "end": 4, "shape": "geometric"},
        },
        "losses": {"smoothness": 0.1},
    },
    "estimator": {"surface_noise": [0.3, 0.8]},
}


@pytest.mark.parametrize("changes", [{}, UNUSUAL], ids=["usual", "unusual"])
def test_stopped_and_resumed_equals_never_stopped_to_the_bit(prior, folder, tmp_path, changes):
    config = tiny(prior, changes)
    whole = new_state(config, prior)
    expected = run(whole, prior, config)

    stopped = new_state(config, prior)
    first = run(stopped, prior, config, steps=4)
    save_checkpoint(tmp_path, stopped, keep=2)
    # Another process would load the prior again and start from another state.
    second_prior = load_prior(str(folder))
    again = new_state(dataclasses.replace(config, seed=9), second_prior)
    again.estimator = config.estimator.build(second_prior, seed=config.seed)
    load_checkpoint(tmp_path, again)
    second = run(again, second_prior, config)
    assert first + second == expected
    assert_same(whole, again)


def test_results_depend_on_the_seed(prior):
    def table(seed):
        config = tiny(prior, {"seed": seed, "steps": 2})
        state = new_state(config, prior)
        run(state, prior, config)
        return state

    assert_same(table(1), table(1))
    first, second = (table(seed).scene.field.encoding.table for seed in (1, 2))
    assert not torch.equal(first, second)


def test_a_latent_prior_can_be_used_for_training(tmp_path):
    prior = load_prior(str(save_latent_prior(tmp_path / "latent")))
    config = tiny(prior, {"steps": 2, "prompt": "anything at all"})
    state = new_state(config, prior)
    metrics = run(state, prior, config)
    assert [one.step for one in metrics] == [1, 2]
    assert all(one.gradient_norm > 0 for one in metrics)


def test_schedules_are_applied_in_each_step(prior):
    config = tiny(prior, {"estimator": {"guidance": {"start": 2, "end": 4}, "t_max": 0.1}})
    metrics = run(new_state(config, prior), prior, config)
    assert [one.size for one in metrics] == [8] * 4 + [16] * 4
    assert [one.of_estimator["guidance"] for one in (metrics[0], metrics[-1])] == [2, 4]
    assert max(max(one.timesteps) for one in metrics) <= 100


@pytest.mark.parametrize(
    ("span", "anchored"),
    [(None, ""), ([0, 1], "01234567"), ([0.25, 0.75], "2345"), ([0.5, 0.5], "")],
)
def test_noise_is_anchored_to_the_surface_in_the_configured_steps(
    prior, monkeypatch, span, anchored
):
    config = tiny(prior, {"estimator": {"surface_noise": span}})
    state = new_state(config, prior)
    asked = []

    def watch(shape, generator, **surface):
        asked.append(str(state.step))
        assert surface["depth"].shape == surface["opacity"].shape
        return surface_noise(shape, generator, **surface)

    monkeypatch.setattr("dreamfusion.distillation.noise.surface_noise", watch)
    run(state, prior, config)
    assert "".join(asked) == anchored


def look(config, generator):
    return sample_views(config, Progress(0, config.steps), generator)


def test_lights_shadings_and_backgrounds_follow_their_settings(prior):
    def kinds(**changes):
        config = tiny(prior, {"shading": changes})
        generator = torch.Generator().manual_seed(0)
        views = (look(config, generator) for _ in range(40))
        return {view.lighting.shading for view in views}

    assert kinds(lambertian=0.0) == {"albedo"}
    assert kinds(lambertian=1.0, textureless=0.0) == {"lambertian"}
    assert kinds(lambertian=1.0, textureless=1.0) == {"textureless"}
    assert kinds(lambertian=0.5, textureless=0.5) == {"albedo", "lambertian", "textureless"}

    # The settings for a prior without a card.
    config = build_config(TINY, {"camera": {"views": 64}})
    views = [look(config, generator) for generator in [torch.Generator().manual_seed(0)] * 60]
    behind = [(v.lighting.position * v.cameras.positions).sum(-1) < 0 for v in views]
    # 4 % of threestudio's lights (N(camera, 1) at a distance of 1.5 to 2) are behind the object.
    assert 0.03 < torch.cat(behind).float().mean() < 0.05

    generator = torch.Generator().manual_seed(0)
    config = tiny(prior, {"shading": {"light_spread": 0, "light_distance": [2, 2]}})
    views = look(config, generator)
    directions = torch.nn.functional.normalize(views.cameras.positions, dim=-1)
    torch.testing.assert_close(views.lighting.position, 2 * directions)
    assert views.background.shape == (2, 3)
    assert views.background.min() >= 0.25 and views.background.max() <= 0.75  # the prior's
    config = tiny(prior, {"background": {"brightness": [0.9, 0.9]}})
    background = look(config, generator).background
    torch.testing.assert_close(background, torch.full((2, 3), 0.9))

    config = tiny(prior, {"background": {"kind": "learned", "plain_share": 0}})
    assert look(config, generator).background is None  # the scene's own
    config = tiny(prior, {"background": {"kind": "fixed", "color": [1, 0, 0]}})
    assert look(config, generator).background.tolist() == [1, 0, 0]


CHANGES = [
    "seed=1", "prior.negative_prompt=mug", "prior.view_prompts=blended", "prior.view_prompts=none",
    "prior.perp_neg=2", "estimator.guidance=3", "estimator.t_min=0.4", "estimator.t_max=0.6",
    "estimator.weighting=uniform", "estimator.clip_sample=0.1", "estimator.surface_noise=[0, 1]",
    "estimator.surface_noise=[0, 1] estimator.noise_refresh=0.5", "estimator.rescale=1",
    "estimator.timesteps=dreamtime", "estimator.clip_pixels=0.01", "estimator.noise=fixed",
    "camera.views=3", "camera.elevation_deg=[0, 1]", "camera.distance=[2, 2.1]",
    "camera.fov_y_deg=[60, 61]", "camera.fov_y_deg=null camera.focal_length=[1, 1.1]",
    "camera.position_jitter=0.1", "camera.look_at_jitter=0.1", "camera.up_jitter=0.1",
    "render.resolution=24", "scene.marching.step_size=0.05", "scene.marching.min_transmittance=0.4",
    "scene.marching.min_normal_weight=9",
    "shading.lambertian=0", "shading.textureless=1", "shading.ambient=0.8",
    "shading.light_distance=[1, 1.1]", "shading.light_spread=2", "background.kind=fixed",
    "background.kind=learned", "background.brightness=[0, 0.1]",
    "background.kind=fixed background.color=[0, 0, 0]",
    "background.kind=learned background.plain_share=1",
    "background.kind=learned scene.optimizer.background_lr=0.5", "scene.field.levels=4",
    "scene.field.features=1", "scene.field.log2_table_size=9", "scene.field.base_resolution=4",
    "scene.field.max_resolution=16", "scene.field.hidden=16", "scene.field.density_activation=exp",
    "scene.field.blob=gaussian", "scene.field.blob_scale=5", "scene.field.blob_radius=0.3",
    "scene.field.normal_epsilon=0.1", "scene.occupancy.resolution=8", "scene.occupancy.threshold=3",
    "scene.occupancy.threshold=3 scene.occupancy.decay=0.99", "scene.occupancy.update_every=2",
    "losses.opacity=1", "losses.entropy=5", "schedule_steps=2",
    "scene.field.blob_radius=0.3 scene.losses.orientation=99", "scene.losses.sparsity=1",
    "scene.losses.smoothness=9", "scene.field.active_levels=0.4", "scene.field.sharpness=3",
    "optimizer.warmup_steps=9", "scene.optimizer.ema=0.5", "scene.optimizer.grid_lr=0.1",
    "scene.optimizer.network_lr=0.1", "optimizer.scale=0.5", "scene.optimizer.beta1=0.5",
    "scene.optimizer.beta2=0.5", "scene.optimizer.epsilon=0.1",
    "scene.optimizer.epsilon=0.1 optimizer.max_gradient_norm=0.0001",
]  # fmt: skip
# Read elsewhere: by the loaders, and by the code that writes files.
ELSEWHERE = {
    "prompt", "steps", "device", "start", "stages", "estimator.name", "scene.name", "prior.name",
    "prior.dtype", "scene.field.backend", "prior.vae_checkpointing", "prior.vae_dtype",
    "prior.vae_slicing", "prior.lora", "prior.offload", "prior.compile", "scene.marching.backend",
    "output.checkpoint_every", "output.checkpoints_kept", "output.preview_every",
    "output.video_frames", "output.video_size", "output.mesh_resolution", "output.mesh_faces",
    "output.mesh_tolerance", "output.texture_size", "logging.tensorboard",
}  # fmt: skip


def test_old_rollbacks_are_reset(prior):
    """Four rare overflows in a long run do not count as divergence."""
    config = tiny(prior, {"steps": FORGET_AFTER + 10})
    state = new_state(config, prior)
    state.step, state.rolled_back_at, state.rollbacks = FORGET_AFTER + 1, 3, 2
    trainer = Trainer(config, prior, state)
    trainer.step()
    assert state.rollbacks == 2
    trainer.step()
    assert state.rollbacks == 0


def outcome(prior, changes):
    """The scene after five lit steps with `changes`, in the format of --set."""
    lit = tiny(prior, {"steps": 5, "shading": {"lambertian": 1.0, "textureless": 0.0}})
    config = override(lit, parse_assignments(changes))
    state = new_state(config, prior)
    run(state, prior, config)
    parts = (state.scene.averaged.field, state.scene.background)
    return [value for part in parts for value in part.state_dict().values()]


@pytest.fixture(scope="module")
def base(prior):
    torch.set_num_threads(1)
    return outcome(prior, [])


def alike(a, b):
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_same_settings_give_the_same_scene(prior, base):
    assert alike(base, outcome(prior, []))


@pytest.mark.parametrize("change", CHANGES)
def test_every_setting_of_a_step_has_an_effect(prior, base, change):
    """Detects settings that are not used."""
    first, *more = re.split(r" (?=[a-z])", change)
    # A change that depends on another one is compared with the result of that one.
    before = outcome(prior, [first]) if more and first in CHANGES else base
    assert not alike(before, outcome(prior, [first, *more]))


def test_every_setting_is_read_by_a_step_or_known_to_be_read_elsewhere():
    changed = {part.split("=")[0] for change in CHANGES for part in change.split()}
    assert {name for name, _, _ in settings(Config())} - changed == ELSEWHERE


def test_the_average_lags_behind_the_field(prior):
    config = tiny(prior, {"scene": {"optimizer": {"ema": 0.9}}})
    state = new_state(config, prior)
    start = state.scene.field.encoding.table.detach().clone()
    run(state, prior, config, steps=1)
    first = state.scene.field.encoding.table.detach()
    torch.testing.assert_close(state.scene.averaged.field.encoding.table, 0.1 * start + 0.9 * first)
    assert state.scene.averaged.field is state.scene.ema_field


def test_the_learning_rate_warms_up(prior):
    config = tiny(prior, {"optimizer": {"warmup_steps": 4, "scale": 0.5}})
    state = new_state(config, prior)
    rates = []
    for _ in Trainer(config, prior, state):
        rates.append(state.scene.optimizer.param_groups[0]["lr"] / config.scene.optimizer.grid_lr)
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_levels_open_from_coarse_to_fine(prior):
    opening = {"active_levels": {"start": 0, "end": 1}}
    config = tiny(prior, {"scene": {"field": opening}, "steps": 4})
    state = new_state(config, prior)
    layout = state.scene.field.encoding.layout
    moved = []
    for _ in Trainer(config, prior, state):
        table = state.scene.field.encoding.table.grad
        levels = [table[level.offset : level.offset + level.size] for level in layout.levels]
        moved.append([bool(level.any()) for level in levels])
    assert moved[0] == [True, False, False]
    assert moved[-1] == [True, True, True]


def test_sharpness_is_applied_to_the_field_and_its_average(prior):
    sharpness = {"start": 1, "end": 4, "shape": "geometric"}
    scene = {"field": {"sharpness": sharpness}, "optimizer": {"ema": 0.9}}
    config = tiny(prior, {"scene": scene, "steps": 3})
    state = new_state(config, prior)
    sharp = []
    for _ in Trainer(config, prior, state):
        fields = (state.scene.field, state.scene.ema_field)
        sharp.append([float(field.get_extra_state()[1]) for field in fields])
    assert sharp == [[pytest.approx(k)] * 2 for k in (1, 2, 4)]


def test_resolution_is_a_multiple_of_eight(prior):
    config = tiny(prior, {"render": {"resolution": {"start": 8, "end": 30, "begin": 0}}})
    assert {render_size(config, config.progress(step)) for step in range(8)} <= {8, 16, 24, 32}


def test_the_card_is_a_layer_below_all_others(prior, folder):
    config = Trainer(tiny(prior, {"camera": {"distance": [4, 5]}}), prior).config
    assert config.camera.distance == (4, 5)
    assert config.camera.elevation_deg == (-10, 50)
    assert config.camera.fov_y_deg == (38, 42)
    assert config.shading.ambient == 0.4 and config.shading.light_spread == 0.6
    assert config.shading.light_distance == Config().shading.light_distance
    assert config.background.brightness == (0.25, 0.75)
    assert config.prior.name == str(folder) and config.prior.dtype in ("float32", "bfloat16")
    assert config.device == "cpu"


def test_the_loss_is_the_sum_of_its_terms(prior):
    config = tiny(
        prior, {"losses": {"opacity": 0.5}, "scene": {"losses": {"smoothness": 0.3}}, "steps": 4}
    )
    for metrics in Trainer(config, prior):
        lit = {"smoothness"} if metrics.shading != "albedo" else set()
        assert set(metrics.terms) == {"sds", "entropy", "opacity"} | lit
        assert metrics.loss == pytest.approx(sum(metrics.terms.values()))
        assert metrics.terms["sds"] == pytest.approx(
            metrics.of_estimator["sds_gradient"] ** 2 / 2, rel=1e-5
        )
        said = metrics.as_mapping()
        assert said["loss_opacity"] == metrics.terms["opacity"] and "terms" not in said
        assert said["guidance"] == 4 and "of_estimator" not in said


class BrokenPrior:
    """Delegates to a real prior, but returns invalid predictions."""

    def __init__(self, prior):
        self._prior = prior

    def __getattr__(self, name):
        return getattr(self._prior, name)

    def predict(self, *arguments):
        return self._prior.predict(*arguments) * float("nan")


def test_divergence_stops_before_the_parameters_are_touched(prior):
    config = tiny(prior)
    state, untouched = (new_state(config, BrokenPrior(prior)) for _ in range(2))
    with pytest.raises(TrainingError) as error:
        Trainer(config, state.estimator.prior, state).step()
    message = str(error.value)
    assert message.startswith("training diverged in step 1 (timesteps [")
    assert "sds_gradient is nan" in message and "\n" not in message
    assert_equal_fields(state, untouched)

    state = new_state(config, prior)
    with torch.no_grad():
        state.scene.field.mlp.weight1.mul_(float("inf"))
    with pytest.raises(TrainingError, match="training diverged in step 1"):
        Trainer(config, prior, state).step()


def assert_equal_fields(a, b):
    pairs = zip(a.scene.field.parameters(), b.scene.field.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
