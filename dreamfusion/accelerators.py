"""Optional accelerators: which are here, which of them work, and which of them a run uses.

Each is tried once a process, on a small problem whose answer the reference knows. One that is
missing, does not load, does not compile or gives other numbers is passed over, and says why.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamfusion.errors import UserError, one_line

if TYPE_CHECKING:
    from dreamfusion.config import Config
    from dreamfusion.hashgrid import HashGridLayout
    from dreamfusion.sampling import Samples

ACCELERATORS = ("numba", "triton", "tinycudann", "nerfacc")

# What "auto" tries on a kind of device, best first; after them comes the reference. Nobody has
# timed them against each other. Triton is first because it needs no compiler and does each job in
# one launch; tinycudann's encoding takes one a level here (see hashgrid/tcnn.py), and nerfacc
# builds its extension for minutes.
ENCODING = {"cpu": ("numba",), "cuda": ("triton", "tinycudann")}
MARCHING = {"cpu": ("numba",), "cuda": ("triton", "nerfacc")}

# tinycudann is compiled for these numbers of features a level.
TINYCUDANN_FEATURES = (1, 2, 4, 8)


class AcceleratorError(UserError):
    """An accelerator that the user asked for and that cannot be used."""


@dataclass(frozen=True)
class Accelerator:
    """What came of trying an accelerator.

    version: None where it is not installed. problem: one line on why it cannot be used, or None.
    """

    name: str
    version: str | None
    problem: str | None

    @property
    def usable(self) -> bool:
        """Whether it is installed and gave the right answer."""
        return self.problem is None


@dataclass(frozen=True)
class Backends:
    """What does the work of a run on its device: names of accelerators, or "reference" for plain
    torch. passed_over: one line for each accelerator that is installed, was tried and failed."""

    encoding: str
    marching: str
    compositing: str
    passed_over: tuple[str, ...]

    def __str__(self) -> str:
        parts = {
            "encoding": self.encoding,
            "marching": self.marching,
            "compositing": self.compositing,
        }
        return ", ".join(
            f"{part}: {'torch' if name == 'reference' else name}" for part, name in parts.items()
        )


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, which works on the CPU: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def probe(name: str) -> Accelerator:
    """Try the accelerator `name`, one of ACCELERATORS. Tried once a process, then remembered
    (`probe.cache_clear()` forgets). Never raises for what is wrong with an accelerator."""
    if name not in ACCELERATORS:
        raise ValueError(f"an accelerator is one of {', '.join(ACCELERATORS)}, not {name!r}")
    if importlib.util.find_spec(name) is None:
        return Accelerator(name, None, "not installed")
    version = _version(name)
    on_gpu = name != "numba" and not (name == "triton" and interpreted())
    if on_gpu and not torch.cuda.is_available():
        return Accelerator(name, version, "needs an NVIDIA GPU, and torch finds none")
    device = "cuda" if on_gpu else "cpu"
    try:
        importlib.import_module(name)
        # The first to ask may be rendering a picture, without gradients.
        with torch.inference_mode(False), torch.enable_grad():
            _TRIALS[name](device)
    # Compiled packages fail to load in every way there is: ImportError, OSError, RuntimeError of a
    # driver, CalledProcessError of a compiler. The reason is kept and shown, not hidden.
    except Exception as error:
        return Accelerator(name, version, one_line(f"{type(error).__name__}: {error}", 160))
    return Accelerator(name, version, None)


def chosen_backends(config: Config, device: str) -> Backends:
    """What a run of `config` on `device` ("cpu", "cuda", "cuda:N", "mps") will use.

    Raises AcceleratorError where the configuration names an accelerator that cannot be used.
    """
    kind = torch.device(device).type
    encoding = encoding_backend(config.field.backend, kind, config.field.features)
    marching = marching_backend(config.render.backend, kind)
    compositing = compositing_backend(config.render.backend, kind)
    tried = _tried(config.field.backend, ENCODING, kind, encoding)
    tried += _tried(config.render.backend, MARCHING, kind, marching)
    failed = [found for found in map(probe, dict.fromkeys(tried)) if found.problem is not None]
    passed_over = tuple(
        f"{found.name} {found.version} is installed but cannot be used: {found.problem}"
        for found in failed
        if found.version is not None
    )
    return Backends(encoding, marching, compositing, passed_over)


def encoding_backend(requested: str, device_type: str, n_features: int) -> str:
    """What encodes: `requested` if it can, for "auto" the first that can on such a device.

    Raises AcceleratorError where `requested` is an accelerator that cannot be used.
    """
    fits = n_features in TINYCUDANN_FEATURES
    if requested == "tinycudann" and not fits:
        raise AcceleratorError(
            f"tinycudann takes field.features of 1, 2, 4 or 8, not {n_features}; change that or "
            "set field.backend=auto"
        )
    unfit = () if fits else ("tinycudann",)
    return _choose(requested, ENCODING, device_type, "field.backend", unfit)


def marching_backend(requested: str, device_type: str) -> str:
    """What marches rays; as `encoding_backend`."""
    return _choose(requested, MARCHING, device_type, "render.backend")


def compositing_backend(requested: str, device_type: str) -> str:
    """What turns densities into weights: nerfacc where it was asked for, else plain torch, which
    does it in a few operations over all rays at once."""
    if requested != "nerfacc":
        return "reference"
    return _choose(requested, MARCHING, device_type, "render.backend")


def _choose(
    requested: str,
    order: dict[str, tuple[str, ...]],
    device_type: str,
    setting: str,
    unfit: tuple[str, ...] = (),
) -> str:
    if requested == "reference":
        return requested
    if requested == "auto":
        candidates = (name for name in order.get(device_type, ()) if name not in unfit)
        return next((name for name in candidates if probe(name).usable), "reference")
    found = probe(requested)
    if found.problem is not None:
        raise AcceleratorError(
            f"{requested} cannot be used: {found.problem}; install or mend it, or set "
            f"{setting}=auto"
        )
    # The interpreter takes tensors of any device.
    anywhere = requested == "triton" and interpreted()
    if requested not in order.get(device_type, ()) and not anywhere:
        raise AcceleratorError(f"{requested} does not run on {device_type}; set {setting}=auto")
    return requested


def _tried(
    requested: str, order: dict[str, tuple[str, ...]], device_type: str, chosen: str
) -> list[str]:
    """The accelerators that "auto" passed over on its way to `chosen`."""
    if requested != "auto":
        return []
    candidates = order.get(device_type, ())
    return list(candidates[: candidates.index(chosen)] if chosen in candidates else candidates)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _try_encoding(encode: Callable[[Tensor, Tensor, HashGridLayout], Tensor], device: str) -> None:
    """Values and gradient at a few points, on a dense and on a hashed level."""
    from dreamfusion.hashgrid.layout import make_layout
    from dreamfusion.hashgrid.reference import encode_reference

    layout = make_layout(
        n_levels=2, n_features=4, log2_table_size=8, base_resolution=4, max_resolution=40
    )
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(64, 3, generator=generator) * 2.0 - 1.0
    table = torch.randn(layout.n_rows, 4, generator=generator)
    grad = torch.randn(64, layout.n_outputs, generator=generator)
    expected = table.clone().requires_grad_()
    value = encode_reference(points, expected, layout)
    value.backward(grad)
    leaf = table.to(device).requires_grad_()
    out = encode(points.to(device), leaf, layout)
    out.backward(grad.to(device))
    _check("encoding", out.detach().cpu(), value.detach())
    _check("encoding's gradient", _known(leaf.grad).cpu(), _known(expected.grad))


def _try_marching(march: Callable[..., Samples], device: str) -> Samples:
    """As many samples as the reference finds, in the same places; they are returned."""
    from dreamfusion.occupancy import OccupancyGrid
    from dreamfusion.sampling.reference import march_reference

    grid = OccupancyGrid(resolution=8)
    grid.update(lambda points: 20.0 * (points.norm(dim=-1) < 0.6), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([0.0, 0.0, 3.0]) + 0.2 * torch.randn(16, 3, generator=generator)
    directions = torch.nn.functional.normalize(-origins + 0.1, dim=-1)
    jitter = torch.rand(16, generator=generator)
    rays = (origins, directions, jitter)
    expected = march_reference(*rays, grid, 0.05, 2.0)
    found = march(*(part.to(device) for part in rays), grid.to(device), 0.05, 2.0)
    # A sample on the border of two cells may fall to either by rounding.
    if abs(len(found) - len(expected)) > 0.02 * len(expected):
        raise RuntimeError(f"its marching finds {len(found)} samples instead of {len(expected)}")
    if len(found) == len(expected):
        _check("marching", found.positions.cpu(), expected.positions)
    return found


def _try_numba(device: str) -> None:
    from dreamfusion.hashgrid.compiled import encode_numba

    _try_encoding(encode_numba, device)


def _try_triton(device: str) -> None:
    from dreamfusion.hashgrid.gpu import encode_triton
    from dreamfusion.sampling.gpu import march_triton

    _try_encoding(encode_triton, device)
    _try_marching(march_triton, device)


def _try_tinycudann(device: str) -> None:
    from dreamfusion.hashgrid.tcnn import encode_tinycudann

    _try_encoding(encode_tinycudann, device)


def _try_nerfacc(device: str) -> None:
    from nerfacc.cuda import _backend

    # Where there is no compiler nerfacc says so on the terminal and goes on without.
    if _backend._C is None:
        raise RuntimeError("its CUDA extension is not built and there is no nvcc to build it with")

    from dreamfusion.sampling.nerfacc import march_nerfacc
    from dreamfusion.volume import render_weights

    samples = _try_marching(march_nerfacc, device)
    density = 5.0 + samples.t.sin()
    found = render_weights(density, samples, backend="nerfacc").weights
    expected = render_weights(density, samples, backend="reference").weights
    _check("compositing", found.cpu(), expected.cpu())


_TRIALS: dict[str, Callable[[str], None]] = {
    "numba": _try_numba,
    "triton": _try_triton,
    "tinycudann": _try_tinycudann,
    "nerfacc": _try_nerfacc,
}


def _check(what: str, found: Tensor, expected: Tensor) -> None:
    """Raise unless two tensors agree but for rounding."""
    worst = float((found - expected).abs().max())
    if not worst <= 1e-3:
        raise RuntimeError(f"its {what} differs from the reference's by {worst:g}")


def _known(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise RuntimeError("it gives no gradient")
    return gradient
