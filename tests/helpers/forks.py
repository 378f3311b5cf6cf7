"""Runs the command line in separate processes that start fast, forked from a server that has
imported everything.

Executed as a module, this is the server: it reads one request per line from standard input, and
writes one answer per line to standard output. Faults are injected only into the child process,
before the command begins.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.helpers import ROOT


class Child:
    """A started command. output: its standard output and standard error."""

    def __init__(self, server: Forks, pid: int, output: Path) -> None:
        self._server, self.pid, self._output = server, pid, output

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 100.0) -> int:
        """Wait for its exit status; negative for the signal that killed it."""
        status = self._server.ask({"wait": self.pid, "seconds": seconds})
        assert status is not None, f"it has not ended: {self.output}"
        return status

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Wait until its output contains a text."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in {self.output!r}"
            time.sleep(0.02)


class Forks:
    """The server; a context manager. warm_up: a command that it runs before any fork."""

    def __init__(self, *warm_up: object) -> None:
        # One thread each: a process with more cannot be forked.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.forks", *map(str, warm_up)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        assert self._answer() == "ready"

    def start(
        self, *command: object, cwd: Path, fault: tuple[str, int] | None = None, **more: object
    ) -> Child:
        """Start `dreamfusion COMMAND` in a folder. fault: see `_inject`."""
        output = cwd / f".output-{time.monotonic_ns()}"
        output.touch()
        request = {"run": list(map(str, command)), "cwd": str(cwd), "output": str(output)}
        return Child(self, self.ask(request | {"fault": fault} | more), output)

    def complete(
        self,
        *command: object,
        processes: int = 1,
        script: Path | None = None,
        site: Path | None = None,
        cwd: Path = ROOT,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a script with these arguments, like `subprocess.run`.

        processes: their number, as with torchrun. site: an additional folder of packages.
        """
        with tempfile.TemporaryDirectory() as folder:
            more = {"script": script and str(script), "site": site and str(site)}
            group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
            group["MASTER_PORT"] = str(_free_port())
            children = []
            for rank in range(processes):
                own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                request = {
                    "run": list(map(str, command)),
                    "cwd": str(cwd),
                    "output": f"{folder}/{rank}.out",
                    "errors": f"{folder}/{rank}.err",
                    "environment": environment | (own if processes > 1 else {}),
                    "fault": None,
                }
                children.append(Child(self, self.ask(request | more), Path(folder)))
            statuses = [child.wait(250.0) for child in children]
            status = next((found for found in statuses if found), 0)
            texts = [
                "".join(Path(folder, f"{rank}.{kind}").read_text() for rank in range(processes))
                for kind in ("out", "err")
            ]
        return subprocess.CompletedProcess(command, status, *texts)

    def run(self, *command: object, cwd: Path, **options: Any) -> tuple[int, str]:
        """Exit status and output of a command."""
        child = self.start(*command, cwd=cwd, **options)
        return child.wait(), child.output

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server of forks has died"
        return json.loads(line)

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _inject(kind: str, number: int) -> None:
    """Inject a fault: a `limit` in bytes on the size of every file, which truncates writes; the nth
    `fsync` or `rename` fails; or the `clock` jumps back and forth by n seconds."""
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        return
    if kind == "clock":
        now, jumps = time.time, itertools.cycle((number, -number, 0))
        time.time = lambda: now() + next(jumps)
        return
    left = [number]

    def spoil(call: Any, code: int, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            path = arguments[0] if isinstance(arguments[0], (str, os.PathLike)) else None
            raise OSError(code, os.strerror(code), path)
        return call(*arguments, **options)

    if kind == "fsync":
        sync = os.fsync
        os.fsync = lambda *a, **o: spoil(sync, errno.EIO, *a, **o)  # type: ignore[assignment]
    elif kind == "rename":
        rename = os.replace
        os.replace = lambda *a, **o: spoil(rename, errno.ENOSPC, *a, **o)  # type: ignore[assignment]
    else:
        raise ValueError(kind)


def _status(pid: int, seconds: float) -> int | None:
    """The exit status of a child; None if it had to be killed after the timeout."""
    end = time.monotonic() + seconds
    while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if found == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(found[1])


def _serve(warm_up: list[str]) -> None:
    from dreamfusion.cli.app import main
    from dreamfusion.runs import export

    export.CHECK_VIEWS = 1  # instead of eight, which would take a quarter of the time

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # standard output is reserved for answers
    from dreamfusion.config import sections

    with tempfile.TemporaryDirectory() as folder:  # imports and compiles everything for a run
        assert main([*warm_up, "--out", f"{folder}/run", "--quiet"]) == 0
    for function in (sections._entries, sections.find_section):  # children may have other plugins
        function.cache_clear()
    assert len(threading.enumerate()) == 1, "a process with threads cannot be forked"

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    children: set[int] = set()
    answer("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer(_status(request["wait"], request["seconds"]))
            children.discard(request["wait"])
            continue
        pid = os.fork()
        if pid:
            children.add(pid)
            answer(pid)
            continue
        answers.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request["cwd"])
        for stream, name in ((1, "output"), (2, "errors")):
            to = request.get(name, request["output"])
            os.dup2(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ.update(request.get("environment", {}))
        if request.get("site"):
            sys.path.insert(0, request["site"])
            importlib.invalidate_caches()
        if request["fault"]:
            _inject(*request["fault"])
        status = 1  # for an exception
        try:
            if request.get("script"):
                sys.argv = [request["script"], *request["run"]]
                runpy.run_path(request["script"], run_name="__main__")
                status = 0
            else:
                status = main(request["run"])
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if status == 1:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            os._exit(status)
    for pid in children:  # left by failed tests
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.argv[1:])
