"""Meshes from splats, splats from meshes, and files of splats."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.mesh.extract import MeshError, Surface
from dreamfusion.mesh.topology import topology
from dreamfusion.scenes.base import Rendered, Views
from dreamfusion.scenes.gaussians.kernels import add_density
from dreamfusion.scenes.gaussians.scene import GaussianScene
from dreamfusion.scenes.gaussians.settings import GaussianSettings
from dreamfusion.scenes.gaussians.splats import rotations
from dreamfusion.scenes.gaussians.start import _towards
from dreamfusion.scenes.gaussians.surface import density_grid
from dreamfusion.utils.threads import fixed_order

RADIUS = 0.6


def _scene(start=None, **settings) -> GaussianScene:
    return GaussianScene(
        GaussianSettings(**{"count": 600, **settings}),
        generator=torch.Generator().manual_seed(0),
        start=start,
    )


class Sphere:
    """A scene whose images and surface are a sphere, red on the left (x > 0), blue on the right."""

    device = torch.device("cpu")
    can_be_lit = False

    @property
    def averaged(self):
        return self

    def render(self, views, generator=None):
        from dreamfusion.graphics.cameras import generate_rays

        rays = generate_rays(views.cameras, views.height, views.width)
        along = (rays.origins * rays.directions).sum(-1)
        under = along**2 - (rays.origins**2).sum(-1) + RADIUS**2
        hit = (under > 0).float()
        x = (rays.origins + (-along - under.clamp(min=0).sqrt())[..., None] * rays.directions)[
            ..., 0
        ]
        color = torch.stack([(x > 0).float(), torch.zeros_like(x), (x <= 0).float()], dim=-1)
        behind = views.background.reshape(-1, 1, 1, 3)
        return Rendered(color * hit[..., None] + behind * (1 - hit[..., None]), hit)

    def surface(self, *, resolution=128, threshold=None):
        import trimesh

        ball = trimesh.creation.icosphere(3, RADIUS)
        color = lambda points, normals: np.zeros_like(points)  # noqa: E731
        return Surface(np.asarray(ball.vertices), np.asarray(ball.faces), color)


@pytest.fixture(scope="module")
def ball() -> GaussianScene:
    with fixed_order():
        return _scene(start=Sphere(), count=1500)


def test_density_is_the_sum_of_the_splats() -> None:
    scene, n = _scene(count=20), 24
    grid = density_grid(scene, n)
    splats = scene.splats
    axis = (torch.arange(n) + 0.5) * 2 / n - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    offset = points[..., None, :] - splats.means
    inverses = torch.linalg.inv(splats.covariances(scene.settings.blur))
    power = 0.5 * torch.einsum("xyzni,nij,xyznj->xyzn", offset, inverses, offset)
    each = splats.opacities * torch.exp(-power) * (power < 4.5)
    np.testing.assert_allclose(grid, each.sum(-1).detach().numpy(), atol=1e-5)
    halves = np.zeros_like(grid)
    covariances = splats.covariances(scene.settings.blur).double().detach()
    parts = (
        splats.means.double().detach().numpy(),
        covariances.numpy(),
        torch.linalg.inv(covariances).numpy(),
        splats.opacities.double().detach().numpy(),
    )
    add_density(0, 11, *parts, halves)
    add_density(11, n, *parts, halves)
    np.testing.assert_allclose(halves, grid, atol=1e-6)


def test_splats_fit_another_scene_and_become_its_mesh_again(ball: GaussianScene) -> None:
    views = Views(turntable_cameras(4), 64, 64, background=torch.ones(3))
    with torch.no_grad():
        error = (ball.render(views).rgb - Sphere().render(views).rgb).square().mean()
    assert -10 * error.log10() > 23
    surface = ball.surface(resolution=48)
    shape = topology(surface.vertices, surface.faces)
    assert (shape.components, shape.watertight, shape.genus) == (1, True, 0)
    radii = np.linalg.norm(surface.vertices, axis=1)
    assert abs(radii.mean() - RADIUS) < 0.03
    assert radii.std() < 0.02
    colors = surface.colored().colors
    left, right = surface.vertices[:, 0] > 0.15, surface.vertices[:, 0] < -0.15
    assert (colors[left] @ [1, 0, -1]).mean() > 0.8
    assert (colors[right] @ [1, 0, -1]).mean() < -0.8


def test_quaternions_turn_the_z_axis_to_any_normal() -> None:
    normals = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    normals[0], normals[1] = torch.tensor([0.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 1.0])
    turned = rotations(_towards(normals))[:, :, 2]
    torch.testing.assert_close(turned, torch.nn.functional.normalize(normals, dim=-1))


def test_nothing_opaque_is_an_error() -> None:
    scene = _scene(opacity=0.011, radius=1.5)
    with pytest.raises(MeshError, match="nothing in it is opaque"):
        scene.surface(resolution=16)


def test_splats_that_are_not_finite_are_an_error(tmp_path) -> None:
    scene = _scene()
    with torch.no_grad():
        scene.splats.means[0, 0] = torch.nan
    with pytest.raises(MeshError, match="diverged"):
        scene.surface(resolution=16)
    with pytest.raises(MeshError, match="diverged"):
        scene.writers()["splats.ply"](tmp_path / "a.ply")


def _ply_columns(content: bytes) -> dict[str, np.ndarray]:
    head, data = content.split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float")]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[-1])
    return dict(zip(names, np.frombuffer(data, "<f4").reshape(count, -1).T, strict=True))


def test_ply_holds_logarithms_logits_and_harmonics(ball: GaussianScene, tmp_path) -> None:
    ball.writers()["splats.ply"](tmp_path / "a.ply")
    found = _ply_columns((tmp_path / "a.ply").read_bytes())
    splats = ball.splats
    seen = (splats.opacities > 1 / 255).numpy()
    assert len(found["x"]) == seen.sum()
    means = splats.means.detach().numpy()[seen]
    # Turned by 180 degrees about z: +Y is down.
    np.testing.assert_array_equal(found["x"], -means[:, 0])
    np.testing.assert_array_equal(found["y"], -means[:, 1])
    np.testing.assert_array_equal(found["z"], means[:, 2])
    opacities = splats.opacities.detach().numpy()[seen]
    np.testing.assert_allclose(1 / (1 + np.exp(-found["opacity"])), opacities, atol=2e-6)
    colors = splats.colors.detach().numpy()[seen]
    np.testing.assert_allclose(0.5 + 0.28209479 * found["f_dc_0"], colors[:, 0], atol=1e-6)
    widths = np.exp(np.stack([found[f"scale_{k}"] for k in range(3)], axis=1))
    own = np.exp(splats.log_scales.detach().numpy()[seen])
    np.testing.assert_allclose(widths**2, own**2 + ball.settings.blur**2, rtol=1e-5)
    quaternions = torch.from_numpy(np.stack([found[f"rot_{k}"] for k in range(4)], axis=1).copy())
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    expected = half_turn @ rotations(splats.quaternions.detach()[seen])
    torch.testing.assert_close(rotations(quaternions), expected, rtol=0, atol=1e-5)


def test_glb_holds_the_same_splats_upright(ball: GaussianScene, tmp_path) -> None:
    pygltflib = pytest.importorskip("pygltflib")
    ball.writers()["splats.glb"](tmp_path / "a.glb")
    tree = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    primitive = json.loads(tree.to_json())["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    blob, values = tree.binary_blob(), {}
    for name, index in primitive["attributes"].items():
        accessor = tree.accessors[index]
        view = tree.bufferViews[accessor.bufferView]
        data = blob[view.byteOffset : view.byteOffset + view.byteLength]
        values[name.removeprefix("KHR_gaussian_splatting:")] = np.frombuffer(data, "<f4").reshape(
            accessor.count, -1
        )
    splats = ball.splats
    seen = (splats.opacities > 1 / 255).numpy()
    np.testing.assert_array_equal(values["POSITION"], splats.means.detach().numpy()[seen])
    np.testing.assert_allclose(values["COLOR_0"][:, :3], splats.colors.detach()[seen], atol=1e-6)
    np.testing.assert_allclose(values["OPACITY"][:, 0], splats.opacities.detach()[seen])
    assert values["SCALE"].min() >= ball.settings.blur
    quaternions = torch.from_numpy(values["ROTATION"][:, [3, 0, 1, 2]].copy())
    torch.testing.assert_close(
        rotations(quaternions), rotations(splats.quaternions.detach()[seen]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "down", "tolerances"),
    [
        ("splat", True, {"f_dc_0": 0.02, "scale_0": 1e-5, "opacity": 0.004}),
        ("spz", False, {"f_dc_0": 0.02, "scale_0": 0.04, "opacity": 0.004}),
        ("ksplat", True, {"f_dc_0": 0.02, "scale_0": 0.02, "opacity": 0.004}),
    ],
)
def test_compact_files_hold_the_same_splats(
    ball: GaussianScene, tmp_path, kind: str, down: bool, tolerances: dict[str, float]
) -> None:
    gaussforge = pytest.importorskip("gaussforge")
    path = tmp_path / f"a.{kind}"
    ball.writers()[f"splats.{kind}"](path)
    ball.writers()["splats.ply"](tmp_path / "a.ply")
    back = gaussforge.GaussForge().convert(path.read_bytes(), kind, "ply")
    found, expected = _ply_columns(back["data"]), _ply_columns((tmp_path / "a.ply").read_bytes())
    if not down:
        expected = {**expected, "x": -expected["x"], "y": -expected["y"]}
    # A writer may sort the splats.
    places = [np.stack([v["x"], v["y"], v["z"]], axis=1) for v in (found, expected)]
    distance, nearest = cKDTree(places[1]).query(places[0])
    assert distance.max() <= 4e-4
    assert len(np.unique(nearest)) == len(nearest) == len(expected["x"])
    for values in (found, expected):
        values["opacity"] = 1 / (1 + np.exp(-values["opacity"]))
    for name, tolerance in tolerances.items():
        error = np.abs(found[name] - expected[name][nearest])
        assert error.max() <= tolerance, (name, error.max())


def test_without_the_package_compact_files_are_an_error(
    ball: GaussianScene, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gaussforge", None)
    with pytest.raises(MeshError, match=r"\.spz needs gaussforge: pip install"):
        ball.writers()["splats.spz"](tmp_path / "a.spz")
