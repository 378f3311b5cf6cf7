"""What accelerators can do for a scene, and which of them do it in a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dreamfusion.scenes.nerf.hashgrid import ENCODING, encoding_backend
from dreamfusion.scenes.nerf.ray_marching import MARCHING
from dreamfusion.scenes.nerf.settings import FieldConfig, MarchingConfig
from dreamfusion.scenes.nerf.volume import COMPOSITING, compositing_backend
from dreamfusion.utils.backends import Operation, choose, skipped

OPERATIONS: tuple[Operation, ...] = (ENCODING, MARCHING, COMPOSITING)


@dataclass(frozen=True)
class Backends:
    """Who does the work of a run on its device: names of accelerators, or "reference" for plain
    torch. skipped: one line for each accelerator that is installed, was tried and failed."""

    encoding: str
    marching: str
    compositing: str
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        parts = {
            "encoding": self.encoding,
            "marching": self.marching,
            "compositing": self.compositing,
        }
        return ", ".join(
            f"{part}: {'torch' if name == 'reference' else name}" for part, name in parts.items()
        )


def chosen_backends(
    field_settings: FieldConfig, marching_settings: MarchingConfig, device: str
) -> Backends:
    """What a run with these settings on `device` ("cpu", "cuda", "cuda:N", "mps") will use.

    Raises AcceleratorError where they name an accelerator that cannot be used.
    """
    kind, encoder, marcher = (
        torch.device(device).type,
        field_settings.backend,
        marching_settings.backend,
    )
    encoding = encoding_backend(encoder, kind, field_settings.features)
    marching = choose(MARCHING, marcher, kind)
    compositing = compositing_backend(marcher, kind)
    failed = skipped(ENCODING, encoder, kind, encoding)
    failed += skipped(MARCHING, marcher, kind, marching)
    return Backends(encoding, marching, compositing, failed)
