"""Prompt lists in all formats."""

from __future__ import annotations

import io
import json

import pytest

from dreamfusion.batch.prompts import BatchError, combinations, read_entries

WANTED = [
    ("a corgi", None, None, {}),
    ("a red mug", 3, "fast-preview", {"estimator": {"guidance": 8}}),
]


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return str(path)


def feed(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


FORMS = {
    "list.yaml": "- a corgi\n- {prompt: a red mug, seed: 3, preset: fast-preview, "
    "settings: {estimator.guidance: 8}}\n",
    "list.csv": "prompt,seed,preset,estimator.guidance\na corgi,,,\na red mug,3,fast-preview,8\n",
    "excel.csv": "\ufeffPrompt;Seed;Preset;estimator.guidance;\r\na corgi;;;;\r\n;;;;\r\n"
    '"a red mug";3;fast-preview;8;\r\n;;;;\r\n;;;;\r\n',
    "tabs.csv": "prompt\tseed\tpreset\testimator.guidance\na corgi\na red mug\t3\tfast-preview\t8",
    "list.tsv": "prompt\tseed\tpreset\testimator.guidance\na corgi\n"
    "a red mug\t3\tfast-preview\t8\t\n",
    "list.json": json.dumps(
        [
            "a corgi",
            {
                "prompt": "a red mug",
                "seed": 3,
                "preset": "fast-preview",
                "settings": {"estimator.guidance": 8},
            },
        ],
        indent=2,
    ),
    "list.jsonl": json.dumps("a corgi")
    + "\n"
    + json.dumps(
        {
            "prompt": "a red mug",
            "seed": 3,
            "preset": "fast-preview",
            "settings": {"estimator": {"guidance": 8}},
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_all_formats_give_the_same_entries(tmp_path, name):
    entries = read_entries(write(tmp_path, name, FORMS[name]))
    assert [(e.prompt, e.seed, e.preset, e.settings) for e in entries] == WANTED


def test_lines_and_standard_input(tmp_path, monkeypatch):
    text = "a corgi\n\n# not this\n  a red mug \n"
    feed(monkeypatch, text.encode())
    for source in (write(tmp_path, "list.txt", text), "-"):
        entries = read_entries(source)
        assert [e.prompt for e in entries] == ["a corgi", "a red mug"]
        assert entries[1].where.endswith("line 4")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\u001c", "\u000b"])
def test_only_line_ends_separate_lines(tmp_path, sign, end):
    prompts = [f"a{sign}corgi", "a red mug"]
    lines = end.join(json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    if sign >= " ":  # others must be escaped in JSON
        found = read_entries(write(tmp_path, "list.jsonl", lines))
        assert [entry.prompt for entry in found] == prompts
    for name in ("list.txt", "list"):
        found = read_entries(write(tmp_path, name, end.join(prompts)))
        assert [entry.prompt for entry in found] == prompts
        assert found[1].where.endswith("line 2")


def test_a_byte_order_mark_is_removed(tmp_path, monkeypatch):
    for name in ("list.txt", "list.yaml", "list.json", "list.jsonl", "list.csv"):
        text = {"list.txt": "a mug", "list.yaml": "- a mug", "list.json": '["a mug"]',
                "list.jsonl": '"a mug"', "list.csv": "prompt\na mug"}[name]  # fmt: skip
        (entry,) = read_entries(write(tmp_path, name, "\ufeff" + text))
        assert entry.prompt == "a mug"
    feed(monkeypatch, b"\xef\xbb\xbfa mug\r\n# not this\r\n")
    (entry,) = read_entries("-")
    assert entry.prompt == "a mug" and entry.where == "standard input, line 1"


JSON_LIST = '["a corgi", "a mug"]'


@pytest.mark.parametrize(
    "text",
    [
        JSON_LIST,
        json.dumps(["a corgi", {"prompt": "a mug"}], indent=2),
        '[\n "a corgi",\n "a mug",\n]',
        '{"prompt": "a corgi"}',
        '"a corgi"\n{"prompt": "a mug"}\n',
        "- a corgi\n- a mug\n",
        "prompt,seed\na corgi,3\n",
        "Prompt;seed\na corgi;3\n",
        "seed\tprompt\n3\ta corgi\n",
        "prompt\na corgi\n",
    ],
)
def test_content_in_another_format_is_refused(tmp_path, monkeypatch, text):
    feed(monkeypatch, text.encode())
    for source, name in ((write(tmp_path, "list.txt", text), None), ("-", "standard input")):
        with pytest.raises(BatchError) as error:
            read_entries(source)
        assert str(error.value) == (
            f"{name or source} cannot be read as txt: line 1 looks like a list in JSON, YAML or "
            "CSV; save it as such"
        )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.docx", "a corgi", "PATH is not a list of prompts: save it as .txt, .yaml, .json, "
         ".jsonl, .csv, .tsv"),
        ("a.json", '{"prompt": "a corgi"}', "PATH cannot be read as json: it must hold a list of "
         'prompts, such as ["a corgi", "a red mug"]'),
        ("a.json", '["a corgi",', "PATH cannot be read as json: Expecting value: line 1 column 12 "
         "(char 11)"),
        ("a.jsonl", '"a corgi"\n{\n', "PATH cannot be read as jsonl: line 2: cannot read '{'"),
        ("a.jsonl", JSON_LIST, "PATH, line 1: expected a prompt, or a mapping with prompt, seed, "
         "preset, settings; not ['a corgi', 'a mug']"),
        ("a.csv", "a corgi\na mug\n", "PATH cannot be read as csv: its first row must name the "
         "columns, one of them prompt, each once"),
        ("a.csv", "prompt,seed,seed\n", "PATH cannot be read as csv: its first row must name the "
         "columns, one of them prompt, each once"),
        ("a.csv", "prompt,\na mug,2\n", "PATH cannot be read as csv: line 2 has cells without a "
         "column; quote cells with ','"),
        ("a.csv", "prompt\n\na mug, red\n", "PATH cannot be read as csv: line 3 has cells "
         "without a column; quote cells with ','"),
        ("a.csv", 'prompt\n"a mug\na corgi\n', "PATH cannot be read as csv: unexpected end of "
         "data"),
        ("a.tsv", "prompt\tsteps\na mug\t[\n", "PATH cannot be read as tsv: line 2: cannot "
         "read '['"),
        ("a.yaml", "- 12\n- [2]\n", "PATH, entry 1: expected a prompt, or a mapping with prompt, "
         "seed, preset, settings; not 12; PATH, entry 2: expected a prompt, or a mapping with "
         "prompt, seed, preset, settings; not [2]"),
        ("a.yaml", "- prompt: 12\n", "PATH, entry 1: prompt must be text, in quotes if it looks "
         "like something else, not 12"),
        ("a.json", '["\\ud83d"]', "PATH, entry 1: 'utf-8' codec can't encode character "
         "'\\ud83d' in position 0: surrogates not allowed"),
        ("a.yaml", "- {prompt: a mug, settings: [1]}", "PATH, entry 1: settings must be a mapping "
         "of names to values, not [1]"),
        ("a.yaml", "- {prompt: a mug, settings: {estimator: 1, estimator.guidance: 2}}",
         "PATH, entry 1: estimator.guidance: estimator was given a value before"),
    ],
)  # fmt: skip
def test_messages_to_the_letter(tmp_path, name, text, said):
    path = write(tmp_path, name, text)
    with pytest.raises(BatchError) as error:
        read_entries(path)
    assert str(error.value) == said.replace("PATH", path)


BOMB = "- &a [x, x]\n" + "".join(
    f"- &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", BOMB),
        ("a.yaml", "[" * 20_000),
        ("a.yaml", "- 2001-99-99"),
        ("a.yaml", "- &a [*a]"),
        ("a.json", "[" * 100_000),
        ("a.jsonl", "[" * 100_000),
        ("a.json", "9" * 10_000),
        ("a.csv", "prompt\n" + "x" * 200_000),
    ],
)
def test_hostile_lists_are_refused_in_one_line(tmp_path, name, text):
    path = write(tmp_path, name, text)
    with pytest.raises(BatchError) as error:
        read_entries(path)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 1500


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "prompt: a corgi", "must hold a list"),
        ("a.yaml", "- [", "cannot be read"),
        (
            "a.yaml",
            "- {prompt: a mug, sead: 1}\n- {seed: 1}",
            "prompt, seed, preset, settings; not .*sead.*entry 2: the prompt",
        ),
        ("a.yaml", "- {prompt: a mug, seed: -1}", "whole number of at least 0, not -1"),
        ("a.csv", "prompt\na mug,2\n", "without a column"),
        ("a.csv", ";;\n", "must name the columns"),
        ("a.jsonl", "{", "cannot be read"),
        ("a.txt", "# nothing\n", "contains no prompts"),
    ],
)
def test_errors_name_the_problem(tmp_path, name, text, said):
    with pytest.raises(BatchError, match=said):
        read_entries(write(tmp_path, name, text))


def test_a_missing_file_and_a_binary_file_are_errors(tmp_path):
    with pytest.raises(BatchError, match="no such file"):
        read_entries(str(tmp_path / "none.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BatchError, match="not text"):
        read_entries(str(tmp_path / "binary.txt"))


@pytest.mark.parametrize(
    "content", [b"a mug\xff", "a mug".encode("utf-16"), "müg".encode("cp1252")]
)
def test_invalid_utf_8_is_refused(tmp_path, monkeypatch, content):
    feed(monkeypatch, content)
    (tmp_path / "list.csv").write_bytes(content)
    for source, name in (("-", "standard input"), (str(tmp_path / "list.csv"), None)):
        with pytest.raises(BatchError) as error:
            read_entries(source)
        assert str(error.value) == (
            f"{name or source} is not text in UTF-8; save it as UTF-8, in Excel as CSV UTF-8"
        )


def test_all_combinations_of_settings():
    found = combinations(["estimator.guidance=4,8", "camera.distance=[2.6,3.2],[2,3]", "seed=1"])
    assert len(found) == 4
    assert found[1] == {"estimator": {"guidance": 4}, "camera": {"distance": [2, 3]}, "seed": 1}
    assert combinations([]) == [{}]
    assert combinations(['prior.negative_prompt="a, b",none'])[0] == {
        "prior": {"negative_prompt": "a, b"}
    }
