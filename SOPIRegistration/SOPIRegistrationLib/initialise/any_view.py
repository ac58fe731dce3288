"""Hypotheses of an X-ray taken from any side, turned by any angle, stored either way, anywhere along a CT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Level, Reading, Run, Step, Target
from SOPIRegistrationLib.compare.objective import at_level
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.initialise.template_search import SearchRange, template_search
from SOPIRegistrationLib.refine.levels import through_levels

STAGE = "search of all views"
# Tilts as far apart as an alignment leads home from; the full circle; the range of C-arms' distances.
_GRID = SearchRange(40.0, 13.4, 180.0, 15.0, (0.76, 1.0, 1.32), 110.0, canvas=2.6)
# About the view that is stated.
_STATED = SearchRange(60.0, 10.0, 60.0, 10.0, (0.7, 0.84, 1.0, 1.2, 1.42), 90.0)
# How far the middle of an X-ray may lie beyond where the scan's end is at the X-ray's edge.
_BEYOND_THE_END_MM = 15.0
# Poses of all that the X-ray may be, that go on.
_KEEP = 16
# Aligned poses that agree so well are tried at once. Right ones of clear pictures reach 0.95, wrong ones 0.7.
_CLEAR = 0.9


@dataclass(frozen=True)
class AnyView:
    """Template searches of all that an X-ray may be, the likeliest first; each aligned on the coarsest level.

    An X-ray that was stored mirrored looks much like one taken from behind, but only much: both are searched.

    Attributes:
        pixels: longer edge of the images.
        candidates: poses of each search that are aligned.
        tilt_deg: how far tilted against the views.
        turned: whether to look from the sides instead, a quarter turn from the stated view.
        to_the_ends: whether to shift as far as a long scan reaches; nothing is found of a shorter one.
    """

    pixels: int = 32
    candidates: int = 100
    tilt_deg: float = 40.0
    turned: bool = False
    to_the_ends: bool = False
    name = "search of all views"
    from_afar = False

    @property
    def _alignment(self) -> tuple[Step, ...]:
        """Windows: scatter and steep intensity curves lead whole images astray, and nothing else is known."""
        return (Step(Level(self.pixels, 21, 8, 0.5, depth_prior_mm=60.0), 12, Level(self.pixels, 9)),)

    def lots(self, case: Case, reading: Reading, run: Run, target: Target) -> Iterator[Hypotheses]:
        """Of one target: as stored and turned over, from the stated side and from the other one.

        Args:
            case: what is registered.
            reading: the X-rays as they were detected to be; both polarities are looked at where they may be.
            run: told of each search.
            target: what is compared.
        """
        found: list[Hypotheses] = []
        grid = self._grid(case, target)
        if grid is None:
            return
        for one, frame in product(self._readings(case, reading), self._frames(case.frame)):
            if not run.has_time():
                break
            lots = self._found(case, one, frame, run, target, grid)
            clear = [lot for lot in lots if lot.cost[0] < 2 * (1 - _CLEAR)]
            yield from clear
            found += [lot for lot in lots if lot not in clear]
        yield from best_of(found, _KEEP)

    def _readings(self, case: Case, reading: Reading) -> tuple[Reading, ...]:
        return case.stored_either_way(reading)

    def _frames(self, stated: PoseFrame) -> tuple[PoseFrame, ...]:
        turns = (90, 270) if self.turned else (0, 180)
        return tuple(turned_about_long_axis(stated, degrees) for degrees in turns)

    def _grid(self, case: Case, target: Target) -> SearchRange | None:
        grid = replace(_GRID, tilt_deg=self.tilt_deg)
        if not self.to_the_ends:
            return grid
        camera = case.reading.radiographs[0].camera
        wider = reaching_the_ends(grid, target.moving.attenuation, camera, case.frame)
        return None if wider is grid else wider

    def _found(
        self,
        case: Case,
        reading: Reading,
        frame: PoseFrame,
        run: Run,
        target: Target,
        grid: SearchRange,
    ) -> list[Hypotheses]:
        """The aligned poses of one view, best first, one lot a polarity."""
        moving, T_camera_to_world = target.moving, se3.invert_rigid(case.T_world_to_camera)
        other = reading.other_polarity()
        first = at_level(reading.radiographs[0], self.pixels)
        with run.share(1 / 8), run.stage(STAGE) as stage:
            found = template_search(
                first,
                moving.for_camera(first.camera, T_camera_to_world @ frame.T_nominal),
                frame,
                replace(grid, both_signs=other is not None),
                unscanned=moving.unscanned,
                max_candidates=self.candidates,
                report=lambda progress: run.report(STAGE, fraction=progress.fraction / 2),
            )
            T, lots = T_camera_to_world @ found.T_lps_to_camera, []
            for one, chosen in ((reading, ~found.negative), (other, found.negative)):
                if chosen.any():
                    start = Hypotheses.unscored(Comparison(case, one, target), T[chosen])
                    lots.append(through_levels(start, self._alignment, run, within=stage))
            lots = [replace(lot, T_initial=lot.T[0], source=self.name) for lot in lots]
            lots.sort(key=lambda lot: lot.cost[0])
            stage.ended(lots[0].T[0], float(1 - lots[0].cost[0] / 2))
        return lots


@dataclass(frozen=True)
class StatedView(AnyView):
    """The same of nothing but what the X-ray is said to be, on finer images and a finer and wider grid."""

    pixels: int = 48

    def _readings(self, case: Case, reading: Reading) -> tuple[Reading, ...]:
        return (reading,)

    def _frames(self, stated: PoseFrame) -> tuple[PoseFrame, ...]:
        return (stated,)

    def _grid(self, case: Case, target: Target) -> SearchRange:
        return _STATED


def reaching_the_ends(grid: SearchRange, volume: Volume, camera: Camera, frame: PoseFrame) -> SearchRange:
    """A grid whose shifts bring either end of a scan to the edge of the X-ray, if they did not already.

    Args:
        grid: for scans of usual length.
        volume: the scan.
        camera: of the X-ray.
        frame: nominal view, source-object distance and rotation centre.
    """
    edges = np.array(volume.array.shape[::-1])
    longest = int(np.argmax(edges * volume.spacing_mm))
    ends = np.tile((edges - 1) / 2, (2, 1))
    ends[:, longest] = 0, edges[longest] - 1
    furthest = np.linalg.norm(volume.points_lps(ends) - frame.centre_lps_mm, axis=1).max()
    field = max(camera.height / camera.K[1, 1], camera.width / camera.K[0, 0]) * frame.sod_mm
    shift = furthest - field / 2 + _BEYOND_THE_END_MM
    if shift <= grid.shift_mm:
        return grid
    return replace(grid, shift_mm=shift, canvas=max(grid.canvas, 1 + 2 * shift / field))


def best_of(lots: list[Hypotheses], keep: int) -> list[Hypotheses]:
    """The lots with the best hypotheses of all, best first, of which together so many are kept."""
    costs = np.sort(np.concatenate([lot.cost for lot in lots])) if lots else np.empty(0)
    limit = costs[:keep][-1] if len(costs) else 0.0
    kept = [
        replace(lot, T=lot.T[chosen], cost=lot.cost[chosen])
        for lot in lots
        if (chosen := lot.cost <= limit).any()
    ]
    return sorted(kept, key=lambda lot: lot.cost[0])


def turned_about_long_axis(frame: PoseFrame, degrees: float) -> PoseFrame:
    """A nominal view with the patient turned about the image's long axis."""
    if not degrees:
        return frame
    turn = se3.exp_so3(np.array([0.0, np.deg2rad(degrees), 0.0]))
    return PoseFrame(frame.centre_lps_mm, frame.sod_mm, "angles", turn @ frame.rotation)
