import json

import pytest

from dreamfusion.config.layers import Layer, build_config
from dreamfusion.runs.folder import RunError, create_run, find_run, free_path, slug
from dreamfusion.runs.metrics import metrics_log
from dreamfusion.utils.errors import RunWarning


def test_an_existing_name_is_not_reused(tmp_path):
    names = []
    for _ in range(3):
        run = create_run(tmp_path / "runs" / "a-corgi")
        run.config.write_text(f"# {len(names)}")
        names.append(run.path.name)
    assert names == ["a-corgi", "a-corgi-2", "a-corgi-3"]
    assert (tmp_path / "runs" / "a-corgi" / "config.yaml").read_text() == "# 0"


def test_an_empty_folder_is_used(tmp_path):
    assert create_run(tmp_path).path == tmp_path


def test_an_existing_file_is_not_changed(tmp_path):
    (tmp_path / "x").write_text("mine")
    assert create_run(tmp_path / "x").path == tmp_path / "x-2"
    with pytest.raises(RunError, match="cannot create"):
        create_run(tmp_path / "x" / "below-a-file")


def test_free_names_keep_their_suffix(tmp_path):
    (tmp_path / "sheet.png").write_text("")
    assert free_path(tmp_path / "sheet.png", suffix=".png") == tmp_path / "sheet-2.png"


def test_configuration_round_trips(tmp_path):
    run = create_run(tmp_path / "run")
    config = build_config({"prompt": "a corgi", "steps": 7})
    run.write_config(config)
    assert find_run(run.path).read_config() == config
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]


def test_a_folder_without_a_run_is_reported(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        find_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"contains no run: it has no config\.yaml"):
        find_run(tmp_path)


def test_the_log_drops_steps_that_will_be_repeated(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics_log(path, after=0) as log:
        for step in (1, 2, 3):
            log({"step": step})
    with path.open("a") as file:
        file.write('{"step": 2, "cut')
    with metrics_log(path, after=2) as log:
        log({"step": 3, "again": True})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A corgi!", "a-corgi"),
        ("../../etc", "etc"),
        ("???", "object"),
        ("un éléphant", "un-éléphant"),
        ("x" * 100, "x" * 60),
    ],
)
def test_slugs_are_safe_folder_names(prompt, name):
    assert slug(prompt) == name


def test_layers_are_written_with_new_names_of_settings(tmp_path):
    run = create_run(tmp_path / "run")
    layers = [Layer("a file", {"steps": 3}), Layer("--set", {"sds": {"guidance": 5}})]
    with pytest.warns(RunWarning, match="sds is now called estimator"):
        run.write_layers(layers)
    assert run.read_layers() == [layers[0], Layer("--set", {"estimator": {"guidance": 5}})]
