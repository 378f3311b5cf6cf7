"""The backends that a shared test runs through, each with a device that it runs on."""

import importlib.util

import pytest

from dreamfusion.accelerators import interpreted


def everywhere(cpu: tuple[str, ...], cuda: tuple[str, ...]):
    """Parametrise a test by `backend` and `device`, those on CUDA marked gpu."""
    cases = [pytest.param(name, "cpu", id=f"{name}-cpu") for name in cpu]
    cases += [pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.gpu) for name in cuda]
    return pytest.mark.parametrize(("backend", "device"), cases)


every_encoding = everywhere(("reference", "numba", "triton"), ("reference", "triton", "tinycudann"))
every_marching = everywhere(("reference", "numba", "triton"), ("reference", "triton", "nerfacc"))
every_compositing = everywhere(("reference",), ("reference", "nerfacc"))


def skip_if_absent(backend: str, device: str) -> None:
    """Skip what is not installed. What is installed and broken fails the test."""
    if backend != "reference" and importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == "triton" and device == "cpu" and not interpreted():
        pytest.skip("Triton compiles here: its kernels are tested on the GPU (-m gpu)")
