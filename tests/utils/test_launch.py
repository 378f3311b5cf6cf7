"""Variables of a launcher: only a complete set describes a group of processes."""

from __future__ import annotations

import warnings

import pytest

from dreamfusion.batch.attempt import environment
from dreamfusion.utils.distributed import process_group
from dreamfusion.utils.errors import RunWarning
from dreamfusion.utils.launch import VARIABLES, Launch, LaunchError, launch
from tests.helpers.processes import launch as launch_python

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def setenv(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"WORLD_SIZE": "2"}, "ignoring WORLD_SIZE=2 from the environment: RANK, MASTER_ADDR, "),
        ({"WORLD_SIZE": ""}, "ignoring WORLD_SIZE= from"),
        ({"RANK": "1"}, "ignoring RANK=1 from the environment: WORLD_SIZE, MASTER_ADDR, "),
        ({"RANK": "x", "WORLD_SIZE": "y"}, "ignoring RANK=x, WORLD_SIZE=y from"),
        ({"LOCAL_RANK": "3"}, "ignoring LOCAL_RANK=3 from"),
        ({**WHOLE, "MASTER_PORT": ""}, "MASTER_PORT not set; training in one process"),
    ],
)
def test_incomplete_variables_are_ignored_with_one_warning(setenv, found, said):
    setenv(found)
    assert launch() is None
    with pytest.warns(RunWarning) as warned, process_group("cpu"):
        pass
    assert len(warned) == 1 and said in str(warned[0].message)


@pytest.mark.parametrize(
    "found", [{}, {"WORLD_SIZE": "1"}, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}]
)
def test_other_variables_are_ignored(setenv, found):
    setenv(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with process_group("cpu"):
            assert launch() is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "2", "RANK=2 in the environment must be a whole number from 0 to 1; "),
        ("RANK", "-1", "RANK=-1 in"),
        ("RANK", "one", "RANK=one in"),
        ("WORLD_SIZE", "two", "WORLD_SIZE=two in the environment must be a whole number at least"),
        ("WORLD_SIZE", "0", "WORLD_SIZE=0 in"),
        ("MASTER_PORT", "99999", "MASTER_PORT=99999 in"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK=-1 in"),
    ],
)
def test_a_complete_but_invalid_group_is_refused(setenv, name, value, said):
    setenv(WHOLE | {name: value})
    with pytest.raises(LaunchError) as error:
        launch()
    assert str(error.value).startswith(said) and "unset RANK, WORLD_SIZE" in str(error.value)


def test_a_complete_group_is_read(setenv):
    setenv(WHOLE)
    assert launch() == Launch(1, 2, None)
    setenv({"LOCAL_RANK": "1"})
    assert launch() == Launch(1, 2, 1)


def test_a_group_that_cannot_be_joined_is_an_error_of_one_line(setenv, monkeypatch):
    from dreamfusion.utils import distributed

    def refuse(backend):
        raise RuntimeError("The client socket has failed to connect\nto any network address")

    setenv(WHOLE)
    monkeypatch.setattr(distributed.dist, "init_process_group", refuse)
    with (
        pytest.raises(LaunchError, match=r"process 1 of 2 cannot join the others \(The client"),
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
    assert done.stderr.startswith("error: RANK=7 in the environment must be")
    assert done.stderr.count("\n") == 1
