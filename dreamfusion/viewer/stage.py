"""Schedules the rendering for the page: what to render next, for which visitor, at which size.

This module starts no threads. The owner of the scene calls `Stage.work` in the thread that also
changes the scene, so that no locks are needed: `dreamfusion view` in a loop, training between
steps.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.graphics.media import to_bytes
from dreamfusion.graphics.shading import over
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.runs.checkpoint import SavedScene
from dreamfusion.scenes.base import render_image
from dreamfusion.utils.errors import UserError
from dreamfusion.viewer.meshes import ShownMesh, extracted
from dreamfusion.viewer.pose import Pose, cameras_of

Kind = Literal["nerf", "mesh"]
Mode = Literal["color", "normals", "depth", "textureless"]
Pixels = NDArray[np.uint8]

MOVING_SECONDS = 0.12  # maximum time for one frame while the camera moves
AT_REST = 0.25  # seconds without a change after which a camera counts as still
DEBOUNCE = 0.4  # seconds without a change after which a new threshold is applied
MIN_HEIGHT, MAX_HEIGHT = 48, 512  # of an image, pixels


@dataclass(frozen=True)
class Choice:
    """The view options, shared by all visitors. octaves: the mesh's density threshold, in powers of
    two above the automatic threshold of the scene."""

    kind: Kind = "nerf"
    mode: Mode = "color"
    octaves: float = 0.0


class Screen(Protocol):
    """Interface that a stage requires from the page; implemented by `page.Page`."""

    def visitors(self) -> Mapping[int, Pose]:
        """The current cameras of all visitors."""

    def choice(self) -> Choice:
        """The current view options."""

    def show_image(self, visitor: int, image: Pixels) -> None:
        """Set the background image, (h, w, 3), of one visitor's view."""

    def show_mesh(self, mesh: ShownMesh | None) -> None:
        """Show this mesh, in colour, to all visitors; None removes it."""

    def say(self, text: str) -> None:
        """Show a line of text about the mesh."""


@dataclass
class _Visit:
    """A visitor's camera and image. since: time of the last change of the camera. key: identifies
    the content of the image. height: of the image, pixels. drawn: time of the image."""

    pose: Pose
    since: float
    key: tuple[object, ...] | None = None
    height: int = 0
    drawn: float = -math.inf


class Stage:
    """Updates the images of all visitors and the mesh of a scene, in small pieces of work.

    rest_seconds: maximum time for one image while nothing moves. own_model: returns the run's
    exported mesh of a step, if any, which is preferred to an extracted one.
    """

    def __init__(
        self,
        screen: Screen,
        config: Config,
        *,
        rest_seconds: float = 1.5,
        own_model: Callable[[int], ShownMesh | None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._config, self._clock = screen, config, clock
        self._rest_seconds, self._own_model = rest_seconds, own_model
        self._saved: SavedScene | None = None
        self._visits: dict[int, _Visit] = {}
        self._choice, self._chosen_at = Choice(), -math.inf
        self._mesh: ShownMesh | None = None
        self._mesh_key: tuple[int, float] | None = None
        self._visible_mesh: ShownMesh | None = None
        self._threshold: tuple[int, float | None] | None = None
        self._rates: dict[Kind, float] = {}

    def show(self, saved: SavedScene) -> None:
        """Set the scene to show. Images are outdated if its step differs from the previous one."""
        self._saved = saved

    def work(self) -> bool:
        """Do the most urgent piece of work. Returns False if there is none.

        In order of priority: a rough image for visitors with an outdated image, the mesh, and a
        sharper image for visitors whose camera is still.
        """
        if self._saved is None:
            return False
        now = self._clock()
        self._read_input(now)
        if not self._visits:
            return False
        self._update_mesh()
        # Serve the visitor who has waited longest first.
        self._visits = dict(sorted(self._visits.items(), key=lambda item: item[1].drawn))
        return self._rough_image(now) or self._new_mesh(now) or self._sharper_image(now)

    def _read_input(self, now: float) -> None:
        """Read the cameras of all visitors, and the view options."""
        poses = dict(self._screen.visitors())
        self._visits = {visitor: v for visitor, v in self._visits.items() if visitor in poses}
        for visitor, pose in poses.items():
            visit = self._visits.setdefault(visitor, _Visit(pose, -math.inf))
            if visit.pose != pose:
                visit.pose, visit.since = pose, now
        choice = self._screen.choice()
        if choice.octaves != self._choice.octaves:
            self._chosen_at = now
        self._choice = choice

    def _key(self, visit: _Visit) -> tuple[object, ...]:
        """Identifies the content of a visitor's image."""
        choice, saved = self._choice, self._saved
        assert saved is not None
        if choice.kind == "nerf":
            return visit.pose, "nerf", choice.mode, saved.step
        if choice.mode == "color" or self._mesh is None:  # three.js renders the coloured mesh
            return ("plain",)
        return visit.pose, "mesh", choice.mode, self._mesh_key

    def _rough_image(self, now: float) -> bool:
        for visitor, visit in self._visits.items():
            key = self._key(visit)
            if visit.key == key:
                continue
            # If only the scene has changed, keep the resolution of the last image.
            same_view = visit.key is not None and visit.key[:-1] == key[:-1]
            height = self._height(visit.pose, MOVING_SECONDS)
            if same_view and now - visit.since >= AT_REST:
                height = max(height, min(2 * visit.height, self._finest(visit)))
            self._draw(visitor, visit, key, height)
            return True
        return False

    def _sharper_image(self, now: float) -> bool:
        for visitor, visit in self._visits.items():
            finest = self._finest(visit)
            if now - visit.since < AT_REST or finest < 1.25 * visit.height:
                continue
            self._draw(visitor, visit, self._key(visit), min(2 * visit.height, finest))
            return True
        return False

    def _draw(self, visitor: int, visit: _Visit, key: tuple[object, ...], height: int) -> None:
        visit.drawn = self._clock()
        if key[0] == "plain":
            plain = to_bytes(torch.tensor(self._config.background.color))
            self._screen.show_image(visitor, np.tile(plain, (2, 2, 1)))
            visit.key, visit.height = key, MAX_HEIGHT
            return
        started = self._clock()
        width = max(8, round(height * visit.pose.aspect))
        image = self._render(visit.pose, height, width)
        if not bool(image.isfinite().all()):
            self._screen.say("the scene is not finite: the run has diverged")
            image = image.nan_to_num(0.5)
        self._screen.show_image(visitor, to_bytes(image))
        visit.key, visit.height = key, height
        rate = height * width / max(self._clock() - started, 1e-3)
        before = self._rates.get(self._choice.kind)
        # Ignore the duration of the first image, which includes compilation.
        self._rates[self._choice.kind] = 3e4 if before is None else 0.5 * (before + rate)

    def _render(self, pose: Pose, height: int, width: int) -> Tensor:
        camera, mode, saved = cameras_of(pose), self._choice.mode, self._saved
        assert saved is not None
        if self._choice.kind == "mesh" and self._mesh is not None:
            rgba = render_mesh(self._mesh.mesh, camera, height=height, width=width, mode=mode)
        else:
            rgba = render_image(saved.scene, camera, height=height, width=width, mode=mode)
        return over(rgba[0], torch.tensor(self._config.background.color))

    def _height(self, pose: Pose, seconds: float) -> int:
        """The height of an image that takes about this long, predicted from the last images."""
        rate = self._rates.get(self._choice.kind, 3e4)
        height = math.sqrt(rate * seconds / max(pose.aspect, 0.1))
        return min(MAX_HEIGHT, max(MIN_HEIGHT, int(height) // 8 * 8))

    def _finest(self, visit: _Visit) -> int:
        return self._height(visit.pose, self._rest_seconds)

    def _new_mesh(self, now: float) -> bool:
        """Extract the requested mesh, once its threshold has stopped changing."""
        saved = self._saved
        assert saved is not None
        key = (saved.step, self._choice.octaves)
        waiting = now - self._chosen_at < DEBOUNCE
        if self._choice.kind != "mesh" or key == self._mesh_key or waiting:
            return False
        self._screen.say("extracting the mesh …")
        try:
            self._mesh = self._requested_mesh(saved)
            self._screen.say(self._mesh.name)
        except UserError as error:
            self._mesh = None
            self._screen.say(str(error))
        self._mesh_key = key
        self._update_mesh()
        return True

    def _requested_mesh(self, saved: SavedScene) -> ShownMesh:
        octaves = self._choice.octaves
        model = self._own_model(saved.step) if octaves == 0.0 else None
        if model is not None:
            return model
        known = self._threshold
        if known is None or known[0] != saved.step:
            mesh, found = extracted(saved, None)
            self._threshold = known = saved.step, found
            if octaves == 0.0 or found is None:
                return mesh
        density = known[1]  # None if the scene has none
        return extracted(saved, None if density is None else density * 2.0**octaves)[0]

    def _update_mesh(self) -> None:
        """Show the coloured mesh if it is selected, else hide it."""
        mesh = self._mesh if (self._choice.kind, self._choice.mode) == ("mesh", "color") else None
        if mesh is not self._visible_mesh:
            self._screen.show_mesh(mesh)
            self._visible_mesh = mesh
