"""A hub that is slow, broken or missing, and a live page that receives invalid requests."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from dreamfusion.runs.folder import RunFolder
from dreamfusion.studio.library import SingleRun
from dreamfusion.studio.server import Server, serving
from tests.helpers import ROOT


class BadHub:
    """A server that accepts every connection and then misbehaves according to `kind`."""

    def __init__(self, kind: str) -> None:
        self._kind, self._open = kind, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            if self._kind == "silent":
                continue
            connection.recv(1 << 16)
            if self._kind == "error":
                connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            elif self._kind == "nonsense":
                connection.sendall(random.Random(0).randbytes(300))
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            connection.close()
        self._thread.join()


ASK = """
import sys
from dreamfusion.priors import hub
hub.PATIENCE = 1.0  # seconds, for a test that does not take ten
from dreamfusion.cli.app import main
sys.exit(main(["train", "a corgi", "--prior", "some/model"]))
"""


@pytest.mark.parametrize("kind", ["silent", "error", "nonsense", "closed"])
def test_a_broken_hub_is_an_error_of_one_line_within_seconds(kind, tmp_path):
    hub = BadHub(kind)
    if kind == "closed":
        hub.close()
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    finally:
        if kind != "closed":
            hub.close()
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "some/model" in last
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    with serving(SingleRun(run), port=0) as server:
        yield server


def port_of(page) -> int:
    return int(page.url.rsplit(":", 1)[1].strip("/"))


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_page_listens_on_this_machine_only(page):
    assert page.url.startswith("http://127.0.0.1:")
    host = socket.gethostbyname(socket.gethostname())
    if host.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((host, port_of(page)), timeout=2)


@pytest.mark.parametrize(
    "path",
    ["/../../../../../../etc/passwd", "/..%2f..%2f..%2f..%2f..%2fetc/passwd", "//etc/passwd",
     "/assets/../../../../../../../etc/passwd", "/%00", "/" + "a" * 5000],
)  # fmt: skip
def test_the_page_serves_no_files_of_the_machine(page, path):
    try:
        status, content = get(port_of(page), path)
    except (http.client.HTTPException, OSError):  # a closed connection is also accepted
        return
    assert b"root:" not in content and status in (200, 400, 403, 404, 414, 500)


def test_the_page_survives_garbage(page):
    rng = random.Random(0)
    openings = [
        b"", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"\x16\x03\x01" * 99,
    ]  # fmt: skip
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", port_of(page)), timeout=5) as connection:
            connection.sendall(rng.choice(openings) + rng.randbytes(rng.randrange(400)))
            if rng.random() < 0.5:
                connection.settimeout(0.05)
                with contextlib.suppress(OSError):
                    connection.recv(1000)
    status, content = get(port_of(page), "/")
    assert status == 200 and b"<html" in content.lower()
