"""Lists of what to make, in every form."""

from __future__ import annotations

import io
import json

import pytest

from dreamfusion.batch.prompts import BatchError, combinations, read_entries

WANTED = [
    ("a corgi", None, None, {}),
    ("a red mug", 3, "fast-preview", {"sds": {"guidance": 8}}),
]


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


FORMS = {
    "list.yaml": "- a corgi\n- {prompt: a red mug, seed: 3, preset: fast-preview, "
    "settings: {sds.guidance: 8}}\n",
    "list.csv": "prompt,seed,preset,sds.guidance\na corgi,,,\na red mug,3,fast-preview,8\n",
    "list.jsonl": json.dumps("a corgi")
    + "\n"
    + json.dumps(
        {
            "prompt": "a red mug",
            "seed": 3,
            "preset": "fast-preview",
            "settings": {"sds": {"guidance": 8}},
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path, name):
    entries = read_entries(write(tmp_path, name, FORMS[name]))
    assert [(e.prompt, e.seed, e.preset, e.settings) for e in entries] == WANTED


def test_lines_and_standard_input(tmp_path, monkeypatch):
    text = "a corgi\n\n# not this\n  a red mug \n"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for source in (write(tmp_path, "list.txt", text), "-"):
        entries = read_entries(source)
        assert [e.prompt for e in entries] == ["a corgi", "a red mug"]
        assert entries[1].where.endswith("line 4")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "prompt: a corgi", "must hold a list"),
        ("a.yaml", "- [", "cannot be read"),
        ("a.yaml", "- {prompt: a mug, sead: 1}\n- {seed: 1}", "no sead.*entry 2: the prompt is"),
        ("a.yaml", "- {prompt: a mug, seed: -1}", "whole number, not -1"),
        ("a.csv", "prompt\na mug,2\n", "more cells"),
        ("a.jsonl", "{", "cannot be read"),
        ("a.txt", "# nothing\n", "names nothing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, text, said):
    with pytest.raises(BatchError, match=said):
        read_entries(write(tmp_path, name, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(BatchError, match="there is no file"):
        read_entries(str(tmp_path / "none.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BatchError, match="not text"):
        read_entries(str(tmp_path / "binary.txt"))


def test_every_combination_of_settings():
    found = combinations(["sds.guidance=4,8", "camera.distance=[2.6,3.2],[2,3]", "seed=1"])
    assert len(found) == 4
    assert found[1] == {"sds": {"guidance": 4}, "camera": {"distance": [2, 3]}, "seed": 1}
    assert combinations([]) == [{}]
    assert combinations(['prior.negative_prompt="a, b",none'])[0] == {
        "prior": {"negative_prompt": "a, b"}
    }
