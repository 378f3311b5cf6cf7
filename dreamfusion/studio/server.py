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
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from dreamfusion.runs.folder import RunFolder
from dreamfusion.studio.library import Library, RequestError, Studio
from dreamfusion.utils.errors import UserError, one_line

# A media type, content, and the file name if the content is to be saved.
Answer = tuple[str, bytes, str | None]

HOST, PORT = "127.0.0.1", 8080
MOST_BYTES = 64_000  # of the body of a request
MOST_UPLOADED = 64_000_000  # bytes of a mesh
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


class Server(ThreadingHTTPServer):
    """Serves a library; see `serving`. token: of its address; "" for this machine only."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, library: Library, host: str, port: int | None) -> None:
        self.library = library
        self.token = "" if _is_loopback(host) else secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host, problem = host, ""
        for number in range(PORT, PORT + 100) if port is None else [port]:
            try:
                super().__init__((host, number), _Handler)
                return
            except OSError as error:
                problem = error.strerror or one_line(error)
        where = f"port {port}" if port is not None else f"ports {PORT} to {PORT + 99}"
        raise UserError(
            f"cannot listen at {host}, {where}: {problem}; choose another --port (0: any free one) "
            "or --host"
        )

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/" + (f"{self.token}/" if self.token else "")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore visitors who left before their answer was sent; report everything else."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


@contextmanager
def serving(library: Library, *, host: str = HOST, port: int | None = None) -> Iterator[Server]:
    """Serve a library during the block.

    host: the address to listen at; other addresses than this machine's own need a token, which is
    made and part of `Server.url`. port: None takes the first free port from 8080, 0 any free port;
    another value must be free. Raises UserError.
    """
    with Server(library, host, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


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
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, answer: Callable[[str], Answer]) -> None:
        """Send the answer to the requested path, or its error."""
        try:
            kind, content, save_as = answer(self._allowed_path())
            status = HTTPStatus.OK
        except (UserError, OSError) as error:
            self.close_connection = True  # the body, if any, may not have been read
            status = getattr(error, "status", HTTPStatus.UNPROCESSABLE_ENTITY)
            kind, content, save_as = _json({"error": one_line(error, 1000)})
        headers = _HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}
        if save_as is not None:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(save_as)}"
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def _allowed_path(self) -> str:
        """The path of a request without the token. Raises RequestError if it is refused."""
        own = self.headers.get("Host", "")
        origin = self.headers.get("Origin", f"http://{own}")
        site = self.headers.get("Sec-Fetch-Site", "none")
        navigates = self.headers.get("Sec-Fetch-Mode") == "navigate" and self.command == "GET"
        foreign = site not in ("same-origin", "none") and not navigates
        path, problem = unquote(urlsplit(self.path).path).removeprefix("/"), ""
        if self.server.token:
            given, _, path = path.partition("/")
            if not hmac.compare_digest(given.encode(), self.server.token.encode()):
                problem = "the address lacks the token"
        elif not _is_loopback(urlsplit(f"//{own}").hostname or ""):
            problem = "this page is for this machine only"
        if foreign or origin.lower() != f"http://{own}".lower():
            problem = "requests of other pages are refused"
        if problem:
            raise RequestError(problem, HTTPStatus.FORBIDDEN)
        return path

    def _get(self, path: str) -> Answer:
        if path in _PAGE:
            kind, file = _PAGE[path]
            return f"{kind}; charset=utf-8", file.read_bytes(), None
        if path == "state":
            return _json(self.server.library.state())
        kind, _, rest = path.partition("/")
        name, _, file_name = rest.partition("/")
        run = self.server.library.run(name)
        if kind == "preview" and (previews := run.preview_files()):
            return "image/png", _read(run, previews[-1]), None
        if kind == "thumbnail":
            return "image/png", _read(run, run.thumbnail), None
        if kind == "model":
            return "model/gltf-binary", _read(run, run.mesh / "model.glb"), None
        # Only files that an export wrote, by their names.
        if kind == "download" and file_name in {file.name for file in run.mesh.glob("*.*")}:
            return "application/octet-stream", _read(run, run.mesh / file_name), file_name
        raise RequestError(f"there is no page {one_line(path, 80)}")

    def _post(self, path: str) -> Answer:
        kind, _, name = path.partition("/")
        library = self.server.library
        if kind == "upload" and isinstance(library, Studio):
            content = self._body("application/octet-stream", MOST_UPLOADED)
            return _json(library.upload(name, content))
        try:
            asked = json.loads(self._body("application/json", MOST_BYTES))
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise RequestError("the body is not an object in JSON")
        return _json(library.act(path, asked))

    def _body(self, content_type: str, most: int) -> bytes:
        """The body of a request. Raises RequestError for another type or too many bytes."""
        length = self.headers.get("Content-Length", "")
        found = self.headers.get("Content-Type", "").partition(";")[0]
        if found != content_type or not length.isdecimal():
            raise RequestError(f"send {content_type}", HTTPStatus.BAD_REQUEST)
        if int(length) > most:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise RequestError(f"send at most {most:,} bytes", status)
        return self.rfile.read(int(length))


def _json(content: Any) -> Answer:
    return "application/json", json.dumps(content).encode(), None


def _read(run: RunFolder, path: Path) -> bytes:
    """A file of a run. Raises RequestError for a link that leads out of its folder."""
    if not path.resolve().is_relative_to(run.path.resolve()):
        raise RequestError(f"{path.name} is outside of the run")
    return path.read_bytes()
