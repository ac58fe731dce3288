"""Draw the README's picture of ``sopi demo``: X-ray, overlay at the start, overlay and edges at the result.

sopi demo --out demo && python Testing/studies/draw_demo.py demo [--out Resources/Figures/demo.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_volume
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import ProjectorVolume, project


def panels(folder: Path) -> list[tuple[str, np.ndarray]]:
    """Titles and pictures from the files of a demo."""
    radiograph, geometry = open_radiograph(folder / "xray.png", folder / "geometry.json")
    xray = prepare_radiograph(radiograph, geometry.camera, "bone-dark")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    volume = ProjectorVolume(prepare_ct(read_volume(folder / "ct.nrrd")).attenuation)
    start, end = (
        project(volume, geometry.camera, np.array(result[pose]["T_lps_to_camera"]))
        for pose in ("initial_pose", "pose")
    )
    gray = np.repeat(xray.valid[..., None] * _stretched(xray.image, xray.valid)[..., None], 3, axis=-1)
    return [
        ("X-ray", gray),
        ("start: X-ray blue, DRR orange", fusion_image(xray.image, start, xray.valid)),
        ("registered: agreement gray", fusion_image(xray.image, end, xray.valid)),
        ("registered: edges of the DRR", fusion_image(gray[..., 0], end, xray.valid, "edges")),
    ]


def _stretched(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image[valid], (0.5, 99.5))
    return np.clip((image - low) / (high - low), 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="results of sopi demo")
    parser.add_argument("--out", type=Path, default=Path("Resources/Figures/demo.png"))
    args = parser.parse_args()
    shown = panels(args.folder)
    figure, axes = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.5), layout="constrained")
    for ax, (title, picture) in zip(axes, shown, strict=True):
        ax.imshow(picture)
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
