"""Files of splats: .ply as the reference implementation of 3D Gaussian splatting writes it, .glb
with glTF's extension KHR_gaussian_splatting, and the compact .splat, .spz and .ksplat.

Viewers of .ply, .splat and .ksplat files (SuperSplat, antimatter15/splat) expect +Y down, as photo
reconstructions have it: these files are turned by 180 degrees about z, and appear upright there.
.glb and .spz prescribe +Y up. The scene's blur is part of the scales that are written.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dreamfusion.mesh.extract import MeshError
from dreamfusion.mesh.gltf import Glb
from dreamfusion.scenes.gaussians.splats import Splats
from dreamfusion.utils.files import write_bytes

_C0 = 0.28209479177387814  # spherical harmonic of degree 0
_PROPERTIES = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"


def writers(splats: Splats, blur: float) -> Mapping[str, Callable[[Path | str], None]]:
    """Functions that write splats to a file, by its name. They raise MeshError if splats are not
    finite or a package is missing."""
    found = {kind: partial(_convert, splats, blur, kind) for kind in ("splat", "spz", "ksplat")}
    return {
        "splats.ply": lambda path: write_bytes(path, _ply(splats, blur, down=True)),
        "splats.glb": lambda path: write_bytes(path, _glb(splats, blur)),
        **{f"splats.{kind}": write for kind, write in found.items()},
    }


def _convert(splats: Splats, blur: float, kind: str, path: Path | str) -> None:
    try:
        from gaussforge import GaussForge
    except ImportError:
        raise MeshError(
            f".{kind} needs gaussforge: pip install 'dreamfusion[splats]', or write .ply or .glb"
        ) from None
    found = GaussForge().convert(_ply(splats, blur, down=kind != "spz"), "ply", kind)
    if "error" in found:
        raise MeshError(f"gaussforge cannot write .{kind}: {found['error']}")
    write_bytes(path, found["data"])


@torch.no_grad()
def _columns(splats: Splats, blur: float) -> dict[str, NDArray[np.float32]]:
    """Centres, harmonics, opacities, scales and unit quaternions (w, x, y, z) of visible splats."""
    opacities = splats.opacities
    columns = {
        "means": splats.means,
        "harmonics": (splats.colors - 0.5) / _C0,
        "opacities": opacities[:, None],
        "scales": splats.widths(blur),
        "rotations": torch.nn.functional.normalize(splats.quaternions, dim=-1),
    }
    if not all(bool(values.isfinite().all()) for values in columns.values()):
        raise MeshError("the splats are not finite: the run has diverged")
    seen = (opacities > 1 / 255).cpu()
    return {name: values.cpu()[seen].float().numpy() for name, values in columns.items()}


def _ply(splats: Splats, blur: float, *, down: bool) -> bytes:
    of = _columns(splats, blur)
    if down:
        w, x, y, z = of["rotations"].T
        of["rotations"] = np.stack([-z, -y, x, w], axis=1)  # k q
        of["means"] = of["means"] * np.array([-1, -1, 1], np.float32)
    opacities = of["opacities"].clip(1e-6, 1 - 1e-6)
    logits = np.log(opacities / (1 - opacities))
    parts = (of["means"], of["harmonics"], logits, np.log(of["scales"]), of["rotations"])
    rows = np.concatenate(parts, axis=1).astype("<f4")
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    lines += [f"property float {name}" for name in _PROPERTIES.split()]
    return "\n".join([*lines, "end_header", ""]).encode() + rows.tobytes()


def _glb(splats: Splats, blur: float) -> bytes:
    of, prefix = _columns(splats, blur), "KHR_gaussian_splatting"
    colors = np.concatenate([of["harmonics"] * _C0 + 0.5, of["opacities"]], axis=1)
    attributes = {
        "POSITION": of["means"],
        "COLOR_0": colors.clip(0, 1),
        f"{prefix}:ROTATION": of["rotations"][:, [1, 2, 3, 0]],
        f"{prefix}:SCALE": of["scales"],
        f"{prefix}:OPACITY": of["opacities"],
        f"{prefix}:SH_DEGREE_0_COEF_0": of["harmonics"],
    }
    scene = {"scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
    asset = {"version": "2.0", "generator": "dreamfusion"}
    glb = Glb({"asset": asset, "extensionsUsed": [prefix], **scene}, bytearray())
    index = {name: glb.add_array(values.astype("<f4")) for name, values in attributes.items()}
    low, high = of["means"].min(0).tolist(), of["means"].max(0).tolist()
    glb.tree["accessors"][index["POSITION"]] |= {"min": low, "max": high}
    extension = {prefix: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
    glb.add("meshes", {"primitives": [{"mode": 0, "attributes": index, "extensions": extension}]})
    return glb.to_bytes()
