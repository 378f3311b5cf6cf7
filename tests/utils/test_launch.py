"""Variables of a launcher: only a complete set describes a group of processes."""

from __future__ import annotations

import pytest

from dreamfusion.batch.attempt import environment
from dreamfusion.utils.distributed import process_group
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.launch import VARIABLES, Launch, launch
from tests.helpers.processes import launch as launch_python

WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "LOCAL_RANK": "1",
}


@pytest.fixture
def setenv(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": ""},
        {"RANK": "x", "WORLD_SIZE": "y"},
        {"LOCAL_RANK": "3"},
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
        {**WHOLE, "MASTER_PORT": ""},
    ],
)
def test_incomplete_variables_are_ignored(setenv, found):
    setenv(found)
    with process_group("cpu"):
        assert launch() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "2"),
        ("RANK", "-1"),
        ("RANK", "one"),
        ("WORLD_SIZE", "two"),
        ("WORLD_SIZE", "0"),
        ("LOCAL_RANK", "-1"),
        ("LOCAL_RANK", ""),
    ],
)
def test_a_complete_but_invalid_group_is_refused(setenv, name, value):
    setenv(WHOLE | {name: value})
    with pytest.raises(UserError) as error:
        launch()
    assert f"{name}={value}" in str(error.value)
    assert str(error.value).endswith(
        "in the environment describe no group of processes; start them with torchrun, or unset "
        "these variables to train in one process"
    )


def test_a_complete_group_is_read(setenv):
    setenv(WHOLE)
    assert launch() == Launch(1, 2, 1)


def test_a_group_that_cannot_be_joined_is_an_error_of_one_line(setenv, monkeypatch):
    from dreamfusion.utils import distributed

    def refuse(backend):
        raise RuntimeError("The client socket has failed to connect\nto any network address")

    setenv(WHOLE)
    monkeypatch.setattr(distributed.dist, "init_process_group", refuse)
    with (
        pytest.raises(UserError, match=r"process 1 of 2 cannot join the others \(The client"),
        process_group("cpu"),
    ):
        pass


def test_a_job_of_a_batch_belongs_to_no_group(setenv):
    setenv(WHOLE)
    assert not set(VARIABLES) & environment(1).keys()


def test_the_command_line_prints_with_incomplete_variables(setenv):
    """With only RANK=1 set, it printed nothing, as if another process did."""
    setenv({"RANK": "1"})
    done = launch_python(1, "-m", "dreamfusion", "--version")
    assert done.returncode == 0 and done.stdout.startswith("dreamfusion ")
    setenv(WHOLE | {"RANK": "7"})
    done = launch_python(1, "-m", "dreamfusion", "--version")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: RANK=7, WORLD_SIZE=2, ")
    assert done.stderr.count("\n") == 1
