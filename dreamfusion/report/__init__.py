"""Writes HTML reports on one or more runs, each a single file that works offline."""

from collections.abc import Sequence
from pathlib import Path

from dreamfusion.report.gather import gather
from dreamfusion.report.page import GENERATOR, page
from dreamfusion.runs.folder import free_path
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.files import write_text

__all__ = ["report_html", "write_report"]


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write a report on the runs in these folders and return its path.

    out: the file. None takes `report.html` in the folder of a single run, replacing an older
    report, or in the working directory for several runs. Other files are not overwritten: the next
    free name is used. Raises UserError for a folder without a run.
    """
    if not run_dirs:
        raise UserError("a report needs the folder of a run")
    runs = [gather(path) for path in run_dirs]
    default = run_dirs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    target = default if out is None else out.expanduser()
    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file, like {target / 'report.html'}")
    old = target.read_bytes()[:1000] if target.is_file() else b""
    if out is not None or len(runs) > 1 or GENERATOR.encode() not in old:
        target = free_path(target, suffix=target.suffix)
    write_text(target, page(runs))
    return target


def report_html(run_dirs: Sequence[Path]) -> str:
    """The report on these runs as one HTML document. Raises UserError for a folder without one."""
    return page([gather(path) for path in run_dirs])
