"""The provenance of a GLB file, stored in glTF's `asset.extras`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

KEY = "dreamfusion"


@dataclass(frozen=True)
class Provenance:
    """step: of the run. moved_from: the point of the scene that is the model's origin.
    psnr_db, silhouette_iou: similarity of model and scene, see `renderer.Agreement`; None if not
    measured. prior: id, revision and licence of the diffusion model, if known. prompt, seed: of the
    run. dreamfusion: version of this package. settings: SHA-256 of the run's resolved settings.
    """

    step: int
    moved_from: tuple[float, float, float]
    psnr_db: float | None = None
    silhouette_iou: float | None = None
    prior: Mapping[str, str] | None = None
    prompt: str = ""
    seed: int | None = None
    dreamfusion: str = ""
    settings: str = ""


def read_provenance(glb: bytes) -> Provenance | None:
    """The provenance in a GLB file, or None if there is none."""
    # The header has 12 bytes; the JSON chunk consists of its length, its type and its text.
    length = int.from_bytes(glb[12:16], "little")
    try:
        found = json.loads(glb[20 : 20 + length])["asset"]["extras"][KEY]
        x, y, z = map(float, found.pop("moved_from"))
        known = {one.name: found[one.name] for one in fields(Provenance) if one.name in found}
        return Provenance(moved_from=(x, y, z), **known)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
