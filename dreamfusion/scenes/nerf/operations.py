"""The operations of a NeRF that accelerators support, and the backends that a run uses."""

from dataclasses import dataclass

import torch

from dreamfusion.scenes.nerf.hashgrid import ENCODING, encoding_backend
from dreamfusion.scenes.nerf.ray_marching import MARCHING
from dreamfusion.scenes.nerf.settings import NerfSettings
from dreamfusion.scenes.nerf.volume import COMPOSITING, compositing_backend
from dreamfusion.utils.backends import Operation, choose, skipped

OPERATIONS: tuple[Operation, ...] = (ENCODING, MARCHING, COMPOSITING)


@dataclass(frozen=True)
class Backends:
    """The backends of a run on its device: names of accelerators, or "reference" for plain torch.
    skipped: one line for each installed accelerator that failed its test."""

    encoding: str
    marching: str
    compositing: str
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        parts = {part: getattr(self, part) for part in ("encoding", "marching", "compositing")}
        return ", ".join(
            f"{part}: {'torch' if name == 'reference' else name}" for part, name in parts.items()
        )


def chosen_backends(settings: NerfSettings, device: str) -> Backends:
    """The backends of a run with these settings on `device` ("cpu", "cuda", "cuda:N", "mps").

    Raises AcceleratorError if the settings name an accelerator that cannot be used.
    """
    kind, field, on_rays = torch.device(device).type, settings.field, settings.marching.backend
    encoding = encoding_backend(field.backend, kind, field.features)
    marching = choose(MARCHING, on_rays, kind)
    compositing = compositing_backend(on_rays, kind)
    failed = skipped(ENCODING, field.backend, kind, encoding)
    failed += skipped(MARCHING, on_rays, kind, marching)
    return Backends(encoding, marching, compositing, failed)
