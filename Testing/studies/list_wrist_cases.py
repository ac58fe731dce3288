"""Writes the real wrist X-rays with their gold standard as cases files of ``sopi evaluate``.

    python Testing/studies/list_wrist_cases.py --data ../shared/data/wrist --out DIR
    sopi evaluate --cases-file DIR/both.csv --starts 50 --methods initial,opt-gc,opt --out DIR/evaluation_both

cam01.csv and cam02.csv hold one camera's X-ray, both.csv one case of both, registered jointly: means over
views alone and together would say nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

CAMERAS = ("cam01", "cam02")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the wrist data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the lists and the true poses")
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out
    out.mkdir(parents=True, exist_ok=True)

    gold = json.loads((data / "gold_0099.json").read_text())
    for camera in CAMERAS:
        pose = {"T_lps_to_camera": gold["T_lps_to_camera"][camera]}
        truth = {"pose": pose, "geometry": {"cameras": [{"name": camera}]}}
        (out / f"truth_{camera}.json").write_text(json.dumps(truth, indent=1) + "\n")
    for name, cameras in (*((camera, (camera,)) for camera in CAMERAS), ("both", CAMERAS)):
        with (out / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["case", "ct", "xray", "geometry", "camera", "truth"])
            for camera in cameras:
                xray, geometry = data / f"frame_0099_{camera}.png", data / "cameras.json"
                truth = f"truth_{camera}.json"
                writer.writerow([f"wrist, {name}", data / "radius.nii.gz", xray, geometry, camera, truth])


if __name__ == "__main__":
    main()
