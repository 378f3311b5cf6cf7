"""Writes USDZ files, for augmented reality on Apple devices, with Pixar's library."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamfusion.graphics import srgb
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.texture import TexturedMesh, smooth_normals


def usdz_bytes(mesh: Mesh | TexturedMesh) -> bytes:
    """Convert a mesh to a USDZ package: +Y up, one unit per metre, one matt UsdPreviewSurface.
    Raises MeshError if usd-core is not installed."""
    require_usd()
    from pxr import Sdf, Usd, UsdGeom, UsdUtils

    with tempfile.TemporaryDirectory() as folder:
        stage = Usd.Stage.CreateNew(str(Path(folder) / "model.usdc"))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/Model").GetPrim())
        shape = _define_mesh(stage, mesh)
        if isinstance(mesh, TexturedMesh):
            Image.fromarray(mesh.texture).save(Path(folder) / "albedo.png")
            _texture(stage, shape, mesh.uv)
        else:
            _paint(stage, shape, mesh.colors)
        stage.GetRootLayer().Save()
        package = Path(folder) / "model.usdz"
        UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(Path(folder) / "model.usdc")), str(package))
        return package.read_bytes()


def require_usd() -> None:
    """Raise MeshError if usd-core is not installed."""
    if importlib.util.find_spec("pxr") is None:
        raise MeshError(
            "usdz needs Pixar's USD: pip install 'dreamfusion[usd]', or export another format"
        )


def _define_mesh(stage: Any, mesh: Mesh | TexturedMesh) -> Any:
    from pxr import UsdGeom, Vt

    shape = UsdGeom.Mesh.Define(stage, "/Model/Mesh")
    points = mesh.vertices.astype(np.float32)
    normals = smooth_normals(mesh)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray(len(mesh.faces), 3))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.astype(np.int32).ravel()))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals.astype(np.float32)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    extent = np.stack([points.min(axis=0), points.max(axis=0)])
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
    return shape


def _texture(stage: Any, shape: Any, uv: NDArray[np.float64]) -> None:
    from pxr import Sdf, UsdGeom, UsdShade, Vt

    values = UsdGeom.PrimvarsAPI(shape).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
    )
    values.Set(Vt.Vec2fArray.FromNumpy(uv.astype(np.float32)))
    reader = _reader(stage, "float2", "st", Sdf.ValueTypeNames.Float2)
    image = UsdShade.Shader.Define(stage, "/Model/Albedo/Picture")
    image.CreateIdAttr("UsdUVTexture")
    image.CreateInput("file", Sdf.ValueTypeNames.Asset).Set("albedo.png")
    image.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
    image.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(reader)
    _bind(stage, shape, image.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))


def _paint(stage: Any, shape: Any, colors: NDArray[np.float64]) -> None:
    from pxr import Sdf, UsdGeom, Vt

    values = shape.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
    values.Set(Vt.Vec3fArray.FromNumpy(srgb.to_linear(colors).astype(np.float32)))
    _bind(stage, shape, _reader(stage, "float3", "displayColor", Sdf.ValueTypeNames.Float3))


def _reader(stage: Any, kind: str, primvar: str, value: Any) -> Any:
    """The output of a shader that reads a vertex attribute."""
    from pxr import Sdf, UsdShade

    reader = UsdShade.Shader.Define(stage, "/Model/Albedo/Reader")
    reader.CreateIdAttr(f"UsdPrimvarReader_{kind}")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set(primvar)
    return reader.CreateOutput("result", value)


def _bind(stage: Any, shape: Any, color: Any) -> None:
    """Bind a matt material of that colour to the mesh."""
    from pxr import Sdf, UsdShade

    material = UsdShade.Material.Define(stage, "/Model/Albedo")
    surface = UsdShade.Shader.Define(stage, "/Model/Albedo/Surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(color)
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    output = surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
    material.CreateSurfaceOutput().ConnectToSource(output)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
