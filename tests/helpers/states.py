"""What a training state holds."""


def tensors(state):
    parts = (state.field, state.shown.field, state.background, state.occupancy)
    found = [value for part in parts for value in part.state_dict().values()]
    for _, entry in sorted(state.optimizer.state_dict()["state"].items()):
        found += [entry[key] for key in sorted(entry)]
    return [*found, state.generator.get_state()]
