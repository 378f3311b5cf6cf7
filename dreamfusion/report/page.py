"""Renders the page of one run, or of several side by side. The page loads no other files."""

import base64
import datetime
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from dreamfusion.report import parts
from dreamfusion.report.gather import RunReport, read_small, thin
from dreamfusion.report.model import MOST_FACES, data_uri, pack
from dreamfusion.report.rendering import render
from dreamfusion.utils.version import __version__

GENERATOR = '<meta name="generator" content="dreamfusion report">'
_HERE = files("dreamfusion.report")
# Functions that the templates call.
_FUNCTIONS = {
    "data_uri": data_uri,
    "duration": parts.duration,
    "judged_facts": parts.judged_facts,
    "pack": pack,
    "thin": thin,
    "timing_facts": parts.timing_facts,
}


def page(runs: Sequence[RunReport]) -> str:
    """A report on these runs as one HTML document."""
    prompts = list(dict.fromkeys(run.config.prompt for run in runs))
    title = " · ".join(prompts)
    charts, constant = parts.curves(runs)
    content: dict[str, object] = {"charts": charts, "constant": constant}
    if len(runs) == 1:
        (run,) = runs
        content |= {"run": run, "settings": parts.own_settings(run), "again": parts.again(run)}
        content["download"] = read_small(run.path / (run.model_file or ""))
        return document("run.html", title, "viewer.js", **content)
    heading = title if len(prompts) == 1 else f"{len(runs)} runs"
    content |= {"runs": runs, "settings": parts.compared_settings(runs), "heading": heading}
    return document("runs.html", title, "viewer.js", **content)


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
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        now=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        most_faces=MOST_FACES,
        **_FUNCTIONS,
        **content,
    )
