"""Schedules the rendering of the page: what to render next, for which visitor, at which size.

Nothing here starts a thread. The owner of the scene calls `Stage.work` in the thread that also
changes the scene, so that no locks are needed: `dreamfusion view` in a loop, training between two
steps.
"""

from __future__ import annotations

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

MOVING_SECONDS = 0.12  # longest time for one frame while the camera moves
AT_REST = 0.25  # seconds without a change after which a camera counts as resting
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
    """The page as a stage uses it; implemented by `page.Page`, and by a fake in tests."""

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
    """One visitor's image: its content (`key`), height in pixels and time; and the time since which
    the camera rests."""

    pose: Pose
    since: float
    key: tuple[object, ...] | None = None
    height: int = 0
    drawn: float = -math.inf


class Stage:
    """Updates every visitor's image and the mesh of a scene, in small pieces of work.

    rest_seconds: longest time for one image while nothing moves. own_model: returns the run's own
    mesh of a step, if there is one; it is preferred to an extracted one.
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
        self._standing: ShownMesh | None = None
        self._threshold: tuple[int, float | None] | None = None
        self._rates: dict[Kind, float] = {}

    def show(self, saved: SavedScene) -> None:
        """Show this scene from now on; another step counts as a change."""
        self._saved = saved

    def work(self) -> bool:
        """Do the most urgent piece of work; returns False if there was none.

        First comes a rough image for visitors with an outdated one, then the mesh, then sharper
        images for visitors whose camera rests.
        """
        if self._saved is None:
            return False
        now = self._clock()
        self._notice(now)
        if not self._visits:
            return False
        self._stand_mesh()
        # The visitor who has waited longest comes first.
        self._visits = dict(sorted(self._visits.items(), key=lambda item: item[1].drawn))
        return self._rough_image(now) or self._new_mesh(now) or self._sharper_image(now)

    def _notice(self, now: float) -> None:
        """Read the cameras of all visitors, and the view options."""
        poses = dict(self._screen.visitors())
        self._visits = {who: visit for who, visit in self._visits.items() if who in poses}
        for who, pose in poses.items():
            visit = self._visits.setdefault(who, _Visit(pose, -math.inf))
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
        if choice.mode == "color" or self._mesh is None:  # the scene shows it on a plain page
            return ("plain",)
        return visit.pose, "mesh", choice.mode, self._mesh_key

    def _rough_image(self, now: float) -> bool:
        for who, visit in self._visits.items():
            key = self._key(visit)
            if visit.key == key:
                continue
            # If only the scene has changed, the image does not start from a rough one again.
            same_view = visit.key is not None and visit.key[:-1] == key[:-1]
            height = self._height(visit.pose, MOVING_SECONDS)
            if same_view and now - visit.since >= AT_REST:
                height = max(height, min(2 * visit.height, self._finest(visit)))
            self._draw(who, visit, key, height)
            return True
        return False

    def _sharper_image(self, now: float) -> bool:
        for who, visit in self._visits.items():
            finest = self._finest(visit)
            if now - visit.since < AT_REST or finest < 1.25 * visit.height:
                continue
            self._draw(who, visit, self._key(visit), min(2 * visit.height, finest))
            return True
        return False

    def _draw(self, who: int, visit: _Visit, key: tuple[object, ...], height: int) -> None:
        visit.drawn = self._clock()
        if key[0] == "plain":
            plain = to_bytes(torch.tensor(self._config.background.color))
            self._screen.show_image(who, np.tile(plain, (2, 2, 1)))
            visit.key, visit.height = key, MAX_HEIGHT
            return
        started = self._clock()
        width = max(8, round(height * visit.pose.aspect))
        image = self._render(visit.pose, height, width)
        if not bool(image.isfinite().all()):
            self._screen.say("the scene is not finite: the run has diverged")
            image = image.nan_to_num(0.5)
        self._screen.show_image(who, to_bytes(image))
        visit.key, visit.height = key, height
        rate = height * width / max(self._clock() - started, 1e-3)
        before = self._rates.get(self._choice.kind)
        # The first image includes compilation: its duration is not representative.
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
        """The height of an image that takes this long, predicted from the last ones."""
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
            self._mesh = self._wanted_mesh(saved)
            self._screen.say(self._mesh.name)
        except UserError as error:
            self._mesh = None
            self._screen.say(str(error))
        self._mesh_key = key
        self._stand_mesh()
        return True

    def _wanted_mesh(self, saved: SavedScene) -> ShownMesh:
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
        if known[1] is None:  # the scene has no density
            return extracted(saved, None)[0]
        return extracted(saved, known[1] * 2.0**octaves)[0]

    def _stand_mesh(self) -> None:
        """Show the mesh in the scene if colour is selected; hide it in other modes."""
        wanted = self._choice.kind == "mesh" and self._choice.mode == "color"
        mesh = self._mesh if wanted else None
        if mesh is not self._standing:
            self._screen.show_mesh(mesh)
            self._standing = mesh
