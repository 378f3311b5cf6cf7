"""Shapes in annotations are checked in these tests, see helpers/checked_shapes.py."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from jaxtyping import TypeCheckError

from dreamfusion.diffusion.predictions import Noisy
from dreamfusion.graphics.shading import lambertian, show_light_position
from tests.helpers.checked_shapes import KERNELS, PACKAGES


def modules():
    for package in map(importlib.import_module, PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] not in ("nerfacc", "tinycudann"):
                yield importlib.import_module(found.name)


def test_a_wrong_shape_is_an_error():
    with pytest.raises(TypeCheckError, match="'T_world_camera'"):
        show_light_position(torch.eye(3))


def test_arguments_must_agree_in_an_axis_that_they_share():
    light = {"light_position": torch.ones(4, 3), "ambient": 0.5}
    assert lambertian(torch.ones(4, 3), torch.zeros(4, 3), **light).shape == (4,)
    with pytest.raises(TypeCheckError, match="'positions'"):
        lambertian(torch.ones(4, 3), torch.zeros(5, 3), **light)


def test_fields_of_a_dataclass_must_agree():
    images, times = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TypeCheckError, match="'noise'"):
        Noisy(images, images[:1], times, torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1))


def test_every_annotation_of_a_tensor_can_be_evaluated():
    """jaxtyping does not check one that cannot, and does not report it."""
    checked = set()
    for module in modules():
        for owner in [module, *(v for v in vars(module).values() if inspect.isclass(v))]:
            for value in vars(owner).values():
                value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if getattr(value, "__module__", None) != module.__name__:
                    continue
                hints = getattr(value, "__annotations__", {})
                shapes = [hint for hint in hints.values() if "Tensor, " in str(hint)]
                for hint in shapes:
                    if isinstance(hint, str):  # else it was evaluated at import
                        eval(hint, vars(module))
                if shapes and inspect.isfunction(inspect.unwrap(value)):
                    checked.add(f"{module.__name__}.{value.__qualname__}")
    assert len(checked) > 100
    assert not KERNELS - {module.__name__ for module in modules()}
