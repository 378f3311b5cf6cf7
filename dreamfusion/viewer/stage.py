"""What is drawn next, for whom, how sharply: the page without the browser.

Nothing here starts a thread. Whoever owns the scene calls `Stage.work` when it has time, in the
thread that also changes the scene, so that there is nothing to lock: `dreamfusion view` in a loop,
training between two steps.
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

MOVING_SECONDS = 0.12  # what one frame may take while the camera moves
AT_REST = 0.25  # seconds without a change until a camera rests
DEBOUNCE = 0.4  # seconds without a change until the mesh follows its threshold
MIN_HEIGHT, MAX_HEIGHT = 48, 512  # of a picture, pixels


@dataclass(frozen=True)
class Choice:
    """What visitors chose to see, all the same. octaves: the mesh's density threshold, in powers
    of two above the one that is found for the scene."""

    kind: Kind = "nerf"
    mode: Mode = "color"
    octaves: float = 0.0


class Screen(Protocol):
    """What a stage needs of a page; `page.Page` is one, tests have another."""

    def visitors(self) -> Mapping[int, Pose]:
        """Where everyone who looks stands now."""

    def choice(self) -> Choice:
        """What they want to see now."""

    def show_image(self, visitor: int, picture: Pixels) -> None:
        """Put a picture, (h, w, 3), behind everything in one visitor's view."""

    def show_mesh(self, mesh: ShownMesh | None) -> None:
        """Stand this mesh in everyone's scene, in colour, or none."""

    def say(self, text: str) -> None:
        """What there is to know of the mesh, in a line."""


@dataclass
class _Visit:
    """One visitor's picture: of what it is (`key`), how high in pixels, when it was drawn; and
    since when the camera stands still."""

    pose: Pose
    since: float
    key: tuple[object, ...] | None = None
    height: int = 0
    drawn: float = -math.inf


class Stage:
    """Keeps every visitor's picture and the mesh up to date with a scene, piece by piece.

    rest_seconds: what one picture may take when nothing moves. own_model: gives the run's own
    mesh of a step, where there is one, to be shown before any other.
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
        """Look at this scene from now on; one of another step counts as changed."""
        self._saved = saved

    def work(self) -> bool:
        """Do the most urgent piece of work; False where there was none.

        First a rough picture for whoever has an outdated one, then the mesh, then sharper pictures
        for those who stand still.
        """
        if self._saved is None:
            return False
        now = self._clock()
        self._notice(now)
        if not self._visits:
            return False
        self._stand_mesh()
        # Who has waited longest comes first.
        self._visits = dict(sorted(self._visits.items(), key=lambda item: item[1].drawn))
        return self._rough_image(now) or self._new_mesh(now) or self._sharper_image(now)

    def _notice(self, now: float) -> None:
        """Learn who looks from where, and what they chose."""
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
        """Of what a visitor's picture is to be."""
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
            # Where only the scene has changed, the picture does not begin again from a rough one.
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
        picture = self._render(visit.pose, height, width)
        if not bool(picture.isfinite().all()):
            self._screen.say("the scene is not finite: the run has diverged")
            picture = picture.nan_to_num(0.5)
        self._screen.show_image(who, to_bytes(picture))
        visit.key, visit.height = key, height
        rate = height * width / max(self._clock() - started, 1e-3)
        before = self._rates.get(self._choice.kind)
        # The first picture compiles things and tells little.
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
        """Of the picture that takes so long, by what the last ones took."""
        rate = self._rates.get(self._choice.kind, 3e4)
        height = math.sqrt(rate * seconds / max(pose.aspect, 0.1))
        return min(MAX_HEIGHT, max(MIN_HEIGHT, int(height) // 8 * 8))

    def _finest(self, visit: _Visit) -> int:
        return self._height(visit.pose, self._rest_seconds)

    def _new_mesh(self, now: float) -> bool:
        """Extract the mesh that is wanted, once its threshold has stopped moving."""
        saved = self._saved
        assert saved is not None
        key = (saved.step, self._choice.octaves)
        waiting = now - self._chosen_at < DEBOUNCE
        if self._choice.kind != "mesh" or key == self._mesh_key or waiting:
            return False
        self._screen.say("making the mesh …")
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
        if known[1] is None:  # this scene has no density
            return extracted(saved, None)[0]
        return extracted(saved, known[1] * 2.0**octaves)[0]

    def _stand_mesh(self) -> None:
        """Show the mesh in the scene where it is wanted in colour; hide it elsewhere."""
        wanted = self._choice.kind == "mesh" and self._choice.mode == "color"
        mesh = self._mesh if wanted else None
        if mesh is not self._standing:
            self._screen.show_mesh(mesh)
            self._standing = mesh
