"""Serves the page over HTTP: who may ask, and which function answers.

Without a token the server listens at this machine only, and answers requests that name it so. With
a token, the address of the page begins with it. Requests from pages of other origins are refused,
and so are bodies that are not small JSON objects, before they are parsed.
"""

import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from dreamfusion.report.model import MOST_FACES, ModelError, pack, read_model
from dreamfusion.runs.folder import RunFolder
from dreamfusion.studio.library import Library, RequestError
from dreamfusion.utils.errors import UserError, one_line

# A media type, content, and the file name if the content is to be saved.
Answer = tuple[str, bytes, str | None]

HOST, PORT = "127.0.0.1", 8080
MOST_BYTES = 64_000  # of the body of a request
_PAGE = {
    "": ("text/html", files("dreamfusion.studio").joinpath("page/index.html")),
    "studio.css": ("text/css", files("dreamfusion.studio").joinpath("page/studio.css")),
    "studio.js": ("text/javascript", files("dreamfusion.studio").joinpath("page/studio.js")),
    "viewer.js": ("text/javascript", files("dreamfusion.report").joinpath("viewer.js")),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
}


class ServerError(UserError):
    """The page cannot be served."""


class Server(ThreadingHTTPServer):
    """Serves a library as soon as it is created; call `close` to stop.

    host: the address to listen at; other addresses than this machine's own need a token, which is
    made and part of `url`. port: None takes the first free port from 8080, 0 any free port; another
    value must be free. Raises ServerError.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, library: Library, *, host: str = HOST, port: int | None = None) -> None:
        self.library = library
        self.token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host, problem = host, ""
        for number in range(PORT, PORT + 100) if port is None else [port]:
            try:
                super().__init__((host, number), _Handler)
                break
            except OSError as error:
                problem = error.strerror or one_line(error)
        else:
            where = f"port {port}" if port is not None else f"ports {PORT} to {PORT + 99}"
            raise ServerError(
                f"cannot listen at {host}, {where}: {problem}; choose another --port (0: any free "
                "one) or --host"
            )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/" + (f"{self.token}/" if self.token else "")

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore visitors who left before their answer was sent; report everything else."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


@contextmanager
def serving(library: Library, *, host: str = HOST, port: int | None = None) -> Iterator[Server]:
    """Serve a library during the block. Raises ServerError; see `Server`."""
    server = Server(library, host=host, port=port)
    try:
        yield server
    finally:
        server.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "dreamfusion"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        if (path := self._allowed_path()) is not None:
            self._answer(lambda: self._get(path))

    def do_POST(self) -> None:
        path = self._allowed_path()
        content_type = self.headers.get("Content-Type", "").partition(";")[0]
        length = self.headers.get("Content-Length", "")
        if path is None:
            return
        if content_type != "application/json" or not length.isdecimal():
            return self._refuse(HTTPStatus.BAD_REQUEST, "send JSON")
        if int(length) > MOST_BYTES:
            return self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {MOST_BYTES} bytes"
            )
        body = self.rfile.read(int(length))
        self._answer(lambda: self._post(path, body))

    def _allowed_path(self) -> str | None:
        """The path of a request without the token; None after a refusal."""
        own = self.headers.get("Host", "")
        origin = self.headers.get("Origin", f"http://{own}")
        site = self.headers.get("Sec-Fetch-Site", "none")
        navigates = self.headers.get("Sec-Fetch-Mode") == "navigate" and self.command == "GET"
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        problem = ""
        if self.server.token:
            given, _, path = path.partition("/")
            if not hmac.compare_digest(given.encode(), self.server.token.encode()):
                problem = "the address lacks the token"
        elif not _is_loopback(urlsplit(f"//{own}").hostname or ""):
            problem = "this page is for this machine only"
        foreign = site not in ("same-origin", "none") and not navigates
        if foreign or origin.lower() != f"http://{own}".lower():
            problem = "requests of other pages are refused"
        if problem:
            self._refuse(HTTPStatus.FORBIDDEN, problem)
        return None if problem else path

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # the body, if any, is not read
        self._send(status, "application/json", json.dumps({"error": text}).encode())

    def _answer(self, call: Callable[[], Answer]) -> None:
        """Send the answer that `call` returns, or its error."""
        try:
            kind, content, name = call()
        except RequestError as error:
            return self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except (UserError, OSError) as error:
            return self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(error, 1000))
        self._send(HTTPStatus.OK, kind, content, name)

    def _get(self, path: str) -> Answer:
        if path in _PAGE:
            kind, file = _PAGE[path]
            return f"{kind}; charset=utf-8", file.read_bytes(), None
        if path == "state":
            return "application/json", json.dumps(self.server.library.state()).encode(), None
        kind, _, rest = path.partition("/")
        name, _, file_name = rest.partition("/")
        run = self.server.library.run(name)
        if kind == "preview" and (previews := run.preview_files()):
            return "image/png", _read(run, previews[-1]), None
        if kind == "thumbnail":
            return "image/png", _read(run, run.thumbnail), None
        if kind == "model":
            model = run.mesh / "model.glb"
            return "application/json", _packed(model, model.stat().st_mtime_ns), None
        # Only files that an export wrote, by their names.
        if kind == "download" and file_name in {file.name for file in run.mesh.glob("*.*")}:
            return "application/octet-stream", _read(run, run.mesh / file_name), file_name
        raise RequestError(f"there is no page {one_line(path, 80)}")

    def _post(self, path: str, body: bytes) -> Answer:
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError("the body is not JSON") from None
        if not isinstance(asked, dict):
            raise RequestError("the body is not an object")
        answer = self.server.library.act(path, asked)
        return "application/json", json.dumps(answer).encode(), None

    def _send(
        self, status: HTTPStatus, kind: str, content: bytes, save_as: str | None = None
    ) -> None:
        self.send_response(status)
        for key, value in _HEADERS.items():
            self.send_header(key, value)
        if save_as is not None:
            self.send_header(
                "Content-Disposition", f"attachment; filename*=UTF-8''{quote(save_as)}"
            )
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _read(run: RunFolder, path: Path) -> bytes:
    """A file of a run. Raises RequestError for a link that leads out of its folder."""
    if not path.resolve().is_relative_to(run.path.resolve()):
        raise RequestError(f"{path.name} is outside of the run")
    return path.read_bytes()


@lru_cache(maxsize=32)
def _packed(path: Path, changed_ns: int) -> bytes:
    """The mesh of a file for viewer.js, as JSON. changed_ns: time of its last change."""
    try:
        model = read_model(path)
    except ModelError as error:
        raise UserError(f"{path.name} cannot be read: {error}") from None
    if len(model.faces) > MOST_FACES:
        raise UserError(f"{path.name} has too many faces for a browser")
    return json.dumps(pack(model)).encode()
