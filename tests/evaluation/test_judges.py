"""Judges, retrieval and means."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from dreamfusion.evaluation.evaluate import (
    Evaluation,
    as_csv,
    as_json,
    best_of,
    clustered_mean,
    for_terminal,
    mean_line,
    summarise,
)
from dreamfusion.evaluation.judges import (
    JudgeError,
    choose_judge,
    count_arcs,
    load_judge,
    read_pair,
)
from dreamfusion.evaluation.rows import COLUMNS, Row, distractors_for, retrieve
from tests.helpers.tiny_clips import save_clip


def test_retrieval_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 2.0, -1.0], [5.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    share, margin = retrieve(scores)
    assert share == 0.5  # a tie is not a match
    assert margin == pytest.approx((1 - 2 + 4 + 0) / 4)
    assert retrieve(torch.tensor([[0.0, 1.0, 2.0, -1.0]])) == (0.0, -2.0)


def test_fronts_are_counted_around_the_circle():
    def seen(text):
        return torch.tensor([letter == "x" for letter in text])

    for text, fronts in (("xx.....x", 1), ("x...x...", 2), ("........", 0), ("xxxxxxxx", 1),
                         ("x.x.x.x.", 4), ("....xx..", 1)):  # fmt: skip
        assert count_arcs(seen(text)) == fronts


def test_a_prompt_is_parsed_to_noun_and_colour():
    assert read_pair("a photo of a red puppy") == ("corgi", "red")
    assert read_pair("a snowman")[1] == "white"
    with pytest.raises(JudgeError, match="does not know 'a blorp'"):
        read_pair("a blorp")
    with pytest.raises(JudgeError, match="does not know 'a red': The prompt names no object"):
        read_pair("a red")
    assert choose_judge(["a corgi", "a red mug"]) == "toy"
    with pytest.raises(JudgeError, match="use CLIP: --judge b32"):
        choose_judge(["a corgi", "a blorp"])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_scores_equal_the_models(tmp_path, kind):
    from transformers import AutoModel

    folder = save_clip(tmp_path / kind, kind)
    judge = load_judge(str(folder))
    pictures = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    texts = ["a red mug", "a blue corgi", "a chair"]
    scores = judge.scores(pictures, texts, "color")
    model = AutoModel.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    ids = {"a": 3, "red": 4, "blue": 5, "mug": 6, "corgi": 7, "chair": 8}
    rows = [[ids[word] for word in text.split()] for text in texts]
    length = 3 if kind == "clip" else 12
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    more = {"attention_mask": (tokens > 0).long()} if kind == "clip" else {}
    with torch.no_grad():
        wanted = model(
            input_ids=tokens, pixel_values=((pictures - mean) / std).movedim(-1, 1), **more
        ).logits_per_image
    torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-3)
    assert judge.fronts("a chair", pictures) is None and judge.distractors() == []
    assert judge.revision == "unknown" and judge.size == 32
    others = ["A  red MUG", *texts]
    assert distractors_for(judge, "a red mug", others, "color") == texts[1:]


def test_unknown_judges_are_refused(tmp_path):
    with pytest.raises(JudgeError, match="judge openai/clip-vit-base-patch32 cannot be loaded"):
        load_judge("b32")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JudgeError, match="cannot be loaded"):
        load_judge(str(tmp_path / "empty"))


def row(prompt, seed, margin, **more):
    return Row(f"runs/{prompt}-{seed}", prompt, seed, "", "toy", "abc", 8, margin=margin, **more)


def test_means_are_clustered_by_prompt():
    """Many seeds of one prompt do not make the interval narrower; another prompt does."""
    few = clustered_mean([("a", 0.0), ("a", 0.2), ("b", 1.0)])
    many = clustered_mean([("a", 0.1), ("b", 1.0)] * 50)
    assert few.value == many.value == pytest.approx(0.55)
    assert few.half_width == pytest.approx(many.half_width)
    # By hand: deviation 0.9/sqrt(2), over sqrt(2), times t(0.975, 1) = 12.706.
    assert few.half_width == pytest.approx(12.706 * 0.45, rel=1e-3)
    assert clustered_mean([("a", 1.0), ("a", 2.0)]).half_width is None
    found = summarise([row("a", 0, 1.0, r1_color=0.5), row("a", 1, 3.0), row("b", 0, None)])
    assert found["margin"].value == 2.0 and found["r1_color"].runs == 1
    assert "r1_geometry" not in found


def test_the_best_seed_has_the_greatest_margin_of_the_chooser():
    rows = [row("a", 0, 5.0), row("a", 1, 1.0), row("b", 0, None), row("c", 0, -2.0)]
    chosen = {"runs/a-0": 0.0, "runs/a-1": 2.0, "runs/b-0": None, "runs/c-0": 1.0}
    best = best_of(rows, lambda one: chosen[one.run])
    assert [(one.prompt, one.seed) for one in best] == [("a", 1), ("c", 0)]


def test_tables():
    rows = [
        row("a mug", 0, 1.25, r1_color=0.875, watertight=True, fronts=1),
        row("a corgi", 1, None, reason="the scene is empty"),
    ]
    lines = for_terminal(rows)
    assert lines[0].split()[:4] == ["prompt", "seed", "R@1", "color"]
    assert "88%" in lines[1] and "1.25" in lines[1] and "yes" in lines[1]
    assert lines[2].endswith("the scene is empty")
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert tuple(read[0]) == COLUMNS and read[0]["margin"] == "1.25" and read[1]["margin"] == ""
    means = {"all seeds": summarise(rows)}
    content = json.loads(as_json(Evaluation(rows, means)))
    assert content["rows"][1]["reason"] == "the scene is empty"
    assert content["means"]["all seeds"]["margin"]["value"] == 1.25
    assert mean_line("r1_color", clustered_mean([("a", 0.5), ("b", 0.5)])) == "r1_color 50.0 ± 0.0%"
