"""The command line with a tiny random prior, mostly in this process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import trimesh
import yaml
from PIL import Image
from safetensors.torch import load_file

from dreamfusion import __version__
from dreamfusion.cli.app import app, main
from dreamfusion.mesh.formats import read_glb
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.training.trainer import Trainer
from tests.helpers.tiny_priors import save_latent_prior, save_pixel_prior

TINY = {
    "camera": {"views": 2},
    "render": {"resolution": 16},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 3},
    },
    "output": {
        "checkpoint_every": 4, "preview_every": 3, "video_frames": 4, "video_size": 32,
        "mesh_resolution": 24, "texture_size": 64,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return str(save_pixel_prior(tmp_path_factory.mktemp("prior") / "pixel"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


@pytest.fixture
def train(prior, settings, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*options, prompt="a red puppy", steps=6):
        command = ["train", prompt, "--prior", prior, "--config", settings, "--steps", str(steps)]
        return main([*command, *options])

    return run


def last_tensors(run):
    newest = sorted((run / "checkpoints").glob("*.safetensors"))[-1]
    return newest.name, load_file(newest)


def steps_of(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_option_has_an_explicit_name():
    """Without one, typer 0.27 uses the metavar "PRIOR" as the name instead of --prior."""
    seen = 0
    for command in app.registered_commands:
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                if (getattr(info, "metavar", None) or "").lower() == name:
                    seen += 1
                    first = info.default  # within Annotated, this is the first name
                    named = str(first).startswith("--") or info.param_decls
                    assert named, f"{command.callback.__name__}: {name}"
    assert seen >= 8


def test_help_is_fast_and_imports_no_heavy_library():
    best = float("inf")
    for _ in range(3):
        before = os.times()
        command = [sys.executable, "-m", "dreamfusion", "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        now = os.times()
        spent = now.children_user + now.children_system
        best = min(best, spent - before.children_user - before.children_system)
    assert best < 0.5  # CPU seconds, which do not depend on the load of the machine
    for command in (
        "train",
        "resume",
        "batch",
        "evaluate",
        "export",
        "render",
        "sample",
        "report",
        "view",
        "vocabulary",
        "--version",
    ):
        assert command in result.stdout
    code = (
        "import sys; from dreamfusion.cli.app import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dreamfusion {__version__}\n"


def test_a_run_writes_all_files_and_prints_their_paths(train, tmp_path, capsys, prior):
    assert train("--verbose") == 0
    out = capsys.readouterr().out
    run = tmp_path / "runs" / "a-red-puppy"
    lines = out.splitlines()
    assert lines[0] == "prompt    a red puppy, read as: red corgi"
    assert lines[1].startswith("settings  ") and "tiny.yaml" in lines[1]
    assert lines[2] == "          loading the diffusion model"
    assert lines[3] == f"prior     {prior} (pixels, 16 x 16)"
    assert lines[4].startswith("device    cpu, ")
    assert lines[5] == "backends  encoding: numba, marching: numba, compositing: numba"
    assert lines[6] == "run       runs/a-red-puppy"
    assert lines[7] == "steps     6, 2 views each"
    assert "step 6/6" in out
    for name in ("video.mp4", "mesh/model.glb", "config.yaml", "metrics.jsonl", "previews"):
        assert f"runs/a-red-puppy/{name}" in out
        assert (run / name).exists()
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (run / "previews").iterdir()) == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        f"step_000000{step}.{kind}" for step in (4, 6) for kind in ("json", "safetensors")
    ]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["prompt"] == "a red puppy"
    assert config["prior"]["name"] == prior
    assert config["camera"]["distance"] == [2.5, 3.0]
    mesh = trimesh.load(run / "mesh" / "model.glb", force="mesh")
    assert mesh.volume > 0


def test_an_existing_run_is_never_overwritten(train, tmp_path, capsys):
    assert train(steps=1) == 0
    before = (tmp_path / "runs" / "a-red-puppy" / "metrics.jsonl").read_text()
    assert train(steps=1) == 0
    assert "run       runs/a-red-puppy-2\n" in capsys.readouterr().out
    assert (tmp_path / "runs" / "a-red-puppy" / "metrics.jsonl").read_text() == before
    assert train("--out", "elsewhere", steps=1) == 0
    assert (tmp_path / "elsewhere" / "mesh" / "model.glb").exists()


def test_interrupted_and_resumed_equals_uninterrupted(train, tmp_path, capsys, monkeypatch):
    assert train("--out", "whole", steps=7) == 0
    step = Trainer.step

    def interrupted(trainer):
        if trainer.state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train("--out", "broken", steps=7) == 130
    assert "stopped at step 5; to resume: dreamfusion resume broken" in capsys.readouterr().out
    assert steps_of(tmp_path / "broken") == [1, 2, 3, 4, 5]
    assert not (tmp_path / "broken" / "video.mp4").exists()

    monkeypatch.setattr(Trainer, "step", step)
    assert main(["resume", "broken"]) == 0
    assert "steps     5 to 7" in capsys.readouterr().out
    assert steps_of(tmp_path / "broken") == [1, 2, 3, 4, 5, 6, 7]
    assert (tmp_path / "broken" / "video.mp4").exists()
    (name, whole), (other_name, other) = map(
        last_tensors, (tmp_path / "whole", tmp_path / "broken")
    )
    assert name == other_name
    assert whole.keys() == other.keys()
    assert all((whole[key] == other[key]).all() for key in whole)
    assert (tmp_path / "whole" / "mesh" / "model.glb").read_bytes() == (
        tmp_path / "broken" / "mesh" / "model.glb"
    ).read_bytes()


def test_resume_with_more_steps(train, tmp_path, capsys):
    assert train("--out", "run", steps=2) == 0
    assert main(["resume", "run", "--steps", "4"]) == 0
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 4
    layers = RunFolder(tmp_path / "run").read_layers()
    assert [layer.name.split()[0] for layer in layers] == ["prior", "file", "command", "resume"]
    assert layers[-1].settings == {"steps": 4, "schedule_steps": 2}
    capsys.readouterr()
    assert main(["resume", "run", "--steps", "3"]) == 2
    assert capsys.readouterr().err == "error: run is already at step 4, past 3\n"


def test_a_run_killed_before_its_first_checkpoint_starts_over(train, tmp_path):
    assert train("--out", "run", steps=2) == 0
    _, expected = last_tensors(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    assert main(["resume", "run"]) == 0
    assert steps_of(tmp_path / "run") == [1, 2]
    _, found = last_tensors(tmp_path / "run")
    assert all((expected[key] == found[key]).all() for key in expected)


@pytest.mark.parametrize("command", ["export", "render"])
def test_a_run_without_a_checkpoint_reports_what_is_missing(train, tmp_path, capsys, command):
    assert train("--out", "run", steps=2) == 0
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    capsys.readouterr()
    assert main([command, "run"]) == 2
    assert capsys.readouterr().err == (
        "error: run has no checkpoint yet: the first is written after 4 steps, or when the "
        "run is stopped; if it has stopped, run: dreamfusion resume run\n"
    )


def test_commands_work_on_a_run_during_training(train, tmp_path, capsys, monkeypatch):
    seen, step_once = {}, Trainer.step

    def step_and_look(trainer):
        metrics = step_once(trainer)
        if trainer.state.step == 6:  # the newest checkpoint is of step 4
            capsys.readouterr()
            for command in (
                ["export", "run"],
                ["render", "run", "--frames", "2"],
                ["report", "run"],
            ):
                seen[command[0]] = (main(command), capsys.readouterr().out)
        return metrics

    monkeypatch.setattr(Trainer, "step", step_and_look)
    assert train("--out", "run", steps=8) == 0
    assert {name: code for name, (code, _) in seen.items()} == dict.fromkeys(seen, 0)
    assert "run/mesh/model.glb" in seen["export"][1]
    assert "run/render-color.mp4" in seen["render"][1]
    assert (tmp_path / "run" / "report.html").exists()
    assert steps_of(tmp_path / "run") == list(range(1, 9))


def test_a_terminal_shows_a_progress_bar(train, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert train("--verbose", steps=3) == 0
    out = capsys.readouterr().out
    assert "step 3/3" in out
    assert "steps/s" in out
    assert "SDS gradient" in out


def test_a_first_run_prints_few_and_common_words(train, capsys):
    assert train(steps=2) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [
        r"prompt    a red puppy, read as: red corgi",
        r"          loading the diffusion model",
        r"run       runs/a-red-puppy",
        r"steps     2",
        r"step 1/2  \d+ s left",
        r"step 2/2  0 s left",
        r"          finding the surface",
        r"          baking the texture",
        r"          comparing with the scene",
        r"mesh      runs/a-red-puppy/mesh/model.glb",
        r"          [\d,]+ faces, .*",
        r"images 1/4",
        r"images 4/4",
        r"video     runs/a-red-puppy/video.mp4",
        r"to view   dreamfusion view runs/a-red-puppy",
        r"to export dreamfusion export runs/a-red-puppy -o a-red-puppy.obj",
        r"done in   .*",
    ]
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_export_and_render(train, tmp_path, capsys):
    assert train("--out", "run", steps=2) == 0
    capsys.readouterr()
    for kind in ("obj", "ply", "stl", "glb"):
        assert main(["export", "run", "--format", kind, "--resolution", "16", "--verbose"]) == 0
        beside = ["png", "mtl"] if kind == "obj" else []
        files = [f"run/mesh/model.{suffix}" for suffix in (kind, *beside)]
        out = capsys.readouterr().out
        assert [line.split()[-1] for line in out.splitlines() if "run/mesh" in line] == files
        assert "compared with the scene: PSNR " in out and " faces, 1 piece, " in out
        mesh = trimesh.load(tmp_path / "run" / "mesh" / f"model.{kind}", force="mesh")
        assert len(mesh.faces) > 10
    small = ["--faces", "40", "--texture", "0", "--origin", "base", "--threshold", "0.5"]
    assert main(["export", "run", *small]) == 0
    mesh = trimesh.load(tmp_path / "run" / "mesh" / "model.glb", force="mesh")
    assert len(mesh.faces) <= 40
    assert mesh.bounds[0, 1] == pytest.approx(0, abs=1e-6)
    assert mesh.visual.material.baseColorTexture is None
    capsys.readouterr()
    assert main(["export", "run", "--threshold", "1e9"]) == 2
    assert "no density exceeds" in capsys.readouterr().err
    capsys.readouterr()
    for mode in ("color", "normals", "depth", "textureless", "grid"):
        command = ["render", "run", "--mode", mode, "--frames", "2", "--size", "32", "--quiet"]
        assert main(command) == 0
        assert capsys.readouterr().out == f"run/render-{mode}.mp4\n"
        assert (tmp_path / "run" / f"render-{mode}.mp4").stat().st_size > 500


def test_render_formats_backgrounds_and_meshes(train, tmp_path, capsys):
    assert train("--out", "run", steps=2) == 0
    run = tmp_path / "run"
    small = ["--frames", "3", "--size", "32"]
    capsys.readouterr()
    assert main(["render", "run", "--format", "png", "--background", "transparent", *small]) == 0
    assert "images    run/render-color/frame_0000.png to frame_0002.png" in capsys.readouterr().out
    with Image.open(run / "render-color" / "frame_0001.png") as picture:
        assert picture.mode == "RGBA" and picture.getpixel((0, 0))[3] == 0
    assert (
        main(["render", "run", "--format", "png", "--background", "#ff8000", "--frames", "1"]) == 0
    )
    with Image.open(run / "render-color.png") as picture:
        assert picture.getpixel((0, 0)) == (255, 128, 0) and picture.size == (32, 32)
    capsys.readouterr()
    assert (
        main(["render", "run", "--mesh", "--mode", "grid", "--format", "gif", "--json", *small])
        == 0
    )
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"files": ["run/render-grid-mesh.gif"]}
    assert "images    run/render-grid-mesh.gif" in captured.err
    with Image.open(run / "render-grid-mesh.gif") as animation:
        assert animation.n_frames == 3 and animation.size == (64, 64)

    for options, message in (
        (["--background", "transparent"], "an mp4 cannot be transparent; use --format webp, "),
        (["--background", "mauvey"], "a background is transparent, #rrggbb or the name of "),
        (["--mesh"], "run/mesh/model.glb does not exist; write it with: dreamfusion export run"),
        (["--mesh"], "cannot read the mesh run/mesh/model.glb ("),
    ):
        model = run / "mesh" / "model.glb"
        model.unlink(missing_ok=True)
        if "cannot read" in message:
            model.write_bytes(b"glTF no more")
        assert main(["render", "run", *options, *small]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_json_prints_one_object_and_quiet_prints_paths(train, tmp_path, capsys):
    assert train("--json", steps=2) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.out.count("\n") == 1 and "step 2/2" in captured.err
    assert report["run"] == "runs/a-red-puppy" and report["finished"] and report["step"] == 2
    assert report["mesh"] == ["runs/a-red-puppy/mesh/model.glb"]
    assert report["checks"]["watertight"] is True and report["checks"]["faces"] > 10
    assert list(report["stages"]) == [
        "starting", "loading the prior", "training", "finding the surface", "baking the texture",
        "comparing with the scene", "drawing the video",
    ]  # fmt: skip
    assert sum(report["stages"].values()) == pytest.approx(report["seconds"], abs=0.5)
    stages = json.loads(Path(report["run"], "stages.json").read_text())
    assert list(stages) == list(report["stages"])
    assert main(["resume", report["run"], "--steps", "3", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and set(captured.out.splitlines()) == {
        "runs/a-red-puppy", "runs/a-red-puppy/video.mp4", "runs/a-red-puppy/mesh/model.glb",
    }  # fmt: skip
    assert main(["export", report["run"], "--json", "--format", "ply"]) == 0
    captured = capsys.readouterr()
    exported = json.loads(captured.out)
    assert exported["mesh"] == ["runs/a-red-puppy/mesh/model.ply"]
    assert exported["checks"]["vertices"] > 10 and "finding the surface" in captured.err


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_sample_writes_a_contact_sheet(kind, prior, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prior if kind == "pixel" else str(save_latent_prior(tmp_path / "latent"))
    command = ["sample", "a red mug", "--prior", folder, "--count", "4", "--steps", "3"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert ("red mug, left view" if kind == "pixel" else "a red mug, side view") in out
    assert out.endswith("images    samples/a-red-mug.png\n")
    assert (tmp_path / "samples" / "a-red-mug.png").exists()
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("samples/a-red-mug-2.png\n")


def test_vocabulary(prior, tmp_path, capsys):
    assert main(["vocabulary", "--prior", prior]) == 0
    out = capsys.readouterr().out
    assert "nouns:\n  corgi (puppy)\n  mug\n  chair\ncolors:\n  red\n" in out
    assert "ignored: a\n" in out
    assert main(["vocabulary"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "A prompt takes one noun, at most one colour and adjectives, for example: a red mug\n"
        "animals:\n  corgi (dog, puppy, pup, doggy, doggie)\n  cat (kitten, kitty)\n"
    )
    titles = [line for line in out.splitlines() if line.endswith(":")]
    assert titles == [
        "animals:", "food:", "furniture:", "vehicles:", "household objects:", "buildings:",
        "figures:", "plants:", "shapes:", "colors:", "adjectives:",
    ]  # fmt: skip
    assert main(["vocabulary", "--prior", str(save_latent_prior(tmp_path / "latent"))]) == 0
    assert "accepts any words" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing argument 'PROMPT...'. See: dreamfusion train --help"),
        (["trian"], "No such command 'trian'."),
        (["train", "a mug", "--steps", "0"], "steps must be between 1 and 10000000, not 0"),
        (["train", "a mug", "--set", "stepps=3"], "unknown setting stepps; did you mean steps?"),
        (["train", "a mug", "--set", "steps"], "--set takes KEY=VALUE, not 'steps'"),
        (["train", "a mug", "--config", "no.yaml"], "no such configuration file: no.yaml"),
        (["train", "a mug", "--prior", "./nowhere"], "no such prior: ./nowhere "),
        (["train", "a dragon", "--prior", "PRIOR"], "This prior does not know 'dragon'. "),
        (["train", " ", "--prior", "PRIOR"], "The prompt is empty. "),
        (["sample", "a dragon", "--prior", "PRIOR"], "This prior does not know 'dragon'. "),
        (["train", "a mug", "--prior", "PRIOR", "--device", "tpu"], "device is auto, cpu, cuda, "),
        (["resume", "nowhere"], "no such folder: nowhere"),
        (["export", "."], ". contains no run: it has no config.yaml"),
        (["render", ".", "--mode", "x-ray"], "Invalid value for '--mode'"),
    ],
)
def test_user_errors_are_one_line_with_status_two(
    arguments, message, prior, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([prior if part == "PRIOR" else part for part in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_word_is_refused_before_heavy_imports(prior):
    code = (
        "import sys; from dreamfusion.cli.app import main;"
        "status = main(['train', 'a dragon', '--prior', sys.argv[1]]);"
        "sys.exit(status + 10 * ('torch' in sys.modules))"
    )
    command = [sys.executable, "-c", code, prior]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 2


def spoil(monkeypatch, *, at, times):
    """Make the weights not finite before step `at`, this many times."""
    step, left = Trainer.step, [times]

    def spoiled(trainer):
        if trainer.state.step == at - 1 and left[0] > 0:
            left[0] -= 1
            trainer.state.scene.field.mlp.weight1.data.fill_(float("nan"))
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", spoiled)


def test_a_diverged_run_is_rolled_back_with_lower_learning_rates(
    train, tmp_path, capsys, monkeypatch
):
    spoil(monkeypatch, at=6, times=2)
    assert train("--out", "run") == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(";")[-1] for line in told] == [
        f" rolling back to step 4, with learning rates times {rate} (rollback {n} of 3)"
        for n, rate in ((1, 0.5), (2, 0.25))
    ]
    assert all(line.startswith("warning: training diverged in step 6 (timest") for line in told)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 7))
    name, _ = last_tensors(tmp_path / "run")
    details = json.loads((tmp_path / "run/checkpoints" / name).with_suffix(".json").read_text())
    assert details["rollbacks"] == 2


def test_a_run_that_diverges_repeatedly_is_an_error_of_one_line(
    train, tmp_path, capsys, monkeypatch
):
    spoil(monkeypatch, at=6, times=99)
    assert train("--out", "run") == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert len(warnings) == 3
    assert error.startswith("error: training diverged in step 6 (timesteps [")
    assert error.endswith("(after 3 rollbacks to the last good step)")
    assert last_tensors(tmp_path / "run")[0] == "step_0000004.safetensors"


def test_a_run_that_diverges_before_its_first_checkpoint_starts_over(train, capsys, monkeypatch):
    spoil(monkeypatch, at=2, times=1)
    assert train("--out", "run") == 0
    assert "rolling back to step 0, with learning rates times 0.5" in capsys.readouterr().err


def test_an_eof_error_of_a_library_is_not_a_stop(monkeypatch, capsys):
    """Otherwise a batch, which counts a stop as preemption, would retry the job forever."""
    from dreamfusion.batch.attempt import _run_command_line
    from dreamfusion.cli import machine

    def read_a_cut_file():
        raise EOFError("Ran out of input")

    monkeypatch.setattr(machine, "preset_names", read_a_cut_file)
    with pytest.raises(EOFError, match="Ran out of input"):
        main(["configs"])
    assert "stopped" not in capsys.readouterr().err
    assert _run_command_line(main, ["configs"]) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_characters_missing_in_the_encoding_are_replaced(tmp_path, encoding):
    """On Windows, redirected output is not UTF-8."""
    (tmp_path / "x.yaml").write_text("prompt: ein Bär → 熊\n", encoding="utf-8")
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (["configs", "x.yaml"], ["resume", "runs/熊"]):
        command = [sys.executable, "-m", "dreamfusion", *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True)
        assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2 and done.stderr.startswith(b"error: no such folder: runs/")
    done = subprocess.run(
        [*command[:3], "configs", "x.yaml"], env=env, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0
    said = done.stdout.decode(encoding)
    assert "prompt: ein B" in said and ("→ 熊" if encoding == "utf-8" else "? ?") in said


def test_out_is_used_literally(train, tmp_path, capsys, monkeypatch):
    """A second run was silently written to run-2, and a later export used the first one."""
    assert train("--out", "run", steps=1) == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    capsys.readouterr()
    assert train("--out", "run", prompt="a blue puppy", steps=2) == 2
    said = capsys.readouterr()
    assert said.err.startswith(
        "error: run already contains a run; to resume it: dreamfusion resume run; to replace it, "
        "add --overwrite; "
    )
    assert said.out == "" and (tmp_path / "run" / "config.yaml").read_text() == before
    assert train("--out", "run", "--overwrite", prompt="a blue puppy", steps=2) == 0
    assert steps_of(tmp_path / "run") == [1, 2]
    assert RunFolder(tmp_path / "run").read_config().prompt == "a blue puppy"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for options in (["--overwrite"], ["--overwrite", "--out", "x", "--seeds", "2"]):
        assert train(*options) == 2
        assert "pass --out, and no --seeds" in capsys.readouterr().err


def test_resume_changes_settings_and_records_them(train, tmp_path, capsys):
    assert train("--out", "run", steps=2) == 0
    assert main(["resume", "run", "--steps", "3", "--set", "estimator.guidance=3"]) == 0
    run = RunFolder(tmp_path / "run")
    assert run.read_config().estimator.guidance.start == 3
    assert run.read_layers()[-1].settings["estimator"] == {"guidance": 3}
    capsys.readouterr()
    for change, message in (
        ("steps=9", "error: a resumed run keeps its steps: use --steps\n"),
        ("seed=1", "error: a resumed run keeps its seed: start a new run instead\n"),
    ):
        assert main(["resume", "run", "--set", change]) == 2
        assert capsys.readouterr().err == message
    assert main(["resume", "run", "--steps", "4", "--set", "scene.field.levels=2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "settings that change the shape of the scene" in error
    assert run.read_config().scene.field.levels == 3


def test_files_are_written_where_out_says(train, tmp_path, capsys):
    assert train("--out", "run", steps=2) == 0
    with Image.open(tmp_path / "run" / "thumbnail.png") as picture:
        assert picture.mode == "RGBA" and picture.getpixel((0, 0))[3] == 0
    capsys.readouterr()
    small = ["--resolution", "16", "--quiet"]
    assert main(["export", "run", "-o", "new/mine.obj", *small]) == 0
    assert capsys.readouterr().out == "new/mine.obj\nnew/mine.png\nnew/mine.mtl\n"
    assert main(["export", "run", "--out", "bare", *small]) == 0
    _, provenance = read_glb(tmp_path / "bare.glb")
    assert (provenance.prompt, provenance.seed) == ("a red puppy", 0)
    assert provenance.dreamfusion == __version__ and len(provenance.settings) == 64
    assert main(["export", "run", "--for", "print", "--size-mm", "50", "-o", "p.3mf", *small]) == 0
    assert trimesh.load(tmp_path / "p.3mf", force="mesh").extents.max() == pytest.approx(50)
    render = ["render", "run", "--frames", "1", "--size", "32"]
    for degrees in ("0", "80"):
        assert main([*render, "--elevation", degrees, "-o", f"{degrees}.png"]) == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "80.png").read_bytes()
    capsys.readouterr()
    assert main([*render, "--elevation", "90"]) == 2
    assert "'--elevation'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train x --config fast", "fast-preview"),
        ("batch --config stable", "stable-diffusion"),
        ("train x --estimator cs", "csd"),
        ("train x --set camera.v", "camera.views="),
        ("resume x --set output.video_s", "output.video_size="),
    ],
)
def test_the_shell_completes_presets_estimators_and_settings(words, expected):
    env = os.environ | {
        "_DREAMFUSION_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": f"dreamfusion {words}",
    }
    code = "from dreamfusion.cli.app import app; app(prog_name='dreamfusion')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert f'"{expected}"' in done.stdout.replace("\\:", ":"), done
