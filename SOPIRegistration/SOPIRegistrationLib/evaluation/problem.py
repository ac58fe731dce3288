"""What a method of registration is given, and what it makes of it: never the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.registration import RegistrationResult
from SOPIRegistrationLib.registration.bodies import register_bodies
from SOPIRegistrationLib.registration.bodies_result import BodiesResult
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies

# Images of the papers; the baselines have one resolution.
BASELINE_PIXELS = 256


@dataclass(eq=False)
class SeveralBodies:
    """Bodies that are registered at once, each of which is a problem of its own.

    Attributes:
        bodies: all of them.
        radiographs: prepared X-rays of one world.
        frame: about the centre of all.
        starts: (4, 4) T_lps_to_world by name, as of ``register_bodies``.
    """

    bodies: Bodies
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    starts: Mapping[str, np.ndarray]
    _found: BodiesResult | None = None

    def registered(self, report: Report) -> BodiesResult:
        """The bodies' poses: computed once, unless it was stopped."""
        if self._found is None:
            settings = RegistrationSettings(GIVEN)
            found = register_bodies(self.bodies, self.radiographs, self.frame, settings, self.starts, report)
            if found.stopped:
                return found
            self._found = found
        return self._found


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        subject: the CT.
        radiographs: prepared X-rays of one world, one or several.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        T_start: (4, 4) T_lps_to_world of the start, mm; methods that find their own start ignore it.
        seed: of anything random.
        weights: files of weights by network, over the installed ones.
        baseline_pixels: longer edge of the images that the baselines compare.
        body: name of the one of ``several`` whose pose is asked for; the subject is that.
        several: bodies that are in the X-rays; None where there is one only.
    """

    subject: Subject
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    T_start: np.ndarray
    seed: int = 0
    weights: Mapping[str, Path] = field(default_factory=dict)
    baseline_pixels: int = BASELINE_PIXELS
    body: str = ""
    several: SeveralBodies | None = None


@dataclass(frozen=True)
class Estimate:
    """What a method makes of a problem.

    Attributes:
        T_lps_to_world: (4, 4) pose, mm.
        verdict: "accept", "review" or "reject"; empty for methods that give none.
        device: where it computed.
        result: all that a registration says, where it was one.
        seconds: that it took, where several problems are solved at once; else they are measured.
    """

    T_lps_to_world: np.ndarray
    verdict: str = ""
    device: str = "cpu"
    result: RegistrationResult | None = None
    seconds: float | None = None
