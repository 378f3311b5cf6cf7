"""Prints the output of commands for terminals, logs and scripts.

Only the package `cli` prints. Results go to standard output. With `--json`, messages go to standard
error, so that the output is one JSON object. Imports no heavy libraries.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from dreamfusion.utils.duration import duration

if TYPE_CHECKING:
    from dreamfusion.training.trainer import StepMetrics

T = TypeVar("T")
Show = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 5.0
# The cost of a step at a new image size is extrapolated from the largest size so far: this share of
# it is proportional to the number of pixels. Measured with the embedded prior on a CPU.
PIXEL_SHARE = 0.25
RECENT = 20  # steps


class Pace:
    """Predicts the remaining duration of a run from recent steps, by image size."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def add(self, size: int, seconds: float) -> None:
        """Record a step on images of `size` pixels. A slow first step of a size, which includes
        compilation and warm-up, is dropped after the second one."""
        recent = self._seconds[size]
        if len(recent) == 1 and recent[0] > 2 * seconds:
            recent.clear()
        recent.append(seconds)

    def remaining(self, sizes: Iterable[int]) -> float:
        """Predicted seconds for steps on images of these sizes. Requires at least one `add`."""
        return sum(self._cost(size) for size in sizes)

    def _cost(self, size: int) -> float:
        known = size if size in self._seconds else max(self._seconds)
        pixels = (size / known) ** 2
        return fmean(self._seconds[known]) * (1 - PIXEL_SHARE + PIXEL_SHARE * pixels)


class Console:
    """Prints messages and results.

    quiet: print only the paths of written files, one per line. json: print one JSON object as the
    last line of standard output. verbose: print details, too.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False, verbose: bool = False) -> None:
        self.quiet, self.json, self.verbose = quiet, json, verbose

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self.json else sys.stdout

    def say(self, text: str) -> None:
        """Print a message."""
        if not self.quiet:
            print(text, file=self._stream, flush=True)

    def detail(self, text: str) -> None:
        """Print a message with `verbose` only."""
        if self.verbose:
            self.say(text)

    def result(self, report: Mapping[str, Any]) -> None:
        """Print the result of a command.

        report: maps names to paths, lists of paths, numbers, texts or mappings of these. With
        quiet, only the paths are printed. Without quiet and json, `say` has printed them already.
        """
        if self.json:
            # Numbers that are not finite become null.
            finite = json.loads(json.dumps(report, default=str), parse_constant=lambda _: None)
            print(json.dumps(finite), flush=True)
        elif self.quiet:
            for path in _paths(report):
                print(path, flush=True)

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Yield the items and show progress: a bar on a terminal, occasional lines elsewhere."""
        with self._progress(what, total) as show:
            for done, item in enumerate(items, start=1):
                show(done, "")
                yield item

    def steps(self, steps: Iterable[StepMetrics], sizes: Sequence[int]) -> Iterator[StepMetrics]:
        """Yield training steps and show the progress. sizes: of each step's images, pixels."""
        pace = Pace()
        with self._progress("step", len(sizes)) as show:
            for metrics in steps:
                pace.add(metrics.size, metrics.seconds)
                note = f"{duration(pace.remaining(sizes[metrics.step :]))} left"
                if self.verbose:
                    speed = 1.0 / max(pace.remaining([metrics.size]), 1e-9)  # of recent steps
                    note += f"  {speed:.1f} steps/s  {_describe(metrics)}"
                show(metrics.step, note)
                yield metrics

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Show]:
        """A function that shows the number of done items and a note next to a bar, on a terminal.
        Elsewhere, it does nothing."""
        if self.quiet or not self._stream.isatty():
            yield lambda done, note: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            "{task.description}",
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=RichConsole(file=self._stream)) as bar:
            task = bar.add_task(what, total=total, note="")

            def show(done: int, note: str) -> None:
                text = f"{what} {done}/{total}"
                bar.update(task, completed=done, description=text, note=note)

            yield show

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Show]:
        """Like `bar`, with occasional lines if the output is no terminal."""
        due = math.inf if self._stream.isatty() else -math.inf

        def line(done: int, note: str) -> None:
            nonlocal due
            show(done, note)
            if due < math.inf and (done == total or time.monotonic() >= due):
                due = time.monotonic() + SECONDS_BETWEEN_LINES
                self.say(f"{what} {done}/{total}  {note}".rstrip())

        with self.bar(what, total) as show:
            yield line


def _describe(metrics: StepMetrics) -> str:
    return f"opacity {metrics.opacity:.0%}  entropy {metrics.entropy:.2f}" + "".join(
        f"  {name.removesuffix('_gradient').upper()} gradient {value:.2f}"
        for name, value in metrics.of_estimator.items()
        if name.endswith("_gradient")
    )


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(part)
