"""Checks the types and shapes of tensors in arguments, results and dataclass fields."""

import sys
from importlib.machinery import PathFinder
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

PACKAGES = [f"dreamfusion.{name}" for name in ("diffusion", "distillation", "graphics", "scenes")]
# jaxtyping wraps every function of a module, and neither numba nor Triton compiles a wrapper.
NERF = "dreamfusion.scenes.nerf"
KERNELS = {
    "dreamfusion.graphics.triangles_numba",
    f"{NERF}.hashgrid.numba",
    f"{NERF}.hashgrid.triton",
    f"{NERF}.ray_marching.numba",
    f"{NERF}.ray_marching.triton",
    f"{NERF}.volume.numba",
    "dreamfusion.scenes.gaussians.kernels",
}


class _Kernels:
    """Finds the modules of kernels before jaxtyping's hook does."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name in KERNELS else None


def check(function):
    """Check the annotations that contain an array type. Tests may replace other objects."""
    hints = function.__annotations__
    hints = {name: hint if _has_array(hint) else Any for name, hint in hints.items()}
    if all(hint is Any for hint in hints.values()):
        return function
    function.__annotations__ = hints
    return beartype(function)


def install():
    """Check the functions of the packages when they are imported from now on."""
    install_import_hook(PACKAGES, f"{__name__}.check")
    sys.meta_path.insert(0, _Kernels)


def _has_array(hint):
    is_array = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return is_array or any(_has_array(part) for part in get_args(hint))
