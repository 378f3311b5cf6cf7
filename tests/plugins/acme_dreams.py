"""A third-party package: an estimator with state, a scene that is not a radiance field, and a prior
for groups of four views. It is connected to dreamfusion only by its entry points."""

import math
import os
import signal
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import grid_sample, interpolate

import dreamfusion as df
from dreamfusion import EstimatorSettings, PriorSettings, SceneSettings, ScoreSettings, setting


@dataclass(frozen=True)
class AveragedSettings(ScoreSettings):
    name: str = setting("acme-averaged", "SDS along a moving average of its gradients")
    decay: float = setting(0.9, "of the moving average", low=0, high=1)

    def texts(self):
        return {"plain": df.Text("{prompt}", views=False)}

    def build(self, prior, *, seed):
        return Averaged(self, prior, seed)


class Averaged(df.ScoreEstimator):
    def __init__(self, settings, prior, seed):
        super().__init__(settings, prior, seed)
        self.mean = torch.zeros(prior.shape)

    def __call__(self, batch, *, progress, generator):
        if progress.step == int(os.environ.get("ACME_KILL_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        x, z, timesteps = self.noised(batch, progress, generator)
        assert len(batch.conditions.named["plain"]) == len(x)
        with torch.no_grad():
            prediction = df.guided(self.prior, z, batch.conditions, 2.0)
            own = prediction.noise - z.noise
            seen = df.mean_over_processes(own.mean(0))
            self.mean = self.settings.decay * self.mean + (1 - self.settings.decay) * seen
            gradient = own + self.mean
        return self.result(x, gradient, timesteps, mean=float(self.mean.abs().mean()))

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"].clone()


@dataclass(frozen=True)
class VoxelSettings(SceneSettings):
    name: str = setting("acme-voxels", "a grid of coloured voxels")
    cells: int = setting(16, "voxels a side", low=8, high=64)
    lr: float = setting(0.1, "learning rate", low=0)

    def layer(self):
        return {"shading": {"lambertian": 0}}

    def build(self, *, device, generator, start=None):
        return Voxels(self, generator, start)


class Voxels(nn.Module, df.Scene):
    can_be_lit = False
    device = torch.device("cpu")

    def __init__(self, settings, generator, start):
        super().__init__()
        axis = torch.linspace(-1, 1, settings.cells)
        radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
        noise = 0.1 * torch.randn(4, *radius.shape, generator=generator)
        noise[0] += 6 - 12 * radius
        self.grid = nn.Parameter(noise)
        if start is not None:
            self.load_state_dict(start.state_dict())
        self.optimizer = torch.optim.Adam([{"params": [self.grid], "base_lr": settings.lr}], lr=0.0)

    def sample(self, points):
        """Density (m,) and colour (m, 3) at points (m, 3)."""
        at = points.flip(-1)[None, :, None, None]  # grid_sample wants z, y, x
        raw = grid_sample(self.grid[None], at, align_corners=True)[0, :, :, 0, 0]
        return 4 * raw[0].sigmoid(), raw[1:].t().sigmoid()

    def render(self, views, generator=None):
        from dreamfusion.graphics.cameras import generate_rays

        if views.lighting.shading != "albedo":
            raise ValueError("voxels cannot be lit")
        rays = generate_rays(views.cameras, views.height, views.width)
        t = torch.linspace(1.5, 4.5, 48)
        points = rays.origins[..., None, :] + t[:, None] * rays.directions[..., None, :]
        inside = (points.abs() <= 1).all(-1)
        density, color = self.sample(points.reshape(-1, 3))
        optical = density.reshape(inside.shape) * inside * (t[1] - t[0]) * 8
        passed = torch.exp(-optical.cumsum(-1))
        weights = torch.cat([torch.ones_like(passed[..., :1]), passed], -1).diff(dim=-1).neg()
        opacity = weights.sum(-1)
        seen = (weights[..., None] * color.reshape(*inside.shape, 3)).sum(-2)
        behind = torch.ones(3) if views.background is None else views.background
        behind = behind.reshape(-1, 1, 1, 3)
        depth = (weights * t).sum(-1) / opacity.clamp(min=1e-6)
        return df.Rendered(seen + (1 - opacity)[..., None] * behind, opacity, depth)

    def surface(self, *, resolution=128, threshold=None):
        axis = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        with torch.no_grad():
            density = self.sample(points)[0].reshape(3 * [resolution]).numpy()
        return df.extract_surface(density, threshold or 2.0, self.color)

    def color(self, points, normals):
        with torch.no_grad():
            return self.sample(torch.as_tensor(points, dtype=torch.float32))[1].double().numpy()


@dataclass(frozen=True)
class JointSettings(PriorSettings):
    name: str = setting("acme-joint", "a closed form that looks at four views together")
    group_size: int = setting(4, "views of a group", low=1)

    def build(self, *, device, prompts):
        return Joint(self)


class Joint:
    """Pixels are normal around a mean that depends on text and camera, and that the views of a
    group share."""

    device, dtype, prediction, shape = torch.device("cpu"), torch.float32, "epsilon", (3, 8, 8)
    card = df.PriorCard()

    def __init__(self, settings):
        self.name, self.group_size = settings.name, settings.group_size
        self.sigmas = torch.linspace(0.01, 0.99, 100)
        self.alphas = (1 - self.sigmas**2).sqrt()

    def encode_text(self, texts):
        rows = [[math.sin(k * len(text)) for k in (1, 2, 3)] for text in texts]
        return df.TextEmbedding(torch.tensor(rows)[:, None])

    def encode_image(self, images):
        return interpolate(images, size=(8, 8), mode="area") * 2 - 1

    def predict(self, noisy, timesteps, condition):
        assert len(noisy) % self.group_size == 0 and len(condition.cameras) == len(noisy)
        a, s = (v[timesteps][:, None, None, None] for v in (self.alphas, self.sigmas))
        # The cameras of a group are evenly spaced around the object, so that their sum is above it.
        placed = condition.cameras.positions.unflatten(0, (-1, self.group_size)).mean(1)
        assert placed[:, [0, 2]].abs().max() < 1e-4
        joint = noisy.unflatten(0, (-1, self.group_size)).mean((1, 3, 4))
        mean = condition.text.tokens[:, 0] + 0.5 * joint.repeat_interleave(self.group_size, 0)
        mean = mean[:, :, None, None]
        clean = mean + a * 0.25 / (a**2 * 0.25 + s**2) * (noisy - a * mean)
        return (noisy - a * clean) / s


@dataclass(frozen=True)
class Impostor(EstimatorSettings):
    """An estimator with the name of a built-in one."""

    name: str = setting("sds", "not the real one")

    def build(self, prior, *, seed):
        raise AssertionError
