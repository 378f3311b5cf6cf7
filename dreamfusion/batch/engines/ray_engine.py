"""An engine that runs attempts on a Ray cluster. It uses only Ray Core, and disables Ray's retries.

In Ray 2.60, a task waits forever for memory that no node has, so such requests are rejected first.
Nodes with another version, or without access to the folder, would fail every job.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from dreamfusion.batch import attempt as attempts
from dreamfusion.batch.attempt import STALE_SECONDS, environment, start_attempt
from dreamfusion.batch.engines import Ending, ResourceRequest
from dreamfusion.batch.engines.local import GIB, Gpu
from dreamfusion.batch.jobs import JobFolder
from dreamfusion.batch.prompts import BatchError
from dreamfusion.utils.errors import one_line
from dreamfusion.utils.version import __version__

PROBE_SECONDS = 60.0
CONNECT_SECONDS = 5.0


class RayEngine:
    """Runs attempts on an existing cluster: at RAY_ADDRESS, or on this machine.

    folder: of the batch; must have the same path on every node. Raises BatchError if there is no
    cluster, no node can run an attempt, or a node is incompatible.
    """

    name = "ray"

    def __init__(
        self, need: ResourceRequest, folder: Path, *, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self._need, self._stale_seconds = need, stale_seconds
        self._ray = _connect()
        self._tasks: dict[Any, Any] = {}
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            fit = [node for node in nodes if _fits(node["Resources"], need)]
            if not fit:
                gpus = ", a GPU" if need.gpu_memory else ""
                raise BatchError(
                    f"none of the {len(nodes)} nodes of the cluster can run a job: it needs "
                    f"{need.threads} CPU, {need.memory / GIB:.1f} GiB of memory{gpus}"
                )
            per_gpu = self._check_nodes(fit, folder)
            self.slots = sum(_fits(node["Resources"], need, per_gpu) for node in fit)
        except BaseException:
            self._ray.shutdown()
            raise
        share = 1 / per_gpu if need.gpu_memory else 0  # Ray's precision is 1e-4
        self._attempt = self._ray.remote(
            num_cpus=need.threads, num_gpus=share, memory=need.memory, max_retries=0
        )(_attempt)

    def has_room(self) -> bool:
        """Whether Ray's queue has room, for a few more attempts than slots: none is ever idle."""
        return len(self._tasks) < self.slots + 2

    def start(self, folder: JobFolder, number: int) -> Hashable:
        task = self._attempt.remote(
            str(folder.path), number, self._need.threads, self._stale_seconds, attempts.MODULE
        )
        self._tasks[task] = None
        return task

    def ended(self) -> list[tuple[Hashable, Ending]]:
        """Attempts whose task has ended for any reason."""
        if not self._tasks:
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        found: list[tuple[Hashable, Ending]] = []
        for task in ready:
            del self._tasks[task]
            try:
                # A task that was cancelled by force returns None instead of raising.
                found.append((task, Ending(self._ray.get(task), "its task was cancelled")))
            except (self._ray.exceptions.RayError, KeyboardInterrupt) as error:
                found.append((task, Ending(None, f"its node was lost: {one_line(error, 120)}")))
        return found

    def drop(self, ticket: Any) -> None:
        """Cancel a task by force. A frozen node does not receive this; if it recovers, the attempt
        detects that a newer one exists."""
        self._tasks.pop(ticket, None)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(ticket, force=True)

    def stop(self) -> None:
        """Interrupt every task; each forwards the interrupt to its process."""
        for task in self._tasks:
            self._ray.cancel(task, force=False)

    def close(self) -> None:
        """Cancel the remaining tasks, and disconnect from the cluster."""
        for task in list(self._tasks):
            self.drop(task)
        self._ray.shutdown()

    def _check_nodes(self, nodes: list[dict[str, Any]], folder: Path) -> int:
        """Check that every node has this version and the batch's folder. Returns how many attempts
        fit on the smallest GPU in parallel."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / f".seen-{os.getpid()}"
        mark.write_text(str(mark), encoding="utf-8")
        probe = self._ray.remote(num_cpus=0, max_retries=0)(_probe)
        try:
            probes = {}
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = probe.options(scheduling_strategy=there).remote(str(mark))
                probes[f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"] = task
            free: list[int] = []
            for name, task in probes.items():
                try:
                    version, has_access, memory = self._ray.get(task, timeout=PROBE_SECONDS)
                except Exception as error:  # including errors from the node's Python
                    raise BatchError(f"node {name} cannot run jobs: {one_line(error)}") from None
                if version != __version__ or not has_access:
                    access = "access" if has_access else "no access"
                    raise BatchError(
                        f"node {name} has dreamfusion {version} and {access} to {folder}; all need "
                        f"that folder and version {__version__}"
                    )
                free += memory
        finally:
            mark.unlink(missing_ok=True)
        return Gpu("the smallest", min(free, default=None)).slots(self._need)


def _connect() -> Any:
    """Import Ray and connect to the cluster. Raises BatchError."""
    # Must be set before Ray is imported, which would otherwise send usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise BatchError("--on ray needs Ray: pip install 'dreamfusion[ray]'") from None
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # no cluster, another version, or access denied
        ray.shutdown()  # it may be partially connected
        raise BatchError(
            f"cannot connect to a Ray cluster at {address} ({one_line(error)}): start one (`ray "
            "start --head`) with this Ray and Python, or set RAY_ADDRESS"
        ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, since Ray would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _fits(resources: dict[str, float], need: ResourceRequest, per_gpu: int = 1) -> int:
    """Number of attempts that fit on a node, `per_gpu` on each GPU."""
    bounds = [int(resources.get("CPU", 0) // need.threads)]
    bounds.append(int(resources.get("memory", 0) // need.memory))
    if need.gpu_memory:
        bounds.append(int(resources.get("GPU", 0)) * per_gpu)
    return min(bounds)


def _probe(mark: str) -> tuple[str, bool, list[int]]:
    """Runs on a node. Returns its version, whether it can access a file, and free GPU memory."""
    from dreamfusion.batch.engines.local import gpu_memory
    from dreamfusion.utils.version import __version__ as version

    return version, Path(mark).is_file(), list(gpu_memory().values())


def _attempt(folder: str, number: int, threads: int, stale_seconds: float, module: str) -> int:
    """Runs on a node. Runs an attempt, and forwards interrupts to its process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A cluster that a script starts in the background ignores SIGINT, which Ray sends.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    env = environment(threads)
    try:
        child = start_attempt(JobFolder(Path(folder)), number, stale_seconds, module, env=env)
    except OSError:  # the folder cannot be written from this node: the attempt has failed
        return 1
    while True:
        try:  # the interrupt may also come while the child is polled
            while child.poll() is None:
                time.sleep(0.1)  # Ray cannot interrupt a blocking wait
            return int(child.returncode)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)
