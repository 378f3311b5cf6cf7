"""The page: a thin wrapper of viser, an optional package that only this module imports.

viser runs its server in a separate thread. All callbacks here are coroutines that run in the event
loop of that thread. They only record the input of visitors, which `Stage.work` reads.
"""

import math
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import rich

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import SHOW_AMBIENT
from dreamfusion.runs.folder import step_of
from dreamfusion.utils.errors import UserError, one_line
from dreamfusion.viewer.meshes import ShownMesh
from dreamfusion.viewer.pose import Pose, light_of
from dreamfusion.viewer.stage import Choice, Pixels

HOST, PORT = "127.0.0.1", 8080
_KINDS = ("NeRF", "mesh")
_MODES = ("color", "normals", "depth", "textureless")
# The ambient light of rendered images is an sRGB value. three.js expects linear values, and its
# white surfaces reflect 1 / pi of the incoming light.
_AMBIENT = math.pi * SHOW_AMBIENT["color"] ** 2.2


class ViewerError(UserError):
    """The page cannot be served."""


class Page:
    """A page, served as soon as it is created; a `stage.Screen`.

    host: the address to listen at; 127.0.0.1 accepts connections from this machine only. port: None
    takes the first free port from 8080, 0 any free port; another value must be free. Raises
    ViewerError.
    """

    def __init__(self, title: str, *, host: str = HOST, port: int | None = None) -> None:
        try:
            import viser
        except ImportError as error:
            raise ViewerError(
                f"the page needs viser ({one_line(error)}): pip install 'dreamfusion[viewer]'"
            ) from None
        port = _free_port(host, port)
        with _silent():
            self._server: Any = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        # Disable viser's public tunnel, which visitors could request.
        self._server.request_share_url = lambda verbose=True: None
        self._poses: dict[int, Pose] = {}
        self._lights: dict[int, Any] = {}
        self._previews: list[Path] = []
        self._glb: Any = None
        self.woken = threading.Event()
        self._add_controls()
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)

    @property
    def url(self) -> str:
        """Address of the page."""
        host = self._server.get_host()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.get_port()}"

    def close(self) -> None:
        """Stop serving."""
        with _silent():
            self._server.stop()

    def start_at(self, camera: Cameras) -> None:
        """Set the initial camera of new visitors to this position, looking at the origin."""
        first = self._server.initial_camera
        first.position = tuple(camera.positions[0].tolist())
        first.look_at = (0.0, 0.0, 0.0)
        first.fov = math.radians(float(camera.fov_y_deg[0]))

    def status(self, text: str) -> None:
        """Show the status of the run, in Markdown."""
        if self._status.content != text:
            self._status.content = text

    def offer_previews(self, paths: Sequence[Path]) -> None:
        """Set the images of the slider. If it shows the newest image, it moves to the new one."""
        if not paths or list(paths) == self._previews:
            return
        at_end = self._slider.value >= len(self._previews) - 1
        self._previews = list(paths)
        self._slider.max = len(paths) - 1
        self._slider.visible = self._preview.visible = True
        if at_end:
            self._slider.value = len(paths) - 1
        self._put_preview()

    # Implementation of `stage.Screen`.

    def visitors(self) -> Mapping[int, Pose]:
        return self._poses.copy()

    def choice(self) -> Choice:
        kind = "nerf" if self._kind.value == "NeRF" else "mesh"
        return Choice(kind, self._mode.value, float(self._octaves.value))  # type: ignore[arg-type]

    def show_image(self, visitor: int, image: Pixels) -> None:
        client = self._server.get_clients().get(visitor)
        if client is not None:
            client.scene.set_background_image(image, format="png")

    def show_mesh(self, mesh: ShownMesh | None) -> None:
        if self._glb is not None:
            self._glb.remove()
            self._glb = None
        if mesh is not None:
            self._glb = self._server.scene.add_glb(
                "/mesh",
                glb_data=mesh.glb,
                position=mesh.position,
                cast_shadow=False,
                receive_shadow=False,
            )

    def say(self, text: str) -> None:
        self._note.content = text

    def _add_controls(self) -> None:
        """Create the controls and lights of the page."""
        gui, scene = self._server.gui, self._server.scene
        scene.set_up_direction("+y")
        scene.world_axes.visible = False
        scene.configure_default_lights(False)
        scene.configure_environment_map(None)
        scene.add_light_ambient("/ambient", intensity=_AMBIENT)
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        self._status = gui.add_markdown("")
        self._kind = gui.add_dropdown("show", _KINDS, initial_value="NeRF")
        self._mode = gui.add_dropdown("mode", _MODES, initial_value="color")
        self._octaves = gui.add_slider(
            "threshold",
            min=-4.0,
            max=4.0,
            step=0.25,
            initial_value=0.0,
            hint="The mesh's density, in powers of two relative to the automatic one",
        )
        self._note = gui.add_markdown("")
        self._slider = gui.add_slider(
            "preview", min=0, max=1, step=1, initial_value=0, visible=False, hint="Earlier steps"
        )
        self._preview = gui.add_image(
            np.full((8, 8, 3), 255, np.uint8), label="", format="png", visible=False
        )
        for control in (self._kind, self._mode, self._octaves):
            control.on_update(self._wake)
        self._slider.on_update(self._on_slider)

    async def _wake(self, event: Any) -> None:
        self.woken.set()

    async def _on_slider(self, event: Any) -> None:
        self._put_preview()

    def _put_preview(self) -> None:
        path = self._previews[min(int(self._slider.value), len(self._previews) - 1)]
        try:
            image = imageio.imread(path)[..., :3]
        except (OSError, ValueError):
            return  # another process deleted it
        self._preview.label = f"step {step_of(path)}"
        self._preview.image = image

    async def _connect(self, client: Any) -> None:
        """Track the camera of a new visitor, and create a light for it."""
        self._lights[client.client_id] = client.scene.add_light_point(
            "/light", intensity=math.pi - _AMBIENT, decay=0.0
        )
        client.camera.on_update(self._update_pose)
        await self._update_pose(client.camera)

    async def _update_pose(self, camera: Any) -> None:
        # Runs in the event loop, so that the camera does not change while it is read.
        if camera.image_height <= 0 or camera.image_width <= 0:
            return
        w, x, y, z = camera.wxyz.tolist()
        at = camera.position.tolist()
        pose = Pose((w, x, y, z), (at[0], at[1], at[2]), float(camera.fov), float(camera.aspect))
        visitor = camera.client.client_id
        if visitor in self._lights and self._poses.get(visitor) != pose:
            self._lights[visitor].position = light_of(pose)
            self._poses[visitor] = pose
            self.woken.set()

    async def _disconnect(self, client: Any) -> None:
        self._lights.pop(client.client_id, None)
        self._poses.pop(client.client_id, None)


def _free_port(host: str, port: int | None) -> int:
    """Find a free port. Without this check, viser might silently use another port. Raises
    ViewerError."""
    candidates = range(PORT, PORT + 100) if port is None else [port]
    for number in candidates:
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return int(probe.getsockname()[1])
        except socket.gaierror as error:
            raise ViewerError(f"cannot listen at {host}: {one_line(error)}") from None
        except OSError as error:
            problem = error.strerror or str(error)
    raise ViewerError(
        f"cannot listen at {host}, port {port}: {problem}; choose another with --port, or 0 for "
        "any free one"
        if port is not None
        else f"cannot listen at {host}, ports {candidates[0]} to {candidates[-1]}: {problem}"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress viser's output when it starts and stops."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
