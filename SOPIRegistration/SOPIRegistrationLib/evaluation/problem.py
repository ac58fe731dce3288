"""What a method of registration is given, and what it makes of it: never the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.registration import RegistrationResult
from SOPIRegistrationLib.subject import Subject

# Images of the papers; the baselines have one resolution.
BASELINE_PIXELS = 256


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
    """

    subject: Subject
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    T_start: np.ndarray
    seed: int = 0
    weights: Mapping[str, Path] = field(default_factory=dict)
    baseline_pixels: int = BASELINE_PIXELS


@dataclass(frozen=True)
class Estimate:
    """What a method makes of a problem.

    Attributes:
        T_lps_to_world: (4, 4) pose, mm.
        verdict: "accept", "review" or "reject"; empty for methods that give none.
        device: where it computed.
        result: all that a registration says, where it was one.
    """

    T_lps_to_world: np.ndarray
    verdict: str = ""
    device: str = "cpu"
    result: RegistrationResult | None = None
