"""Draws triangles from several views, with gradients, without OpenGL.

`rasterize` finds the visible faces, which have no gradient: by a numba kernel on the CPU, by plain
torch elsewhere. All that has a gradient is plain torch: the weights of a face's corners, values
that are interpolated with them, and the coverage of pixels at silhouettes (`antialias`). After
Laine et al. 2020, "Modular primitives for high-performance differentiable rendering".

Points in images are (x, y, 1 / depth): x right and y down, in pixels, depth along the camera's
axis. The centre of pixel (row, column) is (column + 0.5, row + 0.5).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.triangles_numba import fill
from dreamfusion.utils.threads import run_pieces

_FACES_AT_ONCE = 64  # in the plain torch code, for each pixel


def project(
    vertices: Float[Tensor, "v 3"], cameras: Cameras, height: int, width: int
) -> Float[Tensor, "views v 3"]:
    """Points in the images of vertices of the scene; 1 / depth is negative behind a camera."""
    pose = cameras.T_world_camera.to(vertices)
    x, y, z = ((vertices - pose[:, None, :3, 3]) @ pose[:, :3, :3]).unbind(-1)
    depth = -torch.where(z.abs() < 1e-9, -1e-9, z)
    focal = 0.5 * height / torch.tan(torch.deg2rad(cameras.fov_y_deg.to(vertices)) / 2)[:, None]
    columns, rows = 0.5 * width + focal * x / depth, 0.5 * height - focal * y / depth
    return torch.stack([columns, rows, 1.0 / depth], dim=-1)


@dataclass(frozen=True)
class Fragments:
    """The pixels of several images in which a triangle is visible, m of all.

    points: see `project`, of the vertices in each image; weights and coverage have gradients for
    them. face_of: the index of the visible face, -1 where there is none.
    """

    points: Float[Tensor, "views v 3"]
    faces: Int64[Tensor, "f 3"]
    face_of: Int64[Tensor, "views h w"]

    @cached_property
    def pixels(self) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column (m,) of each covered pixel."""
        view, row, column = (self.face_of >= 0).nonzero(as_tuple=True)
        return view, row, column

    @cached_property
    def corners(self) -> Int64[Tensor, "m 3"]:
        """The indices of the visible face's vertices."""
        return self.faces[self.face_of[self.pixels]]

    @cached_property
    def weights(self) -> Float[Tensor, "m 3"]:
        """The weights of the corners at each pixel's centre, correct under perspective."""
        view, row, column = self.pixels
        center = torch.stack([column, row], dim=-1) + 0.5
        corners = self.points[view[:, None], self.corners]
        a, b, c = (corners[..., :2] - center[:, None]).unbind(1)
        areas = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=-1)
        scaled = areas * corners[..., 2]
        return scaled / scaled.sum(-1, keepdim=True)

    def interpolate(self, values: Float[Tensor, "v k"]) -> Float[Tensor, "m k"]:
        """Values of the vertices at covered pixels."""
        weights = self.weights.to(values.dtype)
        return torch.einsum("mc,mck->mk", weights, values[self.corners])

    def images(self, values: Float[Tensor, "m k"]) -> Float[Tensor, "views h w k"]:
        """Values of covered pixels as images, 0 elsewhere."""
        whole = values.new_zeros(*self.face_of.shape, values.shape[-1])
        return whole.index_put(self.pixels, values)


def rasterize(
    points: Float[Tensor, "views v 3"], faces: Int64[Tensor, "f 3"], height: int, width: int
) -> Fragments:
    """Find the face that is visible at the centre of each pixel.

    Edges belong to their faces, without gaps between faces that share one; of faces at the same
    depth, the first is visible. Both sides are drawn. Faces with a corner behind the camera or
    without an area are skipped.
    """
    find = rasterize_numba if points.device.type == "cpu" else rasterize_reference
    return Fragments(points, faces, find(points.detach(), faces, height, width))


def rasterize_numba(
    points: Float[Tensor, "views v 3"], faces: Int64[Tensor, "f 3"], height: int, width: int
) -> Int64[Tensor, "views {height} {width}"]:
    """The visible faces: see `rasterize`. On the CPU."""
    face_of = np.full((len(points), height, width), -1, dtype=np.int64)
    inputs = points.contiguous().numpy(), faces.contiguous().numpy()
    run_pieces(fill, len(points), *inputs, face_of, at_least=1)
    return torch.from_numpy(face_of)


def rasterize_reference(
    points: Float[Tensor, "views v 3"], faces: Int64[Tensor, "f 3"], height: int, width: int
) -> Int64[Tensor, "views {height} {width}"]:
    """The visible faces: see `rasterize`. In plain torch, which tests every pixel and face."""
    rows = torch.arange(height, device=points.device).to(points) + 0.5
    columns = torch.arange(width, device=points.device).to(points) + 0.5
    center = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[:, :, None]
    nearest = points.new_zeros(len(points), height, width)
    face_of = torch.full_like(nearest, -1, dtype=torch.int64)
    for first in range(0, len(faces), _FACES_AT_ONCE):
        corners = points[:, faces[first : first + _FACES_AT_ONCE]]  # (views, faces, corner, 3)
        area = _cross(*(corners[:, :, i, :2] - corners[:, :, 0, :2] for i in (1, 2)))
        usable = (corners[..., 2].amin(-1) > 0) & area.isfinite() & (area != 0)
        a, b, c = (corners[:, None, None, :, i, :2] - center for i in range(3))
        inside = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=-1)
        inside = inside * area.sign()[:, None, None, :, None]
        near = (inside * corners[:, None, None, ..., 2]).sum(-1) / inside.sum(-1)
        near = torch.where((inside >= 0).all(-1) & usable[:, None, None], near, 0.0)
        which = near.argmax(dim=-1)  # the first of equals
        best = near.gather(-1, which[..., None])[..., 0]
        closer = best > nearest
        nearest = torch.where(closer, best, nearest)
        face_of = torch.where(closer, which + first, face_of)
    return face_of


def opposite_vertices(faces: Int64[Tensor, "f 3"]) -> Int64[Tensor, "f 3"]:
    """For the edge opposite each corner of a face: the third vertex of the other face that shares
    this edge. -1 where no other face or several do."""
    edges = faces[:, [[1, 2], [2, 0], [0, 1]]].reshape(-1, 2).sort(dim=1).values
    _, edge, count = edges.unique(dim=0, return_inverse=True, return_counts=True)
    # The sum over both faces, minus this face's vertex.
    total = torch.zeros_like(count).index_add_(0, edge, faces.reshape(-1))
    other = total[edge] - faces.reshape(-1)
    return torch.where(count[edge] == 2, other, -1).reshape(-1, 3)


def antialias(
    images: Float[Tensor, "views h w k"], fragments: Fragments, opposite: Int64[Tensor, "f 3"]
) -> Float[Tensor, "views h w k"]:
    """Blend neighbouring pixels at silhouettes by the place of the edge between their centres,
    which gives images a gradient for the vertices (Laine et al. 2020, section 3.5).

    opposite: see `opposite_vertices`. An edge is a silhouette if both of its faces are on the same
    side of it in the image. Steep edges are found between columns, others between rows. Edges of
    faces that contain no pixel's centre are not found.
    """
    flat = images.reshape(-1, images.shape[-1])
    result = flat
    for axis in (2, 1):
        front, back, beyond = _silhouettes(fragments, opposite, axis)
        # Beyond the border between both pixels, the front's colour covers a part of the other one;
        # before it, the other colour covers a part of the front's pixel.
        change = beyond[:, None].to(images.dtype) * (flat[front] - flat[back])
        result = result.index_add(0, torch.where(beyond > 0, back, front), change)
    return result.reshape(images.shape)


def _silhouettes(
    fragments: Fragments, opposite: Tensor, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours along an axis (1: rows, 2: columns) with a silhouette between their centres: the
    indices (m,) of the nearer pixel and of the other one, and the distance of the edge beyond the
    border between them, in [-0.5, 0.5] pixels, with a gradient."""
    points, faces, face_of = fragments.points, fragments.faces, fragments.face_of
    corner_depths = 1.0 / points.detach()[fragments.pixels[0][:, None], fragments.corners, 2]
    depths = torch.full_like(face_of, torch.inf, dtype=points.dtype)
    depths[fragments.pixels] = (fragments.weights.detach() * corner_depths).sum(-1)
    flat, depths = face_of.reshape(-1), depths.reshape(-1)
    _, height, width = face_of.shape
    places = torch.arange(len(flat), device=flat.device).reshape(face_of.shape)
    length = face_of.shape[axis] - 1
    one, two = (places.narrow(axis, start, length).reshape(-1) for start in (0, 1))
    differ = flat[one] != flat[two]
    one, two = one[differ], two[differ]
    ahead = depths[one] <= depths[two]
    front, back = torch.where(ahead, one, two), torch.where(ahead, two, one)

    column, row, view = front % width, front // width % height, front // (height * width)
    corners = points[view[:, None], faces[flat[front]]]  # (m, corner, 3)
    beside = opposite[flat[front]]
    others = points[view[:, None], beside.clamp(min=0)]
    # Coordinates along the axis, towards the other pixel, and across it, from the front's centre.
    center = torch.stack([column, row], dim=-1).to(points)[:, None] + 0.5
    order = [0, 1] if axis == 2 else [1, 0]
    towards = torch.stack([torch.where(ahead, 1.0, -1.0), torch.ones_like(depths[front])], -1)
    at, other_at = (
        (place[..., :2] - center)[..., order] * towards[:, None].to(points)
        for place in (corners, others)
    )
    p, q = at[:, [1, 2, 0]], at[:, [2, 0, 1]]  # of the edge opposite each corner
    edge = q - p
    along, across = edge.abs().unbind(-1)
    steep = across >= along if axis == 2 else across > along  # 45 degrees count once
    crossed = (p[..., 1] <= 0) != (q[..., 1] <= 0)
    sides = _cross(edge, at - p) * _cross(edge, other_at - p)
    outline = (sides > 0) | (beside < 0) | (others[..., 2] <= 0)
    rise = torch.where(crossed, edge[..., 1], 1.0)
    distance = p[..., 0] - p[..., 1] / rise * edge[..., 0]
    valid = steep & crossed & outline & (distance >= 0) & (distance <= 1)
    which = torch.where(valid, distance.detach(), torch.inf).argmin(dim=1, keepdim=True)
    found = valid.gather(1, which)[:, 0]
    beyond = distance.gather(1, which)[:, 0] - 0.5
    return front[found], back[found], beyond[found]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
