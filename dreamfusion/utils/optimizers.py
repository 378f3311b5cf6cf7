"""Converts the state of an optimiser to named tensors and back, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments, named INDEX.NAME by the index of the parameter."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the output of `optimizer_tensors`. Learning rates are not changed."""
    moments: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Copies of the tensors whose names begin with `name` and a dot, without that prefix."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value.clone()
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
