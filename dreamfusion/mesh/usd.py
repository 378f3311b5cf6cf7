"""Writes USDZ files, for augmented reality on Apple devices, with Pixar's library."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamfusion.graphics import srgb
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.texture import TexturedMesh


def usdz_bytes(mesh: Mesh | TexturedMesh, name: str = "model") -> bytes:
    """Convert a mesh to a USDZ package: +Y up, one unit per metre, one matt UsdPreviewSurface.
    name: of the object and its image. Raises MeshError if usd-core is not installed."""
    require_usd()
    from pxr import Sdf, Tf, Usd, UsdGeom, UsdUtils, Vt

    root = f"/{Tf.MakeValidIdentifier(name)}"
    with tempfile.TemporaryDirectory() as folder:
        stage = Usd.Stage.CreateNew(str(Path(folder) / "model.usdc"))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, root).GetPrim())
        shape = UsdGeom.Mesh.Define(stage, f"{root}/Mesh")
        points, faces = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
        normals = mesh.normals.astype(np.float32)
        shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
        shape.CreateFaceVertexCountsAttr(Vt.IntArray(len(faces), 3))
        shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.ravel()))
        shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
        shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        extent = np.stack([points.min(axis=0), points.max(axis=0)])
        shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
        if isinstance(mesh, TexturedMesh):
            Image.fromarray(mesh.texture).save(Path(folder) / f"{name}.png")
        _add_material(stage, shape, mesh, f"{root}/Material", f"{name}.png")
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


def _add_material(
    stage: Any, shape: Any, mesh: Mesh | TexturedMesh, path: str, image_file: str
) -> None:
    """Bind a matt material with the texture or the vertex colours of the mesh."""
    from pxr import Sdf, UsdGeom, UsdShade, Vt

    types, vertex = Sdf.ValueTypeNames, UsdGeom.Tokens.vertex

    def shader(name: str, kind: str) -> Any:
        defined = UsdShade.Shader.Define(stage, f"{path}/{name}")
        defined.CreateIdAttr(kind)
        return defined

    def attribute(name: str, kind: str, value: Any) -> Any:
        """The output of a shader that reads a vertex attribute."""
        reader = shader("Reader", f"UsdPrimvarReader_{kind}")
        reader.CreateInput("varname", types.String).Set(name)
        return reader.CreateOutput("result", value)

    if isinstance(mesh, TexturedMesh):
        values = UsdGeom.PrimvarsAPI(shape).CreatePrimvar("st", types.TexCoord2fArray, vertex)
        values.Set(Vt.Vec2fArray.FromNumpy(mesh.uv.astype(np.float32)))
        uv = attribute("st", "float2", types.Float2)
        image = shader("Picture", "UsdUVTexture")
        image.CreateInput("file", types.Asset).Set(image_file)
        image.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
        image.CreateInput("st", types.Float2).ConnectToSource(uv)
        color = image.CreateOutput("rgb", types.Float3)
    else:
        values = shape.CreateDisplayColorPrimvar(vertex)
        values.Set(Vt.Vec3fArray.FromNumpy(srgb.to_linear(mesh.colors).astype(np.float32)))
        color = attribute("displayColor", "float3", types.Float3)
    material = UsdShade.Material.Define(stage, path)
    surface = shader("Surface", "UsdPreviewSurface")
    surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(color)
    surface.CreateInput("roughness", types.Float).Set(1.0)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    output = surface.CreateOutput("surface", types.Token)
    material.CreateSurfaceOutput().ConnectToSource(output)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
