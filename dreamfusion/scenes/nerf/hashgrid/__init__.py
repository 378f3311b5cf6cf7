"""Multiresolution hash encoding (Mueller et al. 2022, "Instant neural graphics primitives")."""

from functools import partial
from pkgutil import resolve_name
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout, make_layout
from dreamfusion.scenes.nerf.hashgrid.reference import check_encoding, encode_reference
from dreamfusion.scenes.nerf.settings import HashGridConfig
from dreamfusion.utils.backends import AcceleratorError, Operation, choose

Backend = Literal["auto", "reference", "numba", "triton", "tinycudann"]

# The numbers of features per level that tinycudann supports.
TINYCUDANN_FEATURES = (1, 2, 4, 8)


ENCODING = Operation(
    name="encoding",
    setting="scene.field.backend",
    # On CUDA, no speeds were compared. Triton is first because it needs a single launch; tinycudann
    # needs one for each level (see tinycudann.py).
    order={"cpu": ("numba",), "cuda": ("triton", "tinycudann")},
    kernels={
        name: partial(resolve_name, f"{__name__}.{name}:encode_{name}")
        for name in ("numba", "triton", "tinycudann")
    },
    self_test=check_encoding,
)


def encoding_backend(requested: str, device_type: str, n_features: int) -> str:
    """The backend to use; see `backends.choose`. tinycudann supports some numbers of features."""
    fits = n_features in TINYCUDANN_FEATURES
    if requested == "tinycudann" and not fits:
        raise AcceleratorError(
            f"tinycudann supports scene.field.features of 1, 2, 4 or 8, not {n_features}; change "
            "it or set scene.field.backend=auto"
        )
    return choose(ENCODING, requested, device_type, unfit=() if fits else ("tinycudann",))


def encode(
    points: Float[Tensor, "n 3"],
    table: Float[Tensor, "rows features"],
    layout: HashGridLayout,
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "n {layout.n_outputs}"]:
    """Encode points of the box [-1, 1]^3.

    backend: "reference" is plain torch and runs anywhere; "numba" is for CPUs, "triton" and
    "tinycudann" for CUDA (float32, no gradient for points); "auto" is the first of them that works,
    or the reference if none does or points require a gradient. Raises AcceleratorError if `backend`
    is an accelerator that cannot be used.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, not {backend!r}")
    if backend == "auto":
        float32 = points.dtype == torch.float32 and table.dtype == torch.float32
        if points.requires_grad or not float32 or points.device != table.device:
            backend = "reference"
    chosen = encoding_backend(backend, table.device.type, layout.n_features)
    kernel = encode_reference if chosen == "reference" else ENCODING.kernels[chosen]()
    return kernel(points, table, layout)


class HashGrid(nn.Module):
    """A hash grid; its parameter `table` contains the features.

    Cells per side increase geometrically from base_resolution to max_resolution. Levels that fit
    into 2^log2_table_size rows are stored densely. settings: None is the defaults, which suit
    64 x 64 images on a CPU: five of the eight levels are dense, and each level fits into a core's
    cache. init_scale: initial values are uniform in +-init_scale.
    """

    def __init__(
        self,
        settings: HashGridConfig | None = None,
        *,
        init_scale: float = 1e-4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        s = HashGridConfig() if settings is None else settings
        self.layout = make_layout(s)
        self.backend: Backend = s.backend
        start = torch.rand(self.layout.n_rows, s.features, generator=generator)
        self.table = nn.Parameter((2.0 * start - 1.0) * init_scale)

    @property
    def n_outputs(self) -> int:
        """Length of an encoded point."""
        return self.layout.n_outputs

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n {self.n_outputs}"]:
        """Encode points of the box [-1, 1]^3."""
        return encode(points, self.table, self.layout, backend=self.backend)
