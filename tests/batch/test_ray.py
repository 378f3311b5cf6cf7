"""The Ray engine, with a real cluster of two nodes on one machine and fake attempts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from dreamfusion.batch import attempt as attempts
from dreamfusion.batch.driver import Listener, drive, prepare
from dreamfusion.batch.engines import ResourceRequest
from dreamfusion.batch.engines.ray_engine import RayEngine
from dreamfusion.batch.jobs import BatchFolder, State, read_json
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import BatchError, Entry
from tests.helpers import ROOT
from tests.helpers.fast_attempts import job, state_of, steps_of, use_fast_attempts
from tests.helpers.tiny_priors import save_pixel_prior
from tests.helpers.tiny_runs import TINY

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore"),  # Ray leaves files and sockets open
]
NEED = ResourceRequest(1, 2**26, 0)


@pytest.fixture(autouse=True, scope="module")
def token(tmp_path_factory):
    """The token of this module's clusters. Ray reads it once, at its first import."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("a-token-for-these-tests-alone-0123456789")
    with pytest.MonkeyPatch.context() as patch:
        use_fast_attempts(patch)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield token


@contextmanager
def two_nodes():
    """A head without slots and two nodes with one slot each, at RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    # As for background processes of a shell script.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "memory": 2**20},
        )
        cluster.nodes = [cluster.add_node(num_cpus=1, memory=2**28) for _ in range(2)]
        cluster.wait_for_nodes()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(token):
    """A cluster for one test, which may damage it."""
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def steady(token):
    """A shared cluster for tests that do not damage it."""
    with two_nodes() as cluster:
        yield cluster


class Once(Listener):
    """Calls an action for each first attempt at a job once it has logged two steps."""

    def __init__(self, folders, action):
        self.folders, self.action, self.done = folders, action, False

    def polled(self, running):
        logs = [folder.run.metrics for folder in self.folders]
        begun = all(log.is_file() and len(log.read_text().splitlines()) >= 2 for log in logs)
        if begun and not self.done:
            self.done = True
            self.action(*(read_json(folder.attempt_file(1)) for folder in self.folders))


def node_of(cluster, pid: int):
    """The node of a process, found by its ancestors."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.nodes}
    while pid not in raylets:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return raylets[pid], pid


def test_jobs_survive_a_killed_child_and_a_removed_node(cluster, tmp_path):
    jobs = [job("slow thing", seed=seed, steps=60) for seed in range(4)]
    folders = prepare(BatchFolder(tmp_path / "shelf"), jobs)

    def harm(attempt, other):
        os.kill(attempt["pid"], signal.SIGKILL)
        cluster.remove_node(node_of(cluster, other["pid"])[0], allow_graceful=False)

    engine = RayEngine(NEED, tmp_path / "shelf", stale_seconds=10)
    assert engine.slots == 2
    try:
        assert drive(folders, engine, listener=Once(folders[:2], harm), stale_seconds=10)
    finally:
        engine.close()
    assert {folder.state() for folder in folders} == {State.done}
    assert all(steps_of(folder) == list(range(1, 61)) for folder in folders)
    # All jobs of one prompt have the same result.
    assert len({state_of(folder) for folder in folders}) == 1
    assert [len(folder.attempts()) for folder in folders] == [2, 2, 1, 1]
    assert [folder.counted_failures() for folder in folders] == [1, 0, 0, 0]


def test_a_frozen_node_is_abandoned_and_may_recover(cluster, tmp_path):
    (folder,) = folders = prepare(BatchFolder(tmp_path / "shelf"), [job("slow thing", steps=40)])
    frozen: list[int] = []

    def freeze(attempt):
        _, raylet = node_of(cluster, attempt["pid"])
        frozen.extend([raylet, *descendants(raylet)])
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    engine = RayEngine(NEED, tmp_path / "shelf", stale_seconds=5)
    try:
        assert drive(folders, engine, listener=Once([folder], freeze), stale_seconds=5)
        done = folder.done_file.read_text()
        assert folder.result.path.name == "run-of-attempt-2"
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        time.sleep(3)
        engine.close()
    assert folder.done_file.read_text() == done and folder.attempts() == [1, 2]
    assert steps_of(folder) == list(range(1, 41))


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    found = [pid]
    for one in found:
        found += [child for child, parent in pairs if parent == one]
    return found[1:]


DRIVER = """
import sys, tests.helpers.fast_attempts as fast
from pathlib import Path
from dreamfusion.batch import attempt, driver
from dreamfusion.batch.engines import ResourceRequest
from dreamfusion.batch.engines.ray_engine import RayEngine
from dreamfusion.batch.jobs import BatchFolder
attempt.MODULE = "tests.helpers.fast_attempts"
shelf = BatchFolder(Path(sys.argv[1]))
jobs = [fast.job("slow thing", seed=seed, steps=50) for seed in range(3)]
with driver.driver_lock(shelf):
    driver.drive(driver.prepare(shelf, jobs), RayEngine(ResourceRequest(1, 2**26, 0), shelf.path))
"""


def test_a_batch_continues_after_its_driver_is_killed(steady, tmp_path):
    """Every job is done once, and each step is logged once."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    folders = [BatchFolder(tmp_path).folder(job("slow thing", seed=s, steps=50)) for s in range(3)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while sum(folder.run.metrics.is_file() for folder in folders) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0
    assert {folder.state() for folder in folders} == {State.done}
    assert all(steps_of(folder) == list(range(1, 51)) for folder in folders)
    assert len({state_of(folder) for folder in folders}) == 1
    assert sorted(len(folder.attempts()) for folder in folders) == [1, 2, 2]


def test_interrupted_training_equals_uninterrupted_training(steady, tmp_path, monkeypatch):
    """On Ray, with the process killed during training."""
    monkeypatch.setattr(attempts, "MODULE", "dreamfusion.cli.attempt")
    settings = {k: v for k, v in TINY.items() if k not in ("prompt", "steps")}
    small = {"video_frames": 1, "video_size": 16, "mesh_resolution": 16, "texture_size": 0}
    settings["output"] = {"checkpoint_every": 1, **small}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    prior = str(save_pixel_prior(tmp_path / "prior"))
    config = str(tmp_path / "small.yaml")
    options = Options(steps=25, config=config, prior=prior, device="cpu")
    (folder,) = prepare(
        BatchFolder(tmp_path / "shelf"), plan_jobs([Entry("here", "a red puppy")], options)
    )
    engine = RayEngine(NEED, tmp_path / "shelf")
    kill = Once([folder], lambda attempt: os.kill(attempt["pid"], signal.SIGKILL))
    try:
        assert drive([folder], engine, listener=kill)
    finally:
        engine.close()
    assert steps_of(folder) == list(range(1, 26)) and folder.attempts() == [1, 2]
    command = ["train", "a red puppy", "--steps", "25", "--config", config, "--prior", prior]
    command = [sys.executable, "-m", "dreamfusion", *command, "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = subprocess.run([*command, "--out", str(tmp_path / "alone")], cwd=ROOT, env=env)
    assert alone.returncode == 0
    name = "checkpoints/step_0000025.safetensors"
    one, two = load_file(folder.result.path / name), load_file(tmp_path / "alone" / name)
    assert one.keys() == two.keys() and all(bool((one[k] == two[k]).all()) for k in one)


def test_a_stop_is_forwarded_to_the_processes(steady, tmp_path):
    folders = prepare(
        BatchFolder(tmp_path / "shelf"),
        [job("slow thing", seed=seed, steps=4000) for seed in range(3)],
    )
    seen = []
    engine = RayEngine(NEED, tmp_path / "shelf")
    try:
        listener = Once(folders[:1], seen.append)
        assert not drive(folders, engine, listener=listener, stop=lambda: bool(seen))
    finally:
        engine.close()
    assert folders[0].state() is State.resumable
    assert read_json(folders[0].end_file(1))["code"] == 130
    assert not any(folder.counted_failures() for folder in folders)


def test_requests_that_no_node_can_satisfy_are_refused(steady, tmp_path):
    with pytest.raises(BatchError, match=r"none of the 3 nodes .* 4.0 GiB of memory"):
        RayEngine(ResourceRequest(1, 2**32, 0), tmp_path)
    with pytest.raises(BatchError, match="a GPU"):
        RayEngine(ResourceRequest(1, 2**20, 1), tmp_path)


def test_nodes_with_another_version_are_reported(steady, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion.batch.engines.ray_engine.__version__", "9.9")
    with pytest.raises(BatchError, match=r"has dreamfusion 0.* and version 9.9"):
        RayEngine(NEED, tmp_path)


def test_a_cluster_with_another_ray_is_reported(steady, tmp_path, monkeypatch):
    """Ray compares versions on connection, and rejects such nodes."""
    import ray

    monkeypatch.setattr(ray, "__version__", "9.9.9")
    with pytest.raises(BatchError, match=r"cannot connect to a Ray cluster .*9\.9\.9"):
        RayEngine(NEED, tmp_path)


def test_a_missing_cluster_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    with pytest.raises(BatchError, match=r"cannot connect to a Ray cluster at 127.0.0.1:6399"):
        RayEngine(NEED, tmp_path)
