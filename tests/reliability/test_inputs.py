"""Invalid options and files of any kind are errors of one line."""

from __future__ import annotations

import json
import math
import string
import warnings
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamfusion.cli.app import main
from dreamfusion.config.layers import (
    ConfigError,
    build_config,
    override,
    parse_assignments,
    read_yaml,
    settings,
    to_mapping,
)
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.priors import DiffusionPrior, PriorError, resolve_prior
from dreamfusion.priors.reading import PromptError, read_prompt
from dreamfusion.runs.checkpoint import CheckpointError, load_checkpoint
from dreamfusion.runs.folder import slug
from dreamfusion.runs.plan import plan_run
from dreamfusion.training.state import new_state
from dreamfusion.utils.errors import RunWarning, UserError
from tests.helpers.tiny_runs import tiny

NAMES = [name for name, _, _ in settings(Config())]
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([1e308, -1e308, 1e-320, 2**63, -(2**63), 10**30])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["start", "end", "begin", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)


def assert_one_line(error: UserError) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000


def numbers(value: object) -> list[float]:
    if isinstance(value, Schedule):
        return [value.start, value.end]
    if isinstance(value, tuple):
        return [part for part in value if isinstance(part, float)]
    return [value] if isinstance(value, float) else []


@given(st.sampled_from(NAMES), VALUES)
def test_a_setting_accepts_a_value_or_raises_a_clear_error(name, value):
    changes: dict = {}
    *sections, last = name.split(".")
    inner = changes
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    try:
        config = build_config(changes)
    except ConfigError as error:
        assert_one_line(error)
        return
    for _, taken, _ in settings(config):
        assert not any(math.isnan(number) for number in numbers(taken))
    assert build_config(yaml.safe_load(yaml.safe_dump(to_mapping(config)))) == config


@given(st.dictionaries(st.text(max_size=12), VALUES, max_size=4))
def test_unknown_settings_are_refused(changes):
    try:
        override(Config(), changes)
    except ConfigError as error:
        assert_one_line(error)


@given(st.one_of(st.text(max_size=60), st.text(string.printable, max_size=80)))
def test_any_text_is_parsed_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for read in (lambda: build_config(read_yaml(path)), lambda: parse_assignments([text])):
        try:
            read()
        except ConfigError as error:
            assert_one_line(error)


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_bytes(content)
    try:
        build_config(read_yaml(path))
    except ConfigError as error:
        assert_one_line(error)


BOMBS = {
    "anchors": "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    ),
    "itself": "&a [*a]",
    "depth": "[" * 20_000,
    "mappings": "{a: " * 5_000,
    "a python object": "!!python/object/apply:os.system ['true']",
    "a date that is none": "steps: 2001-99-99",
    "an endless number": "steps: " + "9" * 10_000,
    "base 60": "steps: " + ":".join(["59"] * 3000),
    "a binary": "steps: !!binary x",
    "a set": "!!set {a, b}",
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bombs_are_harmless(name, tmp_path, capsys):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name])
    assert main(["train", "a corgi", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 2000
    assert not (tmp_path / "run").exists()


@given(st.text(max_size=200))
def test_any_prompt_is_accepted_or_refused(prompt):
    try:
        plan = plan_run([{"prompt": prompt, "prior": {"name": "embedded"}}])
    except (PromptError, ConfigError) as error:
        assert_one_line(error)
    else:
        assert plan.canonical_prompt


WORDS = resolve_prior("embedded").card.vocabulary.words
assert WORDS is not None
TYPED = st.one_of(
    st.sampled_from(sorted(WORDS.meanings)),
    st.sampled_from([*WORDS.nouns, *WORDS.colors, *WORDS.adjectives]),
    st.sampled_from(sorted(WORDS.related)),
    st.text(max_size=8),
)


@given(st.lists(TYPED, max_size=6).map(" ".join))
def test_an_accepted_prompt_has_one_noun_and_at_most_one_colour(prompt):
    try:
        found = read_prompt(WORDS, prompt)
    except PromptError as error:
        assert_one_line(error)
        return
    meanings = [term.meaning for term in WORDS.terms(found)]
    assert sum(meaning in WORDS.nouns for meaning in meanings) == 1
    assert sum(meaning in WORDS.colors for meaning in meanings) <= 1
    assert read_prompt(WORDS, found) == found


@given(st.one_of(st.text(max_size=300), st.sampled_from(["../../x", "con", "-rf", "a/b", ".", ""])))
def test_a_folder_named_after_a_prompt_stays_in_its_parent(prompt):
    name = slug(prompt)
    assert name and Path(name).name == name and name not in (".", "..")
    assert not name.startswith("-") and len(name.encode()) < 200 and name.isprintable()
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}


HOSTILE = [
    "",
    " ",
    "\n",
    "\x00",
    "a" * 10_000,
    "🐶" * 50,
    "\u202egroc a",
    "../../x",
    "con",
    "a\x1bc",
    "mug \udcff",
]


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_prompts_are_refused_in_one_line(prompt, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--", prompt]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 2000
    assert said[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def state(bench):
    prior = DiffusionPrior.from_pretrained(str(bench.prior))
    return new_state(tiny(prior), prior)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["format", "step", "sha256", "rollbacks"]), inner),
    ),
)


@given(st.one_of(JSON.map(json.dumps).map(str.encode), st.binary()), st.binary(max_size=200))
def test_any_checkpoint_is_refused_in_one_line(state, tmp_path_factory, details, tensors):
    folder = tmp_path_factory.getbasetemp() / "hostile"
    folder.mkdir(exist_ok=True)
    (folder / "step_0000001.json").write_bytes(details)
    (folder / "step_0000001.safetensors").write_bytes(tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(folder, state)
    assert_one_line(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"_class_name": 1}', b"\xff\xfe", b"[" * 100_000]
)
def test_hostile_priors_are_refused_in_one_line(content, tmp_path, capsys):
    (tmp_path / "model_index.json").write_bytes(content)
    with pytest.raises(PriorError) as error:
        DiffusionPrior.from_pretrained(str(tmp_path))
    assert_one_line(error.value)


@pytest.mark.parametrize("content", [b"", b"glTF", b"glTF\x02\0\0\0\xff\xff\xff\xff", b"{}" * 99])
@pytest.mark.parametrize("command", [["render", "--mesh"], ["report"]])
def test_hostile_meshes_cause_no_crash(
    content, command, bench, whole, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    child = bench.train(tmp_path, "--set", "output.video_frames=1", steps=1)
    assert child.wait() == 0, child.output
    (tmp_path / "run" / "mesh" / "model.glb").write_bytes(content)
    name, *options = command
    status, said = bench.forks.run(name, "run", *options, cwd=tmp_path)
    assert status in (0, 2) and "Traceback" not in said, said
    assert status == 0 or said.splitlines()[-1].startswith("error: ")
