"""The Python API, as used in notebooks."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trimesh
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import dreamfusion as df
from dreamfusion.cli.app import main
from dreamfusion.diffusion.condition import Condition
from tests.helpers.tiny_priors import PRIORS, save_latent_prior, save_pixel_prior

SMALL = {
    "camera.views": 2,
    "render.resolution": 16,
    "scene.field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
    "scene.occupancy.resolution": 16,
    "output": {
        "video_frames": 2, "video_size": 32, "mesh_resolution": 24, "texture_size": 64,
        "mesh_faces": 400,
    },
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return str(save_pixel_prior(tmp_path_factory.mktemp("prior") / "pixel"))


@pytest.fixture(scope="module")
def run(prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "run"
    torch.set_num_threads(1)
    return df.train("a red puppy", out=out, steps=4, prior=prior, settings=SMALL)


def newest(run):
    return load_file(sorted((run.path / "checkpoints").glob("*.safetensors"))[-1])


def test_the_api_equals_the_command_line(run, prior, tmp_path):
    options = [f"{name}={value}" for name, value in SMALL.items() if not isinstance(value, dict)]
    options += [
        f"{section}.{name}={value}"
        for section in ("scene.field", "output")
        for name, value in SMALL[section].items()
    ]
    command = ["train", "a red puppy", "--prior", prior, "--steps", "4", "--out"]
    command += [str(tmp_path / "run"), *(part for o in options for part in ("--set", o))]
    assert main(command) == 0
    a, b = newest(run), newest(df.open_run(tmp_path / "run"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_has_a_scene_metrics_and_a_mesh(run):
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 for row in run.metrics)
    pictures = run.scene.images(df.turntable_cameras(3), size=24, mode="normals")
    assert pictures.shape == (3, 24, 24, 3)
    assert isinstance(run.mesh, trimesh.Trimesh) and len(run.mesh.faces) <= 400
    assert run.config.estimator.guidance.start == 8


def constant_loss(scene, progress, generator):
    return {"constant": torch.tensor(1.0)}


def test_a_callback_receives_every_step_and_resume_continues(prior, tmp_path, capsys):
    seen = []
    run = df.train(
        "a red puppy", out=tmp_path / "run", steps=2, prior=prior, settings=SMALL,
        callback=lambda metrics: seen.append(metrics.step),
    )  # fmt: skip
    assert seen == [1, 2] and capsys.readouterr().err == ""
    again = df.open_run(run.path).resume(
        steps=4, settings={"estimator.guidance": 2}, losses=[constant_loss], progress=True,
        callback=lambda m: seen.append(m.step),
    )  # fmt: skip
    assert again.config.estimator.guidance.start == 2
    assert [row.get("loss_constant") for row in again.metrics] == [None, None, 1.0, 1.0]
    bar = capsys.readouterr().err
    assert "a red puppy:  50%" in bar and "4/4" in bar
    assert seen == [1, 2, 3, 4] and again.path == run.path
    assert again.config.steps == 4


def test_export_writes_any_format(run, tmp_path):
    written = run.export(tmp_path / "corgi.ply", faces=100)
    assert written.files == [tmp_path / "corgi.ply"] and written.topology.faces <= 100


def test_a_notebook_shows_the_run(run):
    page = run._repr_html_()
    assert page.startswith("<iframe srcdoc=") and "a red puppy" in page and "<script" not in page


def test_errors_have_one_line(prior, tmp_path):
    with pytest.raises(df.UserError, match="does not know 'dragon'"):
        df.train("a dragon", prior=prior, out=tmp_path / "run")
    with pytest.raises(df.UserError, match=r"unknown setting estimator\.guidence; did you mean"):
        df.train("a mug", prior=prior, out=tmp_path / "run", settings={"estimator.guidence": 3})
    with pytest.raises(df.UserError, match="no such folder"):
        df.open_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_iterating_a_trainer_takes_its_steps(prior):
    judge = df.DiffusionPrior.from_pretrained(prior)
    settings = {"prompt": "a red puppy", "steps": 2, "render": {"resolution": 16}}
    config = df.build_config(judge.card.settings, settings)
    assert [metrics.step for metrics in df.Trainer(config, judge)] == [1, 2]


@pytest.mark.parametrize("kind", PRIORS)
def test_a_loaded_pipeline_equals_the_prior_of_its_folder(kind, tmp_path):
    folder = PRIORS[kind](tmp_path / "prior")
    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **absent)
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.float()
    found = df.DiffusionPrior.from_pipe(pipe)
    expected = df.DiffusionPrior.from_pretrained(str(folder), dtype="float32")
    assert found.pipeline == expected.pipeline and found.prediction == expected.prediction
    text = found.encode_text(["a mug", ""])
    assert torch.equal(text.tokens, expected.encode_text(["a mug", ""]).tokens)
    images = torch.rand(2, 3, found.image_size, found.image_size)
    encoded = expected.encode_image(images)
    torch.testing.assert_close(found.encode_image(images), encoded)
    times = torch.tensor([100, 700])
    torch.testing.assert_close(
        found.predict(encoded, times, Condition(text)),
        expected.predict(encoded, times, Condition(text)),
    )


def test_a_pipeline_of_another_kind_is_refused():
    class FluxPipeline:
        pass

    with pytest.raises(df.UserError, match="a FluxPipeline is not supported; use a Stable"):
        df.DiffusionPrior.from_pipe(FluxPipeline())


def test_a_run_with_a_loaded_pipeline_resumes_with_it(tmp_path):
    folder = save_latent_prior(tmp_path / "latent")
    pipe = DiffusionPipeline.from_pretrained(folder)
    judge = df.DiffusionPrior.from_pipe(pipe)
    run = df.train("a thing", out=tmp_path / "run", steps=1, prior=judge, settings=SMALL)
    assert run.resume(steps=2, prior=judge).metrics[-1]["step"] == 2


def test_importing_is_fast_and_names_are_listed():
    code = "import sys, dreamfusion as df; df.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert set(df.__all__) <= set(dir(df))
    assert all(getattr(df, name) is not None for name in df.__all__)
    with pytest.raises(AttributeError, match="No dreamfusion attribute trian"):
        df.trian  # noqa: B018


def test_a_run_is_replaced_only_with_overwrite(prior, tmp_path):
    out = tmp_path / "run"
    df.train("a red puppy", out=out, steps=1, prior=prior, settings=SMALL)
    with pytest.raises(
        df.UserError, match=r"already contains a run; to resume it: dreamfusion resu"
    ):
        df.train("a red puppy", out=out, steps=2, prior=prior, settings=SMALL)
    run = df.train("a red puppy", out=out, overwrite=True, steps=2, prior=prior, settings=SMALL)
    assert run.path == out and len(run.metrics) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Mine:
    """A custom prior."""

    def __init__(self, prior):
        self._prior, self.asked = prior, 0
        self.card, self.name, self.device, self.dtype, self.shape = (
            prior.card, "mine", prior.device, prior.dtype, prior.shape
        )  # fmt: skip
        self.alphas, self.sigmas, self.prediction = prior.alphas, prior.sigmas, prior.prediction
        self.encode_text, self.encode_image = prior.encode_text, prior.encode_image

    def predict(self, noisy, timesteps, condition):
        self.asked += 1
        return self._prior.predict(noisy, timesteps, condition)


def test_a_prior_is_used_or_refused_but_never_ignored(prior, tmp_path):
    mine = Mine(df.DiffusionPrior.from_pretrained(prior))
    df.train("a red puppy", out=tmp_path / "mine", steps=2, prior=mine, settings=SMALL)
    assert mine.asked == 2
    run = df.train("a mug", out=tmp_path / "b", steps=1, prior=Path(prior), settings=SMALL)
    assert run.config.prior.name == prior
    with pytest.raises(TypeError, match="not 42"):
        df.train("a mug", out=tmp_path / "c", prior=42)
    assert not (tmp_path / "c").exists()


def test_config_for_returns_the_settings_of_train(run, prior):
    config = df.config_for("a red puppy", prior, steps=4, settings=SMALL)
    found = run.config
    assert df.build_config({"device": "cpu"}).camera != config.camera  # includes the card
    assert dataclasses.replace(config, device=found.device, prior=found.prior) == found


def test_finished_schedules_keep_their_end_values(prior, tmp_path):
    """Noise and guidance do not rise again in a run that is resumed beyond its end, and the command
    in the report gives bitwise identical results."""
    settings = SMALL | {"estimator.guidance": {"start": 8, "end": 2}}
    run = df.train("a red puppy", out=tmp_path / "a", steps=4, prior=prior, settings=settings)
    run = run.resume(steps=7)
    guidance = [row["guidance"] for row in run.metrics]
    assert guidance == [8, 6, 4, 2, 2, 2, 2]
    assert run.config.schedule_steps == 4 and run.resume(steps=8).config.schedule_steps == 4
    again = ["train", "a red puppy", "--config", str(run.path / "config.yaml")]
    assert main([*again, "--out", str(tmp_path / "b")]) == 0
    a, b = newest(run), newest(df.open_run(tmp_path / "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_every_public_name_is_there():
    assert len(df.__all__) > 40
    for name in df.__all__:
        assert getattr(df, name) is not None
