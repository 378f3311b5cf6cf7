"""The choice of a device."""

import pytest
import torch

from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.errors import UserError


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(UserError, match="no cuda device is available; use --device cpu"):
        choose_device("cuda:1")


GROUP = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_each_process_has_a_separate_gpu(monkeypatch):
    for name, value in {**GROUP, "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked, current = [], []
    monkeypatch.setattr(torch, "empty", lambda n, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("auto") == choose_device("cuda") == "cuda:3"
    assert choose_device("cpu") == "cpu"
    assert asked == ["cuda:3", "cuda:3", "cpu"] and current == ["cuda:3", "cuda:3"]


def test_a_local_rank_without_a_group_chooses_no_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda n, device: None)
    assert choose_device("auto") == "cuda"


def test_a_failing_device_is_an_error_of_one_line(monkeypatch):
    def fail(n, device):
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(UserError) as error:
        choose_device("cuda")
    assert str(error.value) == "device cuda cannot be used: CUDA error: out of memory"
