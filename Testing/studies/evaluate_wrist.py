"""Registration of the real wrist X-rays against their biplane gold standard.

    python Testing/studies/evaluate_wrist.py --data ../shared/data/wrist --starts 50 --out DIR

Starts are turned and shifted about the gold pose, by up to 8 deg and 8 mm (uniform in size, any direction),
and given to the registration as its start pose, for each camera alone and for both jointly. One view is
judged by its mean projection distance, scaled back to the object; both together by their mTRE.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from SOPIRegistrationLib.evaluation.metrics import pose_error, wilson_interval
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_radiograph, read_volume
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.registration import RegistrationSettings, register
from tqdm import tqdm


def random_offset(rng: np.random.Generator, angle_deg: float, shift_mm: float) -> np.ndarray:
    """(6,) twist of random direction and uniform size."""
    directions = rng.normal(size=(2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sizes = rng.uniform(size=(2, 1)) * [[np.deg2rad(angle_deg)], [shift_mm]]
    return (directions * sizes).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the wrist data")
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--angle", type=float, default=8.0, help="largest rotation of a start, deg")
    parser.add_argument("--shift", type=float, default=8.0, help="largest translation of a start, mm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for wrist.md")
    options = parser.parse_args()

    ct = prepare_ct(read_volume(options.data / "radius.nii.gz"))
    geometry = load_geometry(options.data / "cameras.json")
    gold = json.loads((options.data / "gold_0099.json").read_text())
    T_gold = np.array(gold["T_radius_lps_to_world"])
    views = {
        camera.name: prepare_radiograph(
            read_radiograph(options.data / f"frame_0099_{camera.name}.png"), camera
        )
        for camera in geometry.cameras
    }
    heads = (
        "views",
        "starts",
        "within limit (95 % interval)",
        "median mPD at object, mm",
        "median in plane, mm",
    )
    heads += ("median depth, mm", "median mTRE, mm", "median s", "accepted", "wrong among accepted")
    lines = [
        f"Starts up to {options.angle:g} deg and {options.shift:g} mm off, seed {options.seed}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for names in [[name] for name in views] + [list(views)]:
        rng = np.random.default_rng(options.seed)
        chosen = geometry.for_camera(names[0]) if len(names) == 1 else geometry
        frame = chosen.pose_frame(ct.rotation_centre_lps_mm)
        errors, seconds, accepted = [], [], []
        for _ in tqdm(range(options.starts), desc=" + ".join(names)):
            offset = random_offset(rng, options.angle, options.shift)
            start = se3.move_about(T_gold[None], offset[None], ct.rotation_centre_lps_mm)[0]
            result = register(ct, [views[name] for name in names], frame, RegistrationSettings(init=start))
            camera = views[names[0]].camera
            T, T_true = camera.T_world_to_camera @ result.T_lps_to_world, camera.T_world_to_camera @ T_gold
            points, centre = ct.surface_points_lps_mm, ct.rotation_centre_lps_mm
            errors.append(pose_error(T, T_true, points, centre, camera))
            seconds.append(result.seconds)
            accepted.append(result.verdict.status == "accept")
        within = np.array([e.mpd_object_mm < 1.0 if len(names) == 1 else e.mtre_mm < 0.7 for e in errors])
        low, high = wilson_interval(int(within.sum()), len(within))
        medians = [
            np.median([getattr(e, n) for e in errors])
            for n in ("mpd_object_mm", "in_plane_mm", "depth_mm", "mtre_mm")
        ]
        accepted = np.array(accepted)
        lines.append(
            f"| {' + '.join(names)} | {len(within)} | {within.mean():.0%} ({low:.0%} to {high:.0%}) | "
            + " | ".join(f"{value:.3f}" for value in (*medians, np.median(seconds)))
            + f" | {accepted.mean():.0%} | {int((accepted & ~within).sum())} |"
        )
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "wrist.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
