"""CUDA packages implemented in plain torch, following their sources, for tests of adapters.

They test the arithmetic of the adapters on the CPU. The real packages are tested by
`backends.probe` and by the tests marked gpu.
"""

import importlib.machinery
import math
import sys
import types

import pytest
import torch


def install(monkeypatch: pytest.MonkeyPatch, name: str, adapter: str, **contents: object) -> None:
    """Replace the package `name` by a module with `contents`, and re-import `adapter` with it."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, key)
    monkeypatch.setitem(sys.modules, name, module)
    # Set first, so that modules imported under that name are removed after the test.
    monkeypatch.setitem(sys.modules, adapter, module)
    monkeypatch.delitem(sys.modules, adapter)


class Encoding(torch.nn.Module):
    """tinycudann.Encoding for a HashGrid of one level, float32."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        assert encoding_config["otype"] == "HashGrid" and encoding_config["n_levels"] == 1
        self.scale = encoding_config["base_resolution"] - 1.0
        self.side = math.ceil(self.scale) + 1
        aligned = math.ceil(self.side**3 / 8) * 8
        self.size = min(aligned, 1 << encoding_config["log2_hashmap_size"])
        self.n_features = encoding_config["n_features_per_level"]
        assert self.n_features in (1, 2, 4, 8)
        self.params = torch.nn.Parameter(torch.full((self.size * self.n_features,), math.nan))

    def forward(self, x):
        position = x * self.scale + 0.5
        lower = position.floor()
        fraction = position - lower
        table = self.params.view(self.size, self.n_features)
        total = torch.zeros(len(x), self.n_features)
        for corner in range(8):
            upper = torch.tensor([corner >> axis & 1 for axis in range(3)])
            vertex = (lower.long() + upper) & 0xFFFFFFFF
            if self.size < self.side**3:
                index = vertex[:, 0] ^ vertex[:, 1] * 2654435761 ^ vertex[:, 2] * 805459861
            else:
                index = vertex[:, 0] + self.side * (vertex[:, 1] + self.side * vertex[:, 2])
            weight = torch.where(upper.bool(), fraction, 1.0 - fraction).prod(dim=1)
            total = total + weight[:, None] * table[(index & 0xFFFFFFFF) % self.size]
        return total


def traverse_grids(
    rays_o, rays_d, binaries, aabbs, near_planes, step_size, t_sorted, t_indices, hits
):
    """nerfacc.traverse_grids for one grid, a fixed step and known intersections."""
    low, high = aabbs[0, :3], aabbs[0, 3:]
    assert t_indices.tolist() == [[0, 1]] * len(rays_o)
    t_min, t_max = t_sorted.unbind(dim=1)
    resolution = binaries.shape[1]
    vals, ray_indices = [], []
    for ray in range(len(rays_o)):
        if not hits[ray, 0]:
            continue
        start = max(t_min[ray], near_planes[ray])
        t = near_planes[ray]
        while t + step_size / 2 < start:
            t = t + step_size
        while t + step_size / 2 < t_max[ray]:
            middle = t + step_size / 2
            unit = (rays_o[ray] + middle * rays_d[ray] - low) / (high - low)
            cell = (unit * resolution).long().clamp(0, resolution - 1)
            if binaries[0, cell[0], cell[1], cell[2]]:
                vals.append(middle)
                ray_indices.append(ray)
            t = t + step_size
    found = types.SimpleNamespace(
        vals=torch.stack(vals) if vals else torch.zeros(0),
        ray_indices=torch.tensor(ray_indices, dtype=torch.int64),
    )
    return None, found, None


def render_weight_from_density(t_starts, t_ends, sigmas, ray_indices, n_rays):
    """nerfacc.render_weight_from_density for packed samples."""
    optical = sigmas * (t_ends - t_starts)
    parts = []
    for ray in range(n_rays):
        own = optical[ray_indices == ray]
        parts.append(torch.cat([own.new_zeros(1), own])[:-1].cumsum(0) if len(own) else own)
    transmittance = torch.exp(-torch.cat(parts))
    alphas = 1.0 - torch.exp(-optical)
    return transmittance * alphas, transmittance, alphas
