"""USDZ packages, read and validated by Pixar's library."""

import io
import zipfile

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.mesh import usd
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.formats import write_mesh
from dreamfusion.mesh.texture import TexturedMesh

pxr = pytest.importorskip("pxr")


def box(textured):
    model = trimesh.creation.box((1.0, 2.0, 0.5))
    vertices, faces = np.asarray(model.vertices), np.asarray(model.faces)
    if not textured:
        return Mesh(vertices, faces, np.tile([0.9, 0.5, 0.1], (8, 1)))
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4] = 200, 30, 10
    normals = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    return TexturedMesh(vertices, faces, normals, np.random.default_rng(0).random((8, 2)), texture)


@pytest.mark.parametrize("textured", [True, False])
def test_a_package_contains_the_upright_mesh_and_its_material(tmp_path, textured):
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    mesh, path = box(textured), tmp_path / "a" / "model.usdz"
    assert write_mesh(mesh, path) == [path]
    assert [file.name for file in path.parent.iterdir()] == ["model.usdz"]
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    (shape,) = [prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    found = UsdGeom.Mesh(shape)
    np.testing.assert_allclose(found.GetPointsAttr().Get(), mesh.vertices, atol=1e-6)
    assert list(found.GetFaceVertexIndicesAttr().Get()) == mesh.faces.ravel().tolist()
    assert found.GetSubdivisionSchemeAttr().Get() == "none"

    material, _ = UsdShade.MaterialBindingAPI(shape).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    assert surface.GetInput("metallic").Get() == 0 and surface.GetInput("roughness").Get() == 1
    values = UsdGeom.PrimvarsAPI(shape)
    with zipfile.ZipFile(path) as package:
        names = package.namelist()
        assert names[0] == "model.usdc"
        if textured:
            picture = Image.open(io.BytesIO(package.read(names[1])))
            np.testing.assert_array_equal(np.asarray(picture), mesh.texture)
            np.testing.assert_allclose(values.GetPrimvar("st").Get(), mesh.uv, atol=1e-6)
        else:
            linear = ((np.array([0.9, 0.5, 0.1]) + 0.055) / 1.055) ** 2.4
            color = values.GetPrimvar("displayColor").Get()[3]
            np.testing.assert_allclose(color, linear, atol=1e-5)

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    complaints = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in complaints] == []


def test_a_missing_library_is_reported_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(usd.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MeshError, match=r"pip install 'dreamfusion\[usd\]'"):
        write_mesh(box(True), tmp_path / "model.usdz")
    assert list(tmp_path.iterdir()) == []
