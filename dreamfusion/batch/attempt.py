"""One attempt at a job: runs the command line in a separate process.

An attempt locks its run against other writers and sends heartbeats. It exits at once if a newer
attempt has replaced it, and with a checkpoint if the process that started it is gone.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import BEAT_SECONDS, Job, JobFolder, create_json, read_json, write_json
from dreamfusion.config.nested import flat
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.errors import one_line
from dreamfusion.utils.file_system import lock_file
from dreamfusion.utils.launch import VARIABLES
from dreamfusion.utils.machine import peak_memory
from dreamfusion.utils.version import __version__

DONE, USER_ERROR = 0, 2
FENCED = 75  # exit status if a newer attempt has replaced this one
UNFIT = 78  # exit status if this machine has another version of dreamfusion than the driver
STALE_SECONDS = 60.0  # an attempt without a heartbeat for this time counts as frozen
MODULE = "dreamfusion.cli.attempt"  # the module that runs an attempt

Main = Callable[[Sequence[str]], int]


def command_of(
    folder: Path, number: int, parent: int, stale_seconds: float, module: str | None = None
) -> list[str]:
    """The command line that runs an attempt. parent: ID of the process that starts it."""
    arguments = [str(folder), str(number), str(parent), str(stale_seconds), __version__]
    return [sys.executable, "-m", module or MODULE, *arguments]


def start_attempt(
    folder: Path, number: int, stale_seconds: float, module: str | None = None, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start an attempt as a child of this process, without input or output. options: of Popen."""
    command = command_of(folder, number, os.getpid(), stale_seconds, module)
    streams: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(command, **streams, **options)


def environment(threads: int) -> dict[str, str]:
    """The environment variables of an attempt: as in this process, with another number of threads
    and without a launcher's variables, since an attempt is a single process."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return kept | {"OMP_WAIT_POLICY": "PASSIVE"} | dict.fromkeys(names, str(threads))


def attempt(arguments: Sequence[str], main: Main) -> int:
    """Run an attempt and return its exit status. arguments: see `command_of`. main: runs the
    command line with given arguments."""
    folder, number = JobFolder(Path(arguments[0])), int(arguments[1])
    parent, stale_seconds, version = int(arguments[2]), float(arguments[3]), arguments[4]
    started = time.time()
    _redirect_output(folder, number)
    if version != __version__:
        _log(f"error: this machine has dreamfusion {__version__}, the batch {version}")
        return UNFIT
    about = {
        "number": number,
        "host": platform.node(),
        "pid": os.getpid(),
        "started": started,
        "dreamfusion": __version__,
    }
    before = folder.run.path.name  # of the newest attempt
    if not create_json(folder.attempt_file(number), {**about, "run": before}):
        return FENCED
    threading.Thread(target=_watch, args=(folder, number, parent), daemon=True).start()
    with _locked_run(folder, before, number, stale_seconds) as run:
        if run.path.name != before:
            write_json(folder.attempt_file(number), {**about, "run": run.path.name})
        if folder.done_file.is_file():
            return DONE
        code = _run_command_line(main, _arguments(folder.read(), folder, run))
        _write_end(folder, number, code, started, run)
    return code


def _run_command_line(main: Main, arguments: Sequence[str]) -> int:
    """Run the command line; an unexpected exception is logged with a traceback, status 1."""
    _log(f"$ dreamfusion {' '.join(arguments)}")
    try:
        return main(arguments)
    except Exception:
        traceback.print_exc()
        return 1


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _arguments(job: Job, folder: JobFolder, run: RunFolder) -> list[str]:
    """The arguments of the command that starts or resumes the run."""
    if run.config.is_file():
        return ["resume", str(run.path), "--json"]
    # A run that was killed before it wrote its settings contains nothing of value.
    shutil.rmtree(run.path, ignore_errors=True)
    arguments = ["train", job.prompt, "--out", str(run.path), "--seed", str(job.seed), "--json"]
    if job.file is not None:
        arguments += ["--config", str(folder.settings_file)]
    elif job.preset is not None:
        arguments += ["--config", job.preset]
    for name, value in flat(job.settings or {}):
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    return arguments


@contextmanager
def _locked_run(
    folder: JobFolder, name: str, number: int, stale_seconds: float
) -> Iterator[RunFolder]:
    """Lock the run for this process during the block.

    Waits while another attempt holds the lock and sends heartbeats. An attempt that holds the lock
    without heartbeats is frozen. Since it may recover at any time and write, it keeps its folder,
    and this attempt continues in a copy.
    """
    run = RunFolder(folder.path / name)
    with (folder.path / f"{name}.lock").open("a") as lock:
        if _wait_for(lock.fileno(), folder, number, stale_seconds):
            yield run
            return
    copied = RunFolder(folder.path / f"run-of-attempt-{number}")
    _copy_run(run, copied)
    with (folder.path / f"{copied.path.name}.lock").open("a") as lock:
        lock_file(lock.fileno())
        yield copied


def _wait_for(lock: int, folder: JobFolder, number: int, stale_seconds: float) -> bool:
    """Wait for a lock. Returns False if its holder is frozen."""
    beats = HeartBeats(folder, before=number)
    while not lock_file(lock):
        if beats.silent_seconds() > stale_seconds:
            return False
        time.sleep(0.2)
    return True


class HeartBeats:
    """Monitors the heartbeats of the attempts at a job, by the clock of this machine.

    before: monitor only attempts with lower numbers. Time in which this process itself was
    suspended is excluded: the interval between two calls counts as at most two heartbeats.
    """

    def __init__(self, folder: JobFolder, *, before: int | None = None) -> None:
        self._folder, self._before = folder, before
        self._seen: Any = None
        self._last_poll, self._silent = time.monotonic(), 0.0

    def silent_seconds(self) -> float:
        """Seconds without a heartbeat, as observed by calls of this method."""
        now = time.monotonic()
        passed, self._last_poll = min(now - self._last_poll, 2 * BEAT_SECONDS), now
        beats = self._beats()
        self._silent = self._silent + passed if beats == self._seen else 0.0
        self._seen = beats
        return self._silent

    def _beats(self) -> list[tuple[int, int]]:
        numbers = [n for n in self._folder.attempts() if self._before is None or n < self._before]
        found = []
        for number in numbers[-1:] if self._before is None else numbers:
            try:
                found.append((number, self._folder.beat_file(number).stat().st_mtime_ns))
            except OSError:
                found.append((number, 0))
        return found


def _copy_run(run: RunFolder, target: RunFolder) -> None:
    """Copy the files from which a run can resume. Checkpoints are written atomically."""
    for _ in range(3):
        shutil.rmtree(target.path, ignore_errors=True)
        try:
            if run.path.is_dir():
                shutil.copytree(run.path, target.path, ignore=shutil.ignore_patterns(".*"))
            return
        except OSError:  # the frozen attempt has recovered and deleted an old checkpoint
            time.sleep(0.5)
    shutil.rmtree(target.path, ignore_errors=True)  # restart from the beginning


def _watch(folder: JobFolder, number: int, parent: int) -> None:
    """Send heartbeats, and end this attempt if it was replaced, its parent process has ended or
    somebody stops the job."""
    beat, stopping = folder.beat_file(number), False
    while True:
        try:
            beat.touch()
            if folder.newest_attempt() > number:
                os._exit(FENCED)
        except OSError:  # a full or unreachable disk: the run will report it
            pass
        if (os.getppid() != parent or folder.stop_file.is_file()) and not stopping:
            stopping = True
            os.kill(os.getpid(), signal.SIGTERM)  # writes a checkpoint and exits
        time.sleep(BEAT_SECONDS)


def _redirect_output(folder: JobFolder, number: int) -> None:
    """Redirect standard output to the attempt's result file, standard error to its log."""
    log, result = folder.log_file(number), folder.result_file(number)
    log.parent.mkdir(parents=True, exist_ok=True)
    for stream, path in ((sys.stdout, result), (sys.stderr, log)):
        stream.flush()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, stream.fileno())
        os.close(handle)


def _write_end(folder: JobFolder, number: int, code: int, started: float, run: RunFolder) -> None:
    """Record the end of this attempt, and the result of the job if the job has ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    cost = {
        "seconds": round(time.time() - started, 2),
        "peak_gib": round((peak_memory() or 0) / (1 << 30), 3),
    }
    write_json(folder.end_file(number), {"code": code, "counts": False, **cost})
    if folder.newest_attempt() != number:
        return
    if code == DONE:
        seconds = sum(_seconds(folder, attempt) for attempt in folder.attempts())
        content = {"attempt": number, "run": run.path.name, **cost, "seconds": round(seconds, 2)}
        output = folder.result_file(number).read_text(encoding="utf-8").splitlines()
        report = dict(json.loads(output[-1])) if output else {}
        write_json(folder.done_file, content | {"report": report})
    elif code == USER_ERROR:
        error = last_log_line(folder.log_file(number))
        write_json(folder.failed_file, {"error": error, "attempts": number})


def _seconds(folder: JobFolder, number: int) -> float:
    """Duration of an attempt. A killed one counts until its last heartbeat."""
    end = read_json(folder.end_file(number))
    if "seconds" in end:
        return float(end["seconds"])
    try:
        started = float(read_json(folder.attempt_file(number))["started"])
        return max(0.0, folder.beat_file(number).stat().st_mtime - started)
    except (OSError, KeyError, ValueError):
        return 0.0


def last_log_line(log: Path) -> str:
    """The last non-empty line of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    lines = [line for line in lines if line.strip()]
    return one_line(lines[-1].removeprefix("error: "), 300) if lines else "empty log"
