"""Refinement with physics-based DRRs against monochromatic ones (as Table 2 of Zhang et al. 2023).

    python Testing/studies/evaluate_physics.py --ct CT.nii.gz --cases 50 --out DIR

Targets are rendered by RTK, not by this project's projector, on the CT's own grid. *polychromatic*: a line
integral for each material, a beam of 80 kV, scatter half as strong as the primary beam, 1e6 photons; the
refinement believes in 70 kV and knows of no scatter. *degraded*: monochromatic, with random exposure,
scatter, blur, noise, collimation, metal, polarity, window and intensity curve. All refinements start at the
same pose, as far off as a pose network leaves it (standard deviations 1.5 degrees an axis, 1.5 mm in plane,
5 mm in depth). NCC, SSIM and CSS are those of the X-ray and the DRR that a method compares with, after the
best linear map.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.metrics import (
    median_interval,
    pose_error,
    structural_similarity,
    wilson_interval,
)
from SOPIRegistrationLib.evaluation.peers import Rtk
from SOPIRegistrationLib.evaluation.protocols import PAPER_VARIANCE, draw_theta
from SOPIRegistrationLib.evaluation.targets import photographer
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.se3 import move_about
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import attenuation_of_hu, prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.materials import decompose
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.projector.physics import Beam, BeamResponse
from SOPIRegistrationLib.projector.physics.polychromatic import material_volumes
from SOPIRegistrationLib.registration import moving_volumes, stages
from SOPIRegistrationLib.registration.physics_refinement import polychromatic, refine_with_physics
from SOPIRegistrationLib.registration.stages import Case, Hypotheses
from SOPIRegistrationLib.similarity import ncc
from SOPIRegistrationLib.simulation.xray import XRayDegradation, simulate_radiograph
from tqdm import tqdm

TARGETS = ("polychromatic", "degraded")
TARGET_BEAM, BELIEVED_BEAM = Beam(80), Beam(70)
START_DEVIATION = np.array([*np.deg2rad([1.5] * 3), 1.5, 1.5, 5.0])


def polychromatic_photographer(ct: Volume, camera: Camera) -> Callable:
    """X-rays by RTK's line integrals of every material."""
    attenuation = ct.same_grid(attenuation_of_hu(ct.array.astype(np.float32)))
    renderers = [Rtk(volume, camera) for volume in material_volumes(decompose(attenuation))]
    response = BeamResponse(TARGET_BEAM.spectrum)
    degradation = XRayDegradation(scatter_to_primary=0.5, photons=1e6)

    def photograph(T: np.ndarray, rng: np.random.Generator) -> Radiograph:
        # RTK may return minus a rounding error beside the object.
        integrals = [np.maximum(renderer.image(T), 0) for renderer in renderers]
        return simulate_radiograph(response(integrals)[0], degradation, rng, "target")

    return photograph


def refinements(case: Case, body) -> dict[str, Callable[[Hypotheses], Hypotheses]]:
    """What is compared; "opt" and "physics" both end with the levels of the plain refinement."""

    def watch(*report) -> bool:
        return False

    def optimised(start):
        return stages.refine(case, body, start, stages.BODY_FINE, watch)

    def physical(start):
        return refine_with_physics(case, body, start, watch, BELIEVED_BEAM)

    return {
        "start": lambda start: start,
        "opt": optimised,
        "physics": physical,
        "physics, then opt": lambda start: optimised(physical(start)),
    }


def similarity(case: Case, moving, T: np.ndarray) -> tuple[float, float, float]:
    """NCC, SSIM and CSS of X-ray and DRR over the valid pixels."""
    xray = case.radiographs[0]
    drr = project(moving.for_camera(xray.camera, T), xray.camera, T)
    valid = xray.valid
    gain, offset = np.polyfit(drr[valid], xray.image[valid], 1)
    fitted = (gain * drr + offset).astype(np.float32)
    structure = structural_similarity(fitted, xray.image, valid)
    return float(ncc(drr[None], xray.image, valid)[0]), structure.ssim, structure.contrast_structure


def evaluate(options) -> list[dict]:
    """A row for each case and method."""
    ct = read_volume(options.ct)
    prepared = prepare_ct(ct)
    body = moving_volumes(prepared)["body"]
    camera = Camera.from_c_arm(1011.7, (0.79836, 0.79836), 256, 256)
    frame = PoseFrame(prepared.rotation_centre_lps_mm, 700.0)
    points = prepared.surface_points_lps_mm
    rows = []
    for target in options.targets:
        if target == "polychromatic":
            photograph = polychromatic_photographer(ct, camera)
        else:
            photograph = photographer("rtk-degraded", prepared, ct, camera)
        for number in tqdm(range(options.cases), desc=target):
            rng = np.random.default_rng([options.seed, number])
            T_true = frame.T_from_theta(draw_theta(rng, np.sqrt(PAPER_VARIANCE)))
            T_start = move_about(T_true, START_DEVIATION * rng.standard_normal(6), frame.centre_lps_mm)
            case = Case((prepare_radiograph(photograph(T_true, rng), camera),), frame, T_start)
            for method, refine in refinements(case, body).items():
                began = perf_counter()
                T = refine(Hypotheses(T_start[None], np.array([np.inf]))).T[0]
                seconds = perf_counter() - began
                moving = polychromatic(body, BELIEVED_BEAM) if method == "physics" else body
                error = pose_error(T, T_true, points, frame.centre_lps_mm, camera)
                rows.append(
                    {
                        "target": target,
                        "method": method,
                        "mtre_mm": error.mtre_mm,
                        "mpd_mm": error.mpd_detector_mm,
                        "succeeded": error.succeeded,
                        "seconds": seconds,
                        **dict(zip(("ncc", "ssim", "css"), similarity(case, moving, T), strict=True)),
                    }
                )
    return rows


def table(rows: list[dict], options) -> str:
    """Medians with their intervals, a line for each target and method."""
    columns = {
        "mtre_mm": "mTRE, mm",
        "mpd_mm": "mPD, mm at the detector",
        "ncc": "NCC",
        "ssim": "SSIM",
        "css": "CSS",
    }
    lines = [
        f"{Path(options.ct).name}, {options.cases} cases, seed {options.seed}, {processor()}, "
        f"{date.today()}; medians (95 % interval)",
        "",
        f"| target | method | {' | '.join(columns.values())} | mTRE up to 10 mm | seconds |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for target in options.targets:
        for method in dict.fromkeys(row["method"] for row in rows):
            chosen = [row for row in rows if (row["target"], row["method"]) == (target, method)]
            cells = [target, method]
            for name in columns:
                values = np.array([row[name] for row in chosen])
                low, high = median_interval(values)
                cells.append(f"{np.median(values):.4g} ({low:.4g} to {high:.4g})")
            succeeded = sum(row["succeeded"] for row in chosen)
            low, high = wilson_interval(succeeded, len(chosen))
            cells.append(f"{succeeded / len(chosen):.1%} ({low:.1%} to {high:.1%})")
            cells.append(f"{np.median([row['seconds'] for row in chosen]):.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ct", required=True, help="CT, anything SimpleITK reads")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR")
    options = parser.parse_args()
    text = table(evaluate(options), options)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "physics_refinement.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
