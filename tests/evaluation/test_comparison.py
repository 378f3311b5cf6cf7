"""Comparisons: equal network evaluations, paired statistics, and what is reported of failures."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy.stats import t as student

from dreamfusion.batch.jobs import BatchFolder, read_json
from dreamfusion.cli.app import main
from dreamfusion.config.sections import ESTIMATORS, find_section
from dreamfusion.evaluation import comparison
from dreamfusion.evaluation.comparison import (
    METHODS,
    METHODS_FILE,
    NOUNS,
    Measured,
    Method,
    compare,
    config_of,
    diversity,
    plan_objects,
    read_method,
    steps_for,
)
from dreamfusion.evaluation.image_task import measure_images
from dreamfusion.evaluation.judges import load_judge
from dreamfusion.evaluation.rows import VIEWS, Row, Subject, write_beside_run
from dreamfusion.report.comparison import as_csv, as_lines, comparison_page
from dreamfusion.runs.folder import RunFolder
from dreamfusion.toyworld.objects import NOUNS as TOYS
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress
from tests.helpers.mixtures import Mixture, batch


class Counting(Mixture):
    """Counts the images that the network sees; with gradients, a backward pass counts as two."""

    count = 0

    def predict(self, noisy, timesteps, condition):
        self.count += len(noisy) * (3 if noisy.requires_grad else 1)
        return super().predict(noisy, timesteps, condition)


@pytest.mark.parametrize("name", sorted({*METHODS, "dds"} - {"vsd"}))
def test_estimators_state_their_network_evaluations(name):
    """Of vsd, whose adapters need a U-Net, tests/distillation/test_vsd.py counts them."""
    settings = find_section(ESTIMATORS, name)()
    settings = replace(settings, surface_noise=None)  # which needs a scene
    prior = Counting()
    estimator = settings.build(prior, seed=0)
    steps, n = 100, 2
    images = torch.rand(n, 1, 2, 2, dtype=torch.float64)
    for step in range(steps):
        x = images.clone().requires_grad_()
        generator = [torch.Generator().manual_seed(step + i) for i in range(n)]
        edited = batch(x, source=lambda: images)
        estimator(edited, progress=Progress(step, steps), generator=generator)
    assert prior.count / (steps * n) == pytest.approx(settings.evaluations, rel=0.02)


def test_methods_get_as_many_steps_as_the_evaluations_allow():
    of = {name: config_of(read_method(name), "a mug") for name in ("sds", "vsd", "sync", "nfsd")}
    assert {name: steps_for(config, 2000, 4) for name, config in of.items()} == {
        "sds": 250, "vsd": 83, "sync": 2500, "nfsd": 167
    }  # fmt: skip
    assert steps_for(of["sds"], 1, 4) == 1
    assert steps_for(config_of(Method("clip", None, {}), "a mug"), 2000, 4) == 250


def test_a_method_is_an_estimator_with_its_preset_a_preset_or_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: embedded\nestimator:\n  guidance: 3\n")
    assert config_of(read_method("csd"), "a mug").estimator.guidance.start == 8  # embedded-csd
    assert read_method(str(file)).label == "mine"
    assert config_of(read_method(str(file)), "a mug").estimator.guidance.start == 3
    assert config_of(read_method("oracle"), "a mug").estimator.guidance.start == 1
    with pytest.raises(UserError, match="teleport is neither an estimator, a preset nor"):
        read_method("teleport")


def test_every_method_and_noun_of_the_default_exists():
    assert set(METHODS) <= {read_method(name).label for name in METHODS}
    assert set(NOUNS) <= {toy.name for toy in TOYS}


def plan(folder, methods, **options):
    defaults = {"seeds": 1, "seed": 0, "evaluations": [80]}
    return plan_objects(folder, methods, ["a mug"], **{**defaults, **options})


def test_a_comparison_grows_and_keeps_what_it_has(tmp_path):
    folder = BatchFolder(tmp_path)
    first = plan(folder, [read_method("sds")])
    more = plan(folder, [read_method("csd")], evaluations=[80, 160])
    known = read_json(tmp_path / METHODS_FILE)
    assert [known[job.name] for job in (*first, *more)] == [
        {"method": "sds", "evaluations": 80},
        {"method": "csd", "evaluations": 80},
        {"method": "csd", "evaluations": 160},
    ]
    assert [job.steps for job in more] == [10, 20]
    assert [job.name for job in plan(folder, [read_method("sds")])] == [first[0].name]


def test_two_methods_that_cannot_be_told_apart_are_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: embedded\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.yaml").write_text("extends: embedded\nseed: 3\n")
    folder = BatchFolder(tmp_path / "out")
    with pytest.raises(UserError, match="two methods are called mine"):
        plan(folder, [read_method(str(file)), read_method(str(tmp_path / "other" / "mine.yaml"))])
    twice = [Method("mine", "embedded", {}), Method("mine", "embedded", {"seed": 3})]
    with pytest.raises(UserError, match="two methods are called mine"):
        measure_images(folder.path, twice, ["a mug"], seeds=[0], evaluations=[16])
    with pytest.raises(UserError, match="sds and mine have the same settings"):
        plan(folder, [read_method("sds"), read_method(str(file))])


def row(prompt, seed, images=None, reason="", **values):
    return Measured(prompt, seed, values, images, 1, reason)


def test_differences_are_paired_by_seed_and_clustered_by_prompt():
    sds = [row(p, s, iou=0.5 + 0.1 * i + 0.01 * s) for i, p in enumerate("abc") for s in (0, 1)]
    change = {"a": 0.03, "b": 0.05, "c": 0.04}
    csd = [row(r.prompt, r.seed, iou=r.values["iou"] + change[r.prompt]) for r in sds]
    csd.append(row("d", 0, iou=0.0))  # not in the other: counts for the mean alone
    found = compare({("csd", 10): csd, ("sds", 10): sds})
    assert found.reference == "sds" and found.figures["sds", 10]["iou"].difference is None
    difference = found.figures["csd", 10]["iou"].difference
    assert difference.value == pytest.approx(0.04) and difference.prompts == 3
    half = student.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert difference.half_width == pytest.approx(half)
    assert found.figures["csd", 10]["iou"].mean.prompts == 4
    # Other evaluations have no counterpart.
    assert (
        compare({("csd", 20): csd, ("sds", 10): sds}).figures["csd", 20]["iou"].difference is None
    )


def test_diversity_is_zero_if_all_seeds_give_the_same_image(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    grey, black = np.full((8, 16, 3), 128, np.uint8), np.zeros((8, 16, 3), np.uint8)
    for file, image in zip(files, (grey, grey, black), strict=True):
        iio.imwrite(file, image)
    same = [row("a", seed, file) for seed, file in enumerate(files[:2])]
    assert diversity(same) == {("a", 0): 0.0}
    third = row("a", 2, files[2])
    assert diversity([*same, third])["a", 0] == pytest.approx(128 / 255 * 2 / 3)
    assert diversity(same[:1]) == {}
    noisy = [row("b", s, iou=rng.random()) for s in (0, 1)]  # without images
    assert diversity(noisy) == {}


def test_tables_show_significant_differences_and_failures():
    sds = [row(p, 0, iou=0.5) for p in "abcd"]
    better = [row(p, 0, iou=0.6 + 0.001 * i) for i, p in enumerate("abcd")]
    equal = [row(p, 0, iou=0.5 + x) for p, x in zip("abcd", (0.1, -0.1, 0.1, -0.1), strict=True)]
    failed = [row(p, 0, reason="the loss is nan") for p in "abcd"]
    found = compare(
        {("sds", 10): sds, ("csd", 10): better, ("ism", 10): equal, ("acme", 10): failed}
    )
    head, _, csd, ism, acme, *rest = as_lines(found)
    assert head.split() == ["method", "evaluations", "IoU", "runs"]
    assert csd.split() == ["csd", "10", "0.601", "(+0.101)", "4"]
    assert ism.split() == ["ism", "10", "0.500", "4"]
    assert acme.split() == ["acme", "10", "-", "0", "of", "4"]
    assert "acme, a, seed 0: the loss is nan" in rest
    lines = list(csv.DictReader(as_csv(found).splitlines()))
    assert len(lines) == 16 and lines[-1]["reason"] == "the loss is nan"
    page = comparison_page(found)
    assert 'class="better"' in page and "the loss is nan" in page


def test_pages_plot_quality_over_evaluations():
    def rows(iou):
        return [row(p, 0, iou=iou) for p in "ab"]

    found = compare({("sds", n): rows(n / 1000) for n in (100, 200, 400)})
    assert "<svg" in comparison_page(found)
    assert "<svg" not in comparison_page(compare({("sds", 100): rows(0.5)}))


SMALL = [
    "--set=output.video_frames=1", "--set=output.video_size=16", "--set=output.mesh_resolution=24",
    "--set=output.texture_size=0", "--set=render.resolution=16",
]  # fmt: skip


@pytest.mark.slow
def test_objects_are_compared_and_a_failing_method_is_reported(tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"  # needs a prior that compares images with texts
    wrong.write_text("extends: embedded\nestimator:\n  name: clip\n")
    out = tmp_path / "out"
    command = ["compare", "sds", str(wrong), "--nouns", "ball", "--seeds", "1"]
    command += ["--evaluations", "16", "--out", str(out), "--json", *SMALL]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [file.rpartition("/")[2] for file in printed["files"]] == [
        "comparison.html", "comparison.csv", "comparison.json"
    ]  # fmt: skip
    found = json.loads((out / "comparison.json").read_text())
    sds, clip = found["methods"]
    assert found["reference"] == "sds" and 0 <= sds["figures"]["iou"]["mean"]["value"] <= 1
    assert clip["method"] == "wrong" and clip["figures"] == {} and clip["rows"][0]["reason"]


def test_results_of_another_number_of_views_are_measured_again(tmp_path, monkeypatch):
    judge, asked = load_judge("toy"), []
    row = Row(str(tmp_path), "a mug", 0, "", "toy", judge.revision, views=VIEWS, iou=0.5)
    monkeypatch.setattr(comparison, "judge_run", lambda *a, **k: [asked.append(1) or row])
    subject = Subject(RunFolder(tmp_path), "a mug", 0)
    write_beside_run(replace(row, views=4))
    for _ in range(2):
        assert comparison._measure(subject, judge).values["iou"] == 0.5
    assert len(asked) == 1


@pytest.mark.parametrize("text", ["0", "many", "100,", "-5"])
def test_evaluations_are_whole_numbers(text, capsys):
    assert main(["compare", "sds", f"--evaluations={text}"]) == 2
    assert "--evaluations takes whole numbers" in capsys.readouterr().err


def test_unknown_nouns_and_methods_are_refused_before_anything_starts(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["compare", "sds", "--nouns", "gearbox", *out]) == 2
    assert main(["compare", "teleport", *out]) == 2
    assert "gearbox" in (said := capsys.readouterr().err) and "teleport" in said
    assert not (tmp_path / "out" / "jobs").exists()
