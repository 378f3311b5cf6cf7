import pytest
import torch

from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.graphics.shading import color_depth, color_normals, lambertian, over, with_alpha


def test_lambertian_is_full_towards_the_light_and_ambient_away_from_it():
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 1, 0], [0, 0.6, 0.8]])
    positions = torch.zeros(4, 3)
    light = torch.tensor([0.0, 0, 5]).expand(4, 3)
    shade = lambertian(normals, positions, light, ambient=0.1)
    assert shade.tolist() == pytest.approx([1.0, 0.1, 0.1, 0.82])


def test_the_direction_of_a_point_light_depends_on_the_position():
    normals = torch.tensor([[0.0, 1, 0]]).expand(2, 3)
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    light = torch.tensor([[0.0, 1, 0]]).expand(2, 3)
    shade = lambertian(normals, positions, light, ambient=0.0)
    assert shade.tolist() == pytest.approx([1.0, 2**-0.5])


def test_images_of_normals_and_depth_stay_in_range():
    normals = torch.tensor([[0.0, 0, 0.5], [0, 0, 0]])
    torch.testing.assert_close(
        color_normals(normals), torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 0.5]])
    )
    camera = turntable_cameras(1, distance=2.0).T_world_camera[0]
    depth = color_depth(torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0]), camera)[:, 0]
    torch.testing.assert_close(depth, torch.tensor([1, 1, 0.575, 0.15, 0.15]))


def test_transparent_pixels_show_the_background():
    color = torch.tensor([[1.0, 0.5, 2.0], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0]])
    rgba = with_alpha(color, torch.tensor([1.0, 0.0, 0.25]))
    torch.testing.assert_close(rgba[1], torch.zeros(4))
    green = torch.tensor([0.0, 1.0, 0.0])
    expected = torch.tensor([[1.0, 0.5, 1.0], [0, 1, 0], [0.25, 0.75, 0]])
    torch.testing.assert_close(over(rgba, green), expected)
