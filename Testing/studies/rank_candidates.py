"""Where the true pose stands among the candidates of the template search.

    python Testing/studies/rank_candidates.py CONFIG GROUP [--cases N]

Cases are those of a group of a configuration of ``sopi evaluate``. The X-ray is looked at the way round, and
from the side, that it was taken; turned by any angle, bright and dark not known, at 32 pixels. A candidate
is *near* if it is within 17 deg, 30 mm in the plane and 120 mm in depth: what an alignment leads home from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.compare import Case, Reading
from SOPIRegistrationLib.compare.objective import at_level
from SOPIRegistrationLib.evaluation.cases import EvaluationCase
from SOPIRegistrationLib.evaluation.configuration import evaluation_of, read_configuration
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.initialise.any_view import turned_about_long_axis
from SOPIRegistrationLib.initialise.template_search import SearchRange, template_search

GRID = SearchRange(roll_deg=180, both_signs=True)
PIXELS, MOST = 32, 400
NEAR_RAD, NEAR_MM, NEAR_DEPTH_MM = np.deg2rad(17.0), 30.0, 120.0


def ranked(case: EvaluationCase) -> tuple[float, float]:
    """Rank of the first candidate near the truth (infinite without one), and the share of the first hundred
    that stands at the smallest depth."""
    drawn = case.drawn
    if drawn is not None and drawn.mirrored:
        case = case.turned_over()
    frame = turned_about_long_axis(case.frame, 180 if drawn is not None and drawn.behind else 0)
    target = Case(case.subject, Reading(case.radiographs), frame).targets[0]
    view = at_level(case.radiographs[0], PIXELS)
    volume = target.moving.for_camera(view.camera, frame.T_nominal)
    found = template_search(view, volume, frame, GRID, target.moving.unscanned, MOST)
    T, T_true = found.T_lps_to_camera, case.T_true
    centres = se3.transform_points(T, frame.centre_lps_mm)
    away = np.abs(centres - se3.transform_points(T_true, frame.centre_lps_mm))
    turned = se3.rotation_distance(T[:, :3, :3], np.broadcast_to(T_true[:3, :3], (len(T), 3, 3)))
    near = (turned < NEAR_RAD) & (np.hypot(*away.T[:2]) < NEAR_MM) & (away[:, 2] < NEAR_DEPTH_MM)
    nearest = centres[:100, 2] < frame.sod_mm * np.sqrt(np.prod(GRID.depth_factors[:2]))
    return (float(np.argmax(near)) if near.any() else np.inf), float(nearest.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("group")
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    evaluation = evaluation_of(read_configuration(options.configuration), options.configuration)
    source = evaluation.group(options.group).source
    ranks, nearest = np.transpose([ranked(source.make(number)) for number in range(options.cases)])
    print(f"{options.group}, {options.cases} cases: median rank of the first near one {np.median(ranks):g}")
    for first in (16, 64, 100):
        print(f"not among the first {first}: {(ranks >= first).sum()}")
    print(
        f"of the first 100 at the smallest of {len(GRID.depth_factors)} depths: {100 * nearest.mean():.0f} %"
    )


if __name__ == "__main__":
    main()
