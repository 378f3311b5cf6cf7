import numpy as np

from dreamfusion.graphics.rasterize import rasterize


def square(depth: float, left: float = 0.0, right: float = 8.0):
    """Two triangles that cover the columns from left to right of an 8 x 8 image."""
    a, b, c, d = (left, 0.0), (right, 0.0), (right, 8.0), (left, 8.0)
    corners = np.array([[a, b, c], [c, d, a]])
    return corners, np.full((2, 3), 1.0 / depth)


def test_every_pixel_is_covered_once_and_weights_give_its_centre_back():
    corners, inverse_depth = square(2.0)
    face_of, weights = rasterize(corners, inverse_depth, 8, 8)
    assert set(face_of.ravel()) == {0, 1}
    np.testing.assert_allclose(weights.sum(-1), 1.0)
    points = (corners[face_of] * weights[..., None]).sum(-2)
    expected = np.stack(np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5), axis=-1)
    np.testing.assert_allclose(points, expected, atol=1e-12)


def test_the_nearer_triangle_hides_the_other_in_any_order():
    near, far = square(1.0, 0.0, 4.0), square(3.0)
    for order in (slice(None), slice(None, None, -1)):
        corners, inverse = (np.concatenate(pair)[order] for pair in zip(near, far, strict=True))
        face_of, _ = rasterize(corners, inverse, 8, 8)
        depth = 1.0 / inverse[face_of, 0]
        assert (depth[:, :4] == 1.0).all() and (depth[:, 4:] == 3.0).all()


def test_weights_are_correct_under_perspective():
    # An edge from depth 1 to depth 3: its middle on the image is at a quarter in space.
    corners = np.array([[[0.5, 0.5], [8.5, 0.5], [0.5, 8.5]]])
    _, weights = rasterize(corners, np.array([[1.0, 1 / 3, 1.0]]), 9, 9)
    np.testing.assert_allclose(weights[0, 4], [0.75, 0.25, 0.0], atol=1e-12)


def test_triangles_behind_outside_or_without_area_are_skipped():
    corners, inverse = square(1.0)
    assert (rasterize(corners, -inverse, 8, 8)[0] == -1).all()
    assert (rasterize(corners + 100.0, inverse, 8, 8)[0] == -1).all()
    assert (rasterize(corners * np.array([1.0, 0.0]), inverse, 8, 8)[0] == -1).all()
    assert (rasterize(corners * 1e6 - 4e6, inverse, 8, 8)[0] >= 0).all()
    assert (rasterize(np.full((1, 3, 2), np.nan), np.ones((1, 3)), 8, 8)[0] == -1).all()
