"""The pose network alone, followed by the optimiser, and as a part of ``auto``, on patients it never saw.

    python Testing/studies/evaluate_rtpi.py --cases 200 --out DIR                    (phantoms)
    python Testing/studies/evaluate_rtpi.py --ct CT.nii.gz --cases 200 --out DIR
    python Testing/studies/evaluate_rtpi.py --labels LABELS.nii.gz --cases 200 --out DIR

*look* is the pose of which the network is surest when it has compared the X-ray with all its views; *network*
is the initialiser (``--init rtpi --refine none``): of those poses the ones in which the images agree, brought
onto the X-ray on its coarsest level. The published network gives one pose, which is both.
Protocol ``wide``. Targets are rendered by RTK at 256 x 256 pixels on the CT's own grid, with 1e6 photons a
pixel, a random monotone curve and 12 bits. Phantoms have seeds below those of training and validation and
are rendered on finer voxels than they are registered with. Vertebra labels become a CT of bones of one
density with a denser shell. ``--c-arm`` changes the geometry. Registration never sees the pose.
"""

from __future__ import annotations

import argparse
import csv
import time
from datetime import date
from pathlib import Path

import numpy as np
from scipy import ndimage
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.evaluation.metrics import median_interval, pose_error, wilson_interval
from SOPIRegistrationLib.evaluation.peers import Rtk
from SOPIRegistrationLib.evaluation.protocols import WIDE_DEVIATION, draw_theta
from SOPIRegistrationLib.evaluation.targets import displayed, photographed
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.ct_preparation import attenuation_of_hu, prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.installed import RTPI
from SOPIRegistrationLib.registration import RegistrationSettings, lay_out, moving_volumes, register
from SOPIRegistrationLib.registration.stages import NETWORK_STAGE, Case, first_look
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from tqdm import tqdm

PHANTOMS = 20
FINE_MM, COARSE_MM = 1.5, 2.0
MARROW_HU, SHELL_HU, SHELL_MM = 250, 800, 1.5
C_ARMS = {
    # source-detector mm, pixel mm at 256 pixels, source-object mm
    "perlove": (1011.7, 0.79836, 700.0),
    "large": (1195.0, 1.5, 785.0),
}
LOOK = "look"
METHODS = {
    LOOK: (),
    "network": ("rtpi", "none"),
    "network + opt": ("rtpi", "opt"),
    "auto": ("auto", "opt"),
}
COLUMNS = (
    *("method", "case", "rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm", "failed"),
    *("seconds", "network_seconds", "known_ct", "verdict", "label"),
)


def patients(options):
    """(number of cases, CT to register, volume to render) of each patient."""
    if options.ct or options.labels:
        ct = read_volume(options.ct) if options.ct else synthetic_ct(read_volume(options.labels, "mask"))
        yield options.cases, ct, ct
        return
    for seed in range(options.seed * 1000, options.seed * 1000 + PHANTOMS):
        fine, coarse = (lumbar_phantom(seed, spacing).ct for spacing in (FINE_MM, COARSE_MM))
        yield -(-options.cases // PHANTOMS), coarse, fine


def synthetic_ct(labels: Volume) -> Volume:
    """Bones of one density with a denser shell, in air."""
    bone = labels.array > 0
    depth = ndimage.distance_transform_edt(bone, labels.spacing_mm[::-1])
    hu = np.where(bone, np.where(depth > SHELL_MM, MARROW_HU, SHELL_HU), -1000).astype(np.int16)
    return labels.same_grid(hu)


def evaluate(options) -> list[dict]:
    sdd_mm, pixel_mm, sod_mm = C_ARMS[options.c_arm]
    camera = Camera.from_c_arm(sdd_mm, (pixel_mm, pixel_mm), 256, 256)
    rng = np.random.default_rng(options.seed)
    rows: list[dict] = []
    with tqdm(total=options.cases) as bar:
        for count, ct, to_render in patients(options):
            patient = prepare_ct(ct)
            lay_out(patient)
            frame = PoseFrame(patient.rotation_centre_lps_mm, sod_mm, options.view)
            hu = to_render.array.astype(np.float32)
            rendered = Rtk(to_render.same_grid(attenuation_of_hu(hu)), camera)
            known = 0
            for _ in range(count):
                T_true = frame.T_from_theta(draw_theta(rng, WIDE_DEVIATION))
                image = displayed(photographed(rendered.image(T_true), 1e6, rng), rng)
                xray = prepare_radiograph(Radiograph(image, "target", bone_dark=False), camera)
                for method in options.methods:
                    T, figures = found(method, patient, xray, frame, options)
                    points = patient.surface_points_lps_mm
                    error = pose_error(T, T_true, points, frame.centre_lps_mm, camera)
                    values = (
                        *(method, bar.n, error.rotation_deg, error.in_plane_mm, error.depth_mm),
                        *(error.mtre_mm, int(error.failed), *figures[:2], known, *figures[2:]),
                    )
                    # What the network sees of the CT is kept for the X-rays that follow.
                    known = 1
                    rows.append(dict(zip(COLUMNS, values, strict=True)))
                bar.update()
    return rows


def found(method: str, patient, xray, frame, options) -> tuple[np.ndarray, tuple]:
    """(4, 4) pose of a method; its seconds, those of the pose network, verdict and what was done."""
    if method == LOOK:
        began = time.perf_counter()
        case = Case((xray,), frame)
        T = first_look(case, *moving_volumes(patient).values(), options.weights).T_lps_to_camera[0]
        seconds = time.perf_counter() - began
        return T, (seconds, seconds, "", LOOK)
    init, refine = METHODS[method]
    weights = {} if options.weights is None else {RTPI: options.weights}
    result = register(patient, [xray], frame, RegistrationSettings(init, refine, weights=weights))
    # The second, more thorough try of those that failed is not what a first look takes.
    network = next((stage.seconds for stage in result.stages if stage.name == NETWORK_STAGE), np.nan)
    return result.T_lps_to_world, (result.seconds, network, result.verdict.status, result.method)


def table(rows: list[dict], options) -> str:
    name = Path(options.ct or options.labels).name if options.ct or options.labels else f"{PHANTOMS} phantoms"
    heads = ("method", "cases", "failures (95 % interval)", "rotation, deg", "in plane, mm", "depth, mm")
    heads += ("90 % below", "seconds", "network, s", "with a new CT, s", "accepted", "wrong among accepted")
    lines = [
        f"Protocol `wide`, seed {options.seed}, {name}, view {options.view}, C-arm {options.c_arm}, "
        f"{processor()}, {date.today()}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for method in options.methods:
        column = {key: np.array([row[key] for row in rows if row["method"] == method]) for key in COLUMNS}
        failed, accepted = column["failed"] == 1, column["verdict"] == "accept"
        low, high = wilson_interval(int(failed.sum()), len(failed))
        cells = [method, str(len(failed)), f"{failed.mean():.1%} ({low:.1%} to {high:.1%})"]
        sizes = ("rotation_deg", "in_plane_mm", "depth_mm")
        for key in sizes:
            low, high = median_interval(column[key])
            cells.append(f"{np.median(column[key]):.3g} ({low:.3g} to {high:.3g})")
        cells.append(", ".join(f"{np.percentile(column[key], 90):.3g}" for key in sizes))
        seconds, known = column["network_seconds"], column["known_ct"] == 1
        cells += [f"{np.median(column['seconds']):.2f}", f"{np.nanmedian(seconds[known]):.3f}"]
        cells += [f"{np.median(seconds[~known]):.2f}" if (~known).any() else "-"]
        cells += [f"{accepted.mean():.0%}", str(int((accepted & failed).sum()))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ct", help="CT, anything SimpleITK reads; phantoms if nothing is given")
    what.add_argument("--labels", help="label map of vertebrae")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--view", default="AP")
    parser.add_argument("--c-arm", choices=list(C_ARMS), default="perlove")
    parser.add_argument("--weights", type=Path, help="other weights than those installed")
    parser.add_argument("--name", default="rtpi", help="of the network, in the names of the files")
    parser.add_argument("--out", type=Path, help="folder for rtpi_CASES.csv and .md")
    options = parser.parse_args()
    rows = evaluate(options)
    text = table(rows, options)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = Path(options.ct or options.labels or "phantoms").name.split(".")[0]
        stem = "_".join([options.name, name, options.view.lower(), options.c_arm])
        (options.out / f"{stem}.md").write_text(text + "\n")
        with (options.out / f"{stem}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
