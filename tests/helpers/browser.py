"""Controls a headless Chromium through its DevTools protocol, for tests of pages."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def find_chromium() -> str | None:
    """The path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page in a separate browser; a context manager. profile: an empty folder."""

    def __init__(self, url: str, profile: Path, *, size: tuple[int, int] = (1400, 600)) -> None:
        chromium = find_chromium()
        assert chromium is not None
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = (profile.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self.problems: list[str] = []
        self._count = 0
        port_file = profile / "DevToolsActivePort"
        try:
            self.wait(lambda: port_file.exists() and "\n" in port_file.read_text(), "its port")
            port = port_file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(found for found in json.load(answer) if found["type"] == "page")
            from websockets.sync.client import connect

            self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
            self.send("Runtime.enable")
            self.send("Page.enable")
            width, height = size
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.send("Emulation.setDeviceMetricsOverride", **metrics)
            self.send("Page.navigate", url=url)
        except BaseException:
            self._process.kill()
            raise

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, code: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=code, returnByValue=True)["result"]
        return result.get("value")

    def wait(self, done: Callable[[], Any], what: str, seconds: float = 120) -> Any:
        """Wait until `done` returns a true value, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = done()
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"the browser never had {what}")

    def screenshot(self) -> NDArray[np.uint8]:
        """A screenshot of the page, (height, width, 3)."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0) -> None:
        """Send a mouse event of the left button: mousePressed, mouseMoved or mouseReleased."""
        button = "left" if buttons or kind == "mouseReleased" else "none"
        self.send(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1,
        )  # fmt: skip

    def click(self, selector: str, text: str | None = None) -> None:
        """Click the middle of the first visible element with that selector and text."""
        condition = "true" if text is None else f"e.textContent.trim() === {json.dumps(text)}"
        code = f"""(() => {{
            for (const e of document.querySelectorAll({json.dumps(selector)})) {{
                const box = e.getBoundingClientRect();
                if (box.width > 0 && {condition})
                    return [box.x + box.width / 2, box.y + box.height / 2];
            }}
        }})()"""
        x, y = self.wait(lambda: self.evaluate(code), f"{selector} {text or ''}")
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, 1)
        self.mouse("mouseReleased", x, y)

    def choose(self, before: str, after: str) -> None:
        """Choose another option of the dropdown that shows `before`."""
        code = f"""(() => {{
            for (const e of document.querySelectorAll('input'))
                if (e.value === {json.dumps(before)}) {{ e.id = 'wanted-' + e.value; return e.id; }}
        }})()"""
        found = self.wait(lambda: self.evaluate(code), f"a dropdown at {before}")
        self.click(f"#{found}")
        self.click("[role=option]", after)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
