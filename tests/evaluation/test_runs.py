"""Evaluation of runs in any state, by any kind of judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dreamfusion.batch.jobs import BatchFolder, Job, write_json
from dreamfusion.cli.app import main
from dreamfusion.runs.checkpoint import save_checkpoint
from tests.helpers.fast_attempts import job
from tests.helpers.run_folders import make_run
from tests.helpers.states import untrained
from tests.helpers.tiny_clips import save_clip
from tests.helpers.tiny_runs import TINY

SMALL = {key: TINY[key] for key in ("scene", "camera", "render")}


def make_scene(path, prompt, *, empty=False, mesh=True, seed=0):
    """A run with a checkpoint: the initial blob of a scene, or an empty scene."""
    from dreamfusion.config.layers import build_config
    from dreamfusion.runs.folder import RunFolder

    settings = {**SMALL, "seed": seed}
    make_run(path, prompt=prompt, done=8, **settings)
    run = RunFolder(path)
    config = build_config(yaml.safe_load(run.config.read_text()))
    state = untrained(config)
    if empty:
        with torch.no_grad():
            for value in state.scene.occupancy.state_dict().values():
                value.zero_()
    for old in run.checkpoints.iterdir():
        old.unlink()
    save_checkpoint(run.checkpoints, state, keep=2)
    if not mesh:
        (run.mesh / "model.glb").unlink()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(save_clip(tmp_path_factory.mktemp("judge") / "clip", "clip"))


def evaluated(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments), "--json", "--views", "2"]) == 0
    return json.loads(capsys.readouterr().out)


def test_metrics_of_a_run_are_in_its_report(tmp_path, capsys, clip):
    runs = [make_scene(tmp_path / name, name) for name in ("a red mug", "a blue corgi")]
    out = tmp_path / "both"
    found = evaluated(capsys, *runs, "--judge", clip, "--out", out)
    for row in found["rows"]:
        assert row["reason"] == "" and row["distractors"] == 1 and row["views"] == 2
        assert row["r1_color"] in (0.0, 0.5, 1.0)
        assert isinstance(row["margin"], float)
        assert row["pieces"] == 1 and row["watertight"] is False and row["fronts"] is None
    assert len(out.with_suffix(".csv").read_text().splitlines()) == 3
    assert main(["report", str(runs[0])]) == 0
    page = (runs[0] / "report.html").read_text()
    assert "R@1, color" in page and "Judged" in page


def test_missing_metrics_have_a_reason(tmp_path, capsys, clip):
    empty = make_scene(tmp_path / "empty", "a red mug", empty=True)
    bare = make_scene(tmp_path / "bare", "a blue corgi", mesh=False)
    begun = make_run(tmp_path / "begun", prompt="a chair", done=4)
    for file in (begun / "checkpoints").iterdir():
        file.unlink()
    rows = evaluated(capsys, empty, bare, begun, "--judge", clip)["rows"]
    assert rows[0]["reason"] == "the scene is empty" and rows[0]["r1_color"] is None
    assert rows[0]["pieces"] == 1
    assert "no such mesh" in rows[1]["reason"] and rows[1]["pieces"] is None
    assert rows[1]["r1_color"] is not None
    assert "has no checkpoint yet" in rows[2]["reason"] and rows[2]["margin"] is None
    alone = evaluated(capsys, bare, "--judge", clip)["rows"]
    assert "at least one other prompt" in alone[0]["reason"]
    (tmp_path / "others.txt").write_text("a red mug\na chair\na blue corgi\n")
    more = evaluated(capsys, bare, "--judge", clip, "--distractors", tmp_path / "others.txt")
    assert more["rows"][0]["distractors"] == 2


def make_shelf(tmp_path):
    """A batch with two finished seeds of a prompt, one failed job and one new job."""
    shelf = BatchFolder(tmp_path / "shelf")
    for seed in range(2):
        folder = shelf.folder(job("a red mug", seed=seed))
        folder.write(job("a red mug", seed=seed))
        make_scene(folder.path / "run", "a red mug", seed=seed)
        write_json(folder.done_file, {"run": "run", "seconds": 61.0 + seed, "peak_gib": 1.5})
    failed = shelf.folder(job("a blue corgi"))
    failed.write(job("a blue corgi"))
    write_json(failed.failed_file, {"error": "it <fell> over"})
    shelf.folder(job("a chair")).write(job("a chair"))
    return shelf


def test_a_batch_is_evaluated_chosen_from_and_reported(tmp_path, capsys, clip):
    shelf = make_shelf(tmp_path)
    siglip = save_clip(tmp_path / "siglip", "siglip")
    found = evaluated(capsys, shelf.path, "--judge", clip, "--chosen-by", siglip)
    rows = {(row["prompt"], row["seed"]): row for row in found["rows"]}
    assert len(rows) == 4 and rows["a red mug", 1]["seconds"] == 62.0
    assert rows["a red mug", 0]["gib"] == 1.5
    assert rows["a blue corgi", 0]["reason"] == "the job is not done: failed"
    assert found["means"]["all seeds"]["margin"]["runs"] == 2
    (best,) = [means for title, means in found["means"].items() if "chosen by" in title]
    assert best["margin"]["runs"] == 1
    assert (shelf.path / "evaluation.csv").is_file()
    assert main(["evaluate", str(shelf.path), "--judge", clip, "--chosen-by", clip]) == 2
    assert "use another judge" in capsys.readouterr().err

    assert main(["report", str(shelf.path)]) == 0
    page = (shelf.path / "gallery.html").read_text()
    assert page.count('<article class="card"') == 4 and page.count("<video") == 2
    assert "it &lt;fell&gt; over" in page and "<fell>" not in page
    assert page.count("report.html") == 2 and "R@1, shaded" in page
    assert 'src="http' not in page and "2 done, 1 failed, 1 new" in page


def test_combinations_of_settings_have_separate_means(tmp_path, capsys, clip):
    shelf = BatchFolder(tmp_path / "shelf")
    for guidance, radius in ((4, 0.2), (16, 0.4)):
        for prompt in ("a red mug", "a blue corgi"):
            config = {"steps": 1, "seed": 0, "estimator": {"guidance": guidance}}
            one = Job(
                prompt, 0, 1, config, settings={"steps": 1, "estimator": {"guidance": guidance}}
            )
            folder = shelf.folder(one)
            folder.write(one)
            make_scene(folder.path / "run", prompt, seed=int(10 * radius))
            write_json(folder.done_file, {"run": "run"})
    found = evaluated(capsys, shelf.path, "--judge", clip)
    assert {row["variant"] for row in found["rows"]} == {
        "estimator.guidance=4",
        "estimator.guidance=16",
    }
    means = found["means"]
    titles = ["all seeds", "all seeds, estimator.guidance=16", "all seeds, estimator.guidance=4"]
    assert sorted(means) == titles
    both, *each = (means[title]["margin"] for title in titles)
    assert both["runs"] == 4 and [one["runs"] for one in each] == [2, 2]
    assert both["value"] == pytest.approx(sum(one["value"] for one in each) / 2)
    assert main(["evaluate", str(shelf.path), "--judge", clip]) == 0
    assert "settings" in capsys.readouterr().out


def test_the_best_run_is_linked(tmp_path, capsys, clip):
    from dreamfusion.batch.jobs import progress_of
    from dreamfusion.cli.choosing import choose_best
    from dreamfusion.cli.console import Console

    shelf = make_shelf(tmp_path)
    jobs = [vars(progress_of(folder)) for folder in shelf.jobs().values()]
    chosen = choose_best(Console(quiet=True), shelf.path, jobs, clip)
    assert list(chosen) == ["a red mug"]
    link = shelf.path / "best" / "a-red-mug"
    assert (link / "config.yaml").is_file() and link.is_symlink()
    told = json.loads((shelf.path / "best.json").read_text())["a red mug"]
    assert told["judge"] == clip and told["seed"] in (0, 1)
    # Choosing again replaces the link.
    assert choose_best(Console(quiet=True), shelf.path, jobs, clip) == chosen


def test_prompts_with_the_same_slug_have_separate_links(tmp_path, clip):
    from dreamfusion.batch.jobs import progress_of
    from dreamfusion.cli.choosing import choose_best
    from dreamfusion.cli.console import Console

    def chosen():
        jobs = [vars(progress_of(folder)) for folder in shelf.jobs().values()]
        choose_best(Console(quiet=True), shelf.path, jobs, clip)
        return {link.name: link.resolve() for link in (shelf.path / "best").iterdir()}

    shelf = make_shelf(tmp_path)
    assert list(chosen()) == ["a-red-mug"]
    other = shelf.folder(job("A red mug!"))
    other.write(job("A red mug!"))
    make_scene(other.path / "run", "A red mug!")
    write_json(other.done_file, {"run": "run"})
    links = chosen()
    # The old link is removed, and choosing again changes nothing.
    assert len(links) == 2 and all(name.startswith("a-red-mug-") for name in links)
    assert chosen() == links
    told = json.loads((shelf.path / "best.json").read_text())
    prompts = {prompt: links[Path(one["run"]).name] for prompt, one in told.items()}
    assert prompts["A red mug!"] == other.path / "run"
    assert prompts["a red mug"].parent.name.startswith("a-red-mug-s")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "nowhere"], "no such folder: nowhere"),
        (["train", "a mug", "--keep", "best"], "add --seeds"),
        (["train", "a mug", "--seeds", "2", "--view"], "shows a single run"),
        (["train", "a mug", "--seeds", "2", "--judge", "toy"], "add --keep best"),
        (["batch", "list.txt", "--judge", "toy"], "add --keep best"),
    ],
)
def test_invalid_input_is_an_error_of_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a red mug\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_help_of_the_new_commands_loads_no_torch():
    code = (
        "import sys; from dreamfusion.cli.app import main\n"
        "assert main(['batch', '--help']) == main(['evaluate', '--help']) == 0\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'transformers', 'ray')))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
