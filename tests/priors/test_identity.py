"""The identity of a prior is stored in the run and the GLB file, and checked on resuming."""

import json
import shutil
from dataclasses import asdict

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dreamfusion.cli.app import main
from dreamfusion.mesh.provenance import read_provenance
from dreamfusion.priors import PriorError, identity, resolve_prior
from dreamfusion.priors.identity import PriorIdentity, has_weights, identify, read_identity
from dreamfusion.runs.folder import find_run
from dreamfusion.runs.plan import plan_resumed
from tests.helpers.tiny_priors import save_latent_prior, save_pixel_prior
from tests.helpers.tiny_runs import TINY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = "unet/diffusion_pytorch_model.safetensors"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    return save_latent_prior(tmp_path_factory.mktemp("priors") / "latent")


def change(file, amount=1.0):
    tensors = load_file(file)
    changed = {name: value + amount for name, value in tensors.items()}
    save_file(changed, file, metadata={"format": "pt"})


def identity_of(folder):
    return identify(resolve_prior(str(folder)))


def test_a_folder_of_the_hubs_cache_has_id_and_revision(latent, tmp_path):
    folder = tmp_path / "models--some-one--a-model" / "snapshots" / COMMIT
    shutil.copytree(latent, folder)
    found = identity_of(folder)
    assert (found.id, found.revision) == ("some-one/a-model", COMMIT)
    assert found.weights == identity_of(latent).weights


@pytest.mark.parametrize(
    ("text", "license_"),
    [
        ("---\nlicense: openrail++\ntags: [a]\n---\n# A", "openrail++"),
        ("---\nlicense: other\nlicense_name: stabilityai-ai-community\n---\n",
         "stabilityai-ai-community"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: {\n---\n", None),
        ("# No front matter\nlicense: mit\n", None),
    ],
)  # fmt: skip
def test_the_licence_is_that_of_the_readme(latent, tmp_path, text, license_):
    folder = shutil.copytree(latent, tmp_path / "copy")
    assert identity_of(folder).license is None
    (folder / "README.md").write_text(text)
    assert identity_of(folder).license == license_


@pytest.mark.parametrize("whole", [True, False])
def test_the_hash_is_that_of_the_weights(latent, tmp_path, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(identity, "_BLOCK", 16)
    folder = shutil.copytree(latent, tmp_path / "copy")
    before = identity_of(latent).weights
    assert identity_of(folder).weights == before
    change(folder / UNET)
    assert identity_of(folder).weights != before
    assert identity_of(save_pixel_prior(tmp_path / "pixel")).weights != before


def test_weights_match_in_either_precision(latent, tmp_path):
    folder = shutil.copytree(latent, tmp_path / "copy")
    file = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    halves = {name: value.half() for name, value in load_file(folder / UNET).items()}
    save_file(halves, file, metadata={"format": "pt"})
    whole, half = (
        identify(resolve_prior(str(folder), device=device)).weights for device in ("cpu", "cuda")
    )
    assert whole != half
    assert all(has_weights(resolve_prior(str(folder)), known) for known in (whole, half))
    assert not has_weights(resolve_prior(str(folder)), "another")


def test_an_identity_is_read_as_it_was_written(tmp_path):
    for known in (PriorIdentity("a"), PriorIdentity("é/b", COMMIT, "mit", "00")):
        (tmp_path / "prior.json").write_text(json.dumps(asdict(known)), encoding="utf-8")
        assert read_identity(tmp_path / "prior.json") == known
    assert read_identity(tmp_path / "nowhere.json") is None
    (tmp_path / "prior.json").write_text("{")
    with pytest.raises(PriorError, match=r"prior[.]json is broken, delete it: cannot read"):
        read_identity(tmp_path / "prior.json")


SETTINGS = {
    "camera": {"views": 1},
    "render": {"resolution": 16},
    "scene": TINY["scene"],
    "output": {
        "checkpoint_every": 2, "preview_every": 9, "video_frames": 1, "video_size": 32,
        "mesh_resolution": 16, "texture_size": 0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run and its prior, in `before`."""
    base = tmp_path_factory.mktemp("trained")
    prior = save_pixel_prior(base / "before")
    (prior / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    asked = ["train", "a red puppy", "--prior", str(prior), "--config", str(base / "tiny.yaml")]
    assert main([*asked, "--steps", "2", "--out", str(base / "run")]) == 0
    return base


@pytest.fixture
def base(trained, tmp_path):
    """A copy of `trained`, whose prior has moved to `after`."""
    shutil.move(shutil.copytree(trained, tmp_path / "base") / "before", tmp_path / "base" / "after")
    path = tmp_path / "base" / "run" / "config.yaml"
    text = path.read_text()
    assert str(trained) in text
    path.write_text(text.replace(str(trained), str(tmp_path / "base")))
    return tmp_path / "base"


def test_the_prior_is_recorded_in_the_run_and_its_mesh(trained):
    found = json.loads((trained / "run" / "prior.json").read_text())
    known = identity_of(trained / "before")
    assert found == {"id": str(trained / "before"), "revision": None, "license": "mit",
                     "weights": known.weights}  # fmt: skip
    glb = trained / "run" / "mesh" / "model.glb"
    prior = {"id": str(trained / "before"), "license": "mit"}
    assert read_provenance(glb.read_bytes()).prior == prior
    glb.unlink()
    assert main(["export", str(trained / "run")]) == 0
    assert read_provenance(glb.read_bytes()).prior == prior


def test_a_run_resumes_with_its_prior_in_another_place(base, capsys):
    run, after = str(base / "run"), str(base / "after")
    assert main(["resume", run, "--steps", "3"]) == 2
    assert capsys.readouterr().err == (
        f"error: the prior of {run} is no longer at {base / 'before'}; pass its new folder: "
        f"dreamfusion resume {run} --prior PATH\n"
    )
    assert main(["resume", run, "--steps", "3", "--prior", after]) == 0
    assert "warning" not in capsys.readouterr().err
    assert yaml.safe_load((base / "run" / "config.yaml").read_text())["prior"]["name"] == after
    assert plan_resumed(find_run(base / "run"), steps=4).prior.name == after


def test_a_run_is_not_resumed_with_another_prior(base, trained, capsys):
    change(base / "after" / UNET)
    run, after = str(base / "run"), str(base / "after")
    assert main(["resume", run, "--steps", "3", "--prior", after]) == 2
    assert capsys.readouterr().err == (
        f"error: {after} has other weights than the prior of {run}, {trained / 'before'}; pass a "
        "copy of that prior, or start a new run with `dreamfusion train --prior`\n"
    )


def test_a_changed_prior_causes_a_warning(base, capsys):
    change(base / "after" / UNET)
    (base / "after").rename(base / "before")
    assert main(["resume", str(base / "run"), "--steps", "3"]) == 0
    assert capsys.readouterr().err.startswith(
        f"warning: the weights of {base / 'before'} differ from those that {base / 'run'} started "
        "with\n"
    )


def test_a_run_without_a_recorded_prior_is_resumed_unchecked(base):
    (base / "run" / "prior.json").unlink()
    after = str(base / "after")
    assert main(["resume", str(base / "run"), "--steps", "3", "--prior", after]) == 0
    assert read_identity(base / "run" / "prior.json").id == after
