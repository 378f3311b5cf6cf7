"""Parameters for tests of all backends, each with its devices."""

import importlib.util
from importlib.metadata import version

import pytest
from packaging.version import Version

from dreamfusion.utils.backends import interpreted


def everywhere(cpu: tuple[str, ...], cuda: tuple[str, ...]):
    """Parametrise a test by `backend` and `device`. Cases on CUDA are marked gpu."""
    cases = [pytest.param(name, "cpu", id=f"{name}-cpu") for name in cpu]
    cases += [pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.gpu) for name in cuda]
    return pytest.mark.parametrize(("backend", "device"), cases)


every_encoding = everywhere(("reference", "numba", "triton"), ("reference", "triton", "tinycudann"))
every_marching = everywhere(("reference", "numba", "triton"), ("reference", "triton", "nerfacc"))
every_compositing = everywhere(("reference", "numba"), ("reference", "nerfacc"))


def skip_if_absent(backend: str, device: str) -> None:
    """Skip backends that are not installed or known to fail. Other problems fail the test."""
    if backend != "reference" and importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend != "triton" or device != "cpu":
        return
    if not interpreted():
        pytest.skip("Triton compiles here: its kernels are tested on the GPU (-m gpu)")
    # https://github.com/triton-lang/triton/issues/9171
    if Version(version("triton")) < Version("3.7") and Version(version("numpy")) >= Version("2.4"):
        pytest.skip("Triton before 3.7 interprets kernels with NumPy before 2.4 only")
