"""Tensors of a training state, and an untrained state."""

import torch

from dreamfusion.training.state import TrainState, new_state


def tensors(state: TrainState) -> list[torch.Tensor]:
    """All tensors that a step changes: of the scene and its average, the optimiser, the estimator
    and the random generator."""
    scene = state.scene
    parts = (scene.field, scene.averaged.field, scene.background, scene.occupancy)
    found = [value for part in parts for value in part.state_dict().values()]
    for _, entry in sorted(scene.optimizer.state_dict()["state"].items()):
        found += [entry[key] for key in sorted(entry)]
    found += [value for _, value in sorted(state.estimator.state_dict().items())]
    return [*found, state.generator.get_state()]


class _NoPrior:
    device = "cpu"
    alphas = sigmas = torch.ones(1)

    def predict(self, *arguments):
        raise AssertionError("this state is not trained")


def untrained(config) -> TrainState:
    """The state before the first step of a configuration, without its prior."""
    return new_state(config, _NoPrior())
