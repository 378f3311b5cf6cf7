"""The likeliest mistakes of somebody who uses the program for the first time, each with its answer:
one line that says what is wrong and what to do, and exit status 2."""

from __future__ import annotations

import shlex

import pytest

from dreamfusion.cli.app import main

RULE = (
    "A prompt takes one noun, at most one colour and adjectives, for example 'a red mug'. This "
    "prior makes animals, food, furniture, vehicles, household objects, buildings, figures, plants "
    "and shapes. `dreamfusion vocabulary` lists all words. For other words, use Stable Diffusion: "
    "--prior stable-diffusion-v1-5/stable-diffusion-v1-5"
)
NO_CHECKPOINT = (
    "runs/a-corgi has no checkpoint yet: the first is written after 100 steps, or when the run is "
    "stopped; if it has stopped, run: dreamfusion resume runs/a-corgi"
)
MISTAKES = {
    # A prompt in place of a command, quoted or not; a misspelt command; nothing to make.
    "'a corgi'": "No such command 'a corgi'. To make an object: dreamfusion train 'a corgi'",
    "a corgi": "No such command 'a'. To make an object: dreamfusion train 'a corgi'",
    "trian 'a corgi'": "No such command 'trian'. Did you mean 'train'? See: dreamfusion --help",
    "train": "Missing argument 'PROMPT...'. See: dreamfusion train --help",
    "train ''": 'The prompt is empty. Name one object, for example "a red mug".',
    # Prompts that the embedded prior cannot make.
    "train a dragon": f"This prior does not know 'dragon' (closest: dinosaur). {RULE}",
    "train a cat and a dog": f"The prompt names more than one object: 'cat' and 'dog'. {RULE}",
    "train a red and blue mug": f"The prompt names more than one colour: 'red' and 'blue'. {RULE}",
    "train red": f"The prompt names no object, only 'red'. {RULE}",
    "train un perro rojo": f"This prior does not know 'un', 'perro' and 'rojo'. {RULE}",
    # Options and settings.
    "train a corgi --steps 0": "steps must be between 1 and 10000000, not 0",
    "train a corgi --config fast-preveiw": "no preset and no file fast-preveiw; did you mean "
    "fast-preview?",
    "train a corgi --estimator sdss": "there is no estimator 'sdss'; did you mean sds?",
    "train a corgi --set guidance=8": "unknown setting guidance; did you mean estimator.guidance?",
    "train a corgi --set 'steps 8'": "--set takes KEY=VALUE, not 'steps 8'",
    "train a corgi --device gpu": "device is auto, cpu, cuda, cuda:N or mps; not 'gpu'",
    "train a corgi --prior sd": "no such prior: sd (a prior is auto, embedded, a folder in "
    "diffusers' layout or a hub id like stable-diffusion-v1-5/stable-diffusion-v1-5)",
    # Folders and files.
    "train a corgi --out notes.txt": "notes.txt is a file; choose another folder with --out",
    "train a corgi --out runs/a-corgi": "runs/a-corgi already contains a run; to resume it: "
    "dreamfusion resume runs/a-corgi; to replace it, add --overwrite; or choose another folder "
    "with --out",
    "resume a-corgi": "no such folder: a-corgi; did you mean runs/a-corgi?",
    "view runs": "runs contains no run; name a run in it, such as runs/a-corgi",
    "report nowhere": "no such folder: nowhere",
    "batch prompts.txt": "no such file: prompts.txt",
    # Exports.
    "export runs/a-corgi": NO_CHECKPOINT,
    "export runs/a-corgi -o corgi.fbx": "cannot write corgi.fbx: the formats are glb, obj, ply, "
    "stl, usdz, 3mf",
    "export runs/a-corgi -o corgi.obj --format glb": "--format glb contradicts --out corgi.obj: "
    "omit one of them",
    "export runs/a-corgi -o corgi.3mf": "3mf is a format for prints: add --for print",
    "export runs/a-corgi --size-mm 80": "--size-mm is the size of a print: add --for print",
    "resume runs/a-corgi --set prompt=mug": "a resumed run keeps its prompt: start a new run "
    "instead",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a run that has not begun and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a-corgi").mkdir(parents=True)
    (tmp_path / "runs" / "a-corgi" / "config.yaml").write_text("prompt: a corgi\n")
    (tmp_path / "notes.txt").write_text("mine")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_has_its_answer(line, here, capsys):
    assert main(shlex.split(line)) == 2
    assert capsys.readouterr() == ("", f"error: {MISTAKES[line]}\n")


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("train a corgi --step 10", "No such option: --step"),
        ("train a corgi --steps many", "Invalid value for '--steps': "),
        ("train a corgi --seeds 0", "Invalid value for '--seeds': "),
        ("export runs/a-corgi --format fbx", "Invalid value for '--format': "),
    ],
)
def test_a_mistake_that_typer_finds_names_the_help(line, start, here, capsys):
    """The words between depend on typer's version."""
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {start}") and error.count("\n") == 1
    assert error.endswith(f" See: dreamfusion {line.split()[0]} --help\n")


@pytest.mark.parametrize("line", ["", "help", "-h", "train -h", "export --help"])
def test_help_is_found(line, capsys):
    assert main(line.split()) == 0
    assert capsys.readouterr().out.startswith("Usage: dreamfusion ")
