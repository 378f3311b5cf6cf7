"""Renders the page of one run, or of several side by side. The page loads no other files."""

import datetime
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from dreamfusion.report import parts
from dreamfusion.report.curves import render
from dreamfusion.report.gather import RunReport, thin
from dreamfusion.utils.duration import duration
from dreamfusion.utils.version import __version__

GENERATOR = '<meta name="generator" content="dreamfusion report">'
_HERE = files("dreamfusion.report")
# Functions that the templates call.
_FUNCTIONS = {
    "base64": parts.as_base64,
    "data_uri": parts.data_uri,
    "duration": duration,
    "thin": thin,
}


def page(runs: Sequence[RunReport]) -> str:
    """A report on these runs as one HTML document."""
    prompts = list(dict.fromkeys(run.config.prompt for run in runs))
    title = " · ".join(prompts)
    charts, constant = parts.curves(runs)
    return document(
        "run.html" if len(runs) == 1 else "runs.html",
        title,
        "viewer.js",
        charts=charts,
        constant=constant,
        runs=runs,
        run=runs[0],
        settings=parts.settings_of(runs),
        heading=title if len(prompts) == 1 else f"{len(runs)} runs",
    )


def document(template: str, title: str, script_file: str | None, **content: object) -> str:
    """Render an HTML document with inlined style sheet and script. script_file: in this folder, or
    None for a page without a script."""
    script = (_HERE / script_file).read_text(encoding="utf-8") if script_file else ""
    return render(
        template,
        title=title,
        generator=GENERATOR,
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=script,
        digest=parts.as_base64(hashlib.sha256(script.encode()).digest()),
        version=__version__,
        now=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        **_FUNCTIONS,
        **content,
    )
