"""The stages of a run: consecutive optimisations. Imports no torch.

The first stage uses the run's configuration. Each further stage is an entry of `stages`, a layer on
top of that configuration, and starts from the scene of the previous stage. The first stage writes
to the folder of the run, the others to RUN/stages/NAME, with the same files. Mesh and video are
made of the last stage only.
"""

import re
from dataclasses import dataclass, replace

from dreamfusion.config.layers import ConfigError, build_config, to_mapping
from dreamfusion.config.schema import Config
from dreamfusion.runs.folder import RunFolder


@dataclass(frozen=True)
class Stage:
    """One optimisation, with its complete configuration. name: "" for the first."""

    name: str
    config: Config

    def folder(self, run: RunFolder) -> RunFolder:
        """The folder of its checkpoints, metrics and previews."""
        return RunFolder(run.path / "stages" / self.name) if self.name else run


def stages_of(config: Config) -> list[Stage]:
    """All stages of a configuration, in order. Raises ConfigError."""
    first = replace(config, stages={})
    stages = [Stage("", first)]
    for name, changes in config.stages.items():
        if not re.fullmatch(r"[\w-]{1,40}", name):
            raise ConfigError(f"a stage's name has letters, digits, - and _; not {name!r}")
        if "stages" in changes or "start" in changes:
            raise ConfigError(f"stages.{name}: a stage cannot set stages or start")
        stages.append(Stage(name, build_config(to_mapping(replace(first, start="")), changes)))
    return stages
