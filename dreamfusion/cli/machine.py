"""The commands `configs`, `estimators` and `doctor`: list choices, and check this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from dreamfusion.cli.options import USER_ERROR
from dreamfusion.config.layers import build_config, to_yaml
from dreamfusion.config.presets import describe_preset, preset_names, read_settings
from dreamfusion.config.sections import ESTIMATORS, PluginError, find_section, section_names


def configs(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRESET|FILE]", help="Print all settings of this one.")
    ] = None,
) -> None:
    """List the presets, or print one with all its settings."""
    if name is not None:
        print(to_yaml(build_config(*read_settings(name))), end="")
        return
    width = max(map(len, preset_names()))
    for preset in preset_names():
        print(f"{preset:{width}}  {describe_preset(preset)}")
    print("\nto use one: dreamfusion train PROMPT --config PRESET")


def estimators() -> None:
    """List the estimators, with the cost and the paper of each."""
    for name in section_names(ESTIMATORS):
        try:
            found = find_section(ESTIMATORS, name)
        except PluginError as error:
            print(f"{name}\n    {error}")
            continue
        first = " ".join((found.__doc__ or "").split("\n\n")[0].split())
        print(f"{name}\n    {first}")
        if evaluations := getattr(found(), "evaluations", 0.0):
            print(f"    {evaluations:.3g} network evaluations for each view and step")
        if found.paper:
            print(f"    {found.paper}")
    print("\nto use one: dreamfusion train PROMPT --estimator NAME")


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine, and print whether a run can start on it."""
    from dreamfusion.cli.doctor import examine

    findings = list(examine(Path("runs")))
    ready = all(found.mark != "problem" for found in findings)
    if json_:
        report = {"can_run": ready, "findings": [found._asdict() for found in findings]}
        print(json.dumps(report, indent=2))
    else:
        for found in findings:
            print(f"{found.mark:<8} {found.name:<14}  {found.text}")
        verdict = "a run can start here" if ready else "no run can start here: fix the problems"
        print(f"{verdict} (missing items are optional)")
    if not ready:
        raise typer.Exit(USER_ERROR)
