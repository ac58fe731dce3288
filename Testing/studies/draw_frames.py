"""Draw the frames of reference: the camera at the nominal view AP with the patient's axes, and the image.

    python Testing/studies/draw_frames.py [--out Resources/Figures/frames.png]

The picture is computed by the program's own geometry (``Camera``, ``PoseFrame``), so that it cannot tell
another story than the code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame

SDD_MM, SOD_MM, DETECTOR_MM, PIXELS = 1000.0, 620.0, 300.0, 256
PATIENT = {"L": (1, 0, 0), "P": (0, 1, 0), "S": (0, 0, 1)}
COLOURS = {"camera": "#2E86C1", "patient": "#C0392B", "ray": "#B7950B", "ink": "#333333"}
# How long axes are drawn, mm.
CAMERA_ARROW_MM, PATIENT_ARROW_MM = 170.0, 130.0


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("Resources/Figures/frames.png"))
    out = parser.parse_args().out
    spacing = DETECTOR_MM / PIXELS
    camera = Camera.from_c_arm(SDD_MM, (spacing, spacing), PIXELS, PIXELS)
    frame = PoseFrame(np.zeros(3), SOD_MM)
    figure = plt.figure(figsize=(12, 5.4))
    space = figure.add_axes([-0.02, -0.12, 0.64, 1.3], projection="3d")
    draw_space(space, camera, frame)
    draw_image(figure.add_axes([0.64, 0.12, 0.33, 0.74]), camera, frame)
    figure.savefig(out, dpi=110)


def draw_space(axes, camera: Camera, frame: PoseFrame) -> None:
    """Source, central ray, detector and patient, in camera coordinates."""
    ink = {"fontsize": 11, "color": COLOURS["ink"]}
    corners = np.array([(0, 0), (camera.width - 1, 0), (camera.width - 1, camera.height - 1)])
    corners = np.vstack([corners, (0, camera.height - 1)])
    detector = camera.sdd_mm * np.c_[corners, np.ones(4)] @ camera.K_inverse.T
    outline = np.vstack([detector, detector[:1]])
    axes.plot(*shown(outline), color=COLOURS["ink"])
    for corner in detector:
        axes.plot(*shown(np.array([np.zeros(3), corner])), color=COLOURS["ray"], linewidth=0.6)
    axes.plot(*shown(np.array([(0, 0, 0), (0, 0, camera.sdd_mm)])), color=COLOURS["ray"], linewidth=1.5)
    axes.scatter(*shown(np.zeros((1, 3))), color=COLOURS["ray"], s=70)
    axes.text(*shown(np.array([(0, -35, 0)]))[:, 0], "source", ha="center", **ink)
    axes.text(*shown(detector[2:3] + np.array([0, 45, 0]))[:, 0], "detector", ha="center", **ink)
    for name, axis in zip("xyz", np.eye(3), strict=True):
        arrow(axes, np.zeros(3), axis * CAMERA_ARROW_MM, name, COLOURS["camera"])
    first = detector[0]
    for name, along in (("u", detector[1] - first), ("v", detector[3] - first)):
        arrow(axes, first, 0.5 * along, name, COLOURS["camera"])
    axes.text(*shown(detector[:1] + np.array([-15, -45, 0]))[:, 0], "(0, 0)", ha="right", **ink)
    T = frame.T_nominal
    for name, axis in PATIENT.items():
        direction = T[:3, :3] @ np.array(axis) * PATIENT_ARROW_MM
        arrow(axes, placed(T, np.zeros(3)), direction, name, COLOURS["patient"])
    axes.text(
        *shown(placed(T, np.zeros(3))[None] + np.array([0, 45, 25]))[:, 0], "c", color=COLOURS["patient"]
    )
    measure(axes, 0.0, SOD_MM, 235.0, "SOD")
    measure(axes, 0.0, SDD_MM, 310.0, "SDD")
    axes.set_box_aspect((1.7, 1, 1), zoom=1.15)
    limits = np.array([(-60, SDD_MM + 60), (-300, 350), (-300, 350)])
    axes.set(xlim=limits[0], ylim=limits[1], zlim=limits[2])
    axes.view_init(elev=18, azim=-62)
    axes.set_axis_off()


def draw_image(axes, camera: Camera, frame: PoseFrame) -> None:
    """The image with its pixel axes, and where the patient's left and head lie in it."""
    axes.set(xlim=(-0.5, camera.width - 0.5), ylim=(camera.height - 0.5, -0.5), aspect="equal")
    axes.set(xticks=[0, camera.width - 1], yticks=[0, camera.height - 1])
    axes.set_xlabel("column u, pixel", color=COLOURS["camera"])
    axes.set_ylabel("row v, pixel", color=COLOURS["camera"])
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    centre = camera.project(placed(frame.T_nominal, np.zeros(3)))
    axes.plot(*centre, "o", color=COLOURS["ray"])
    axes.text(centre[0] + 6, centre[1] + 20, "principal point", color=COLOURS["ray"], fontsize=10)
    for name, axis in PATIENT.items():
        tip = camera.project(placed(frame.T_nominal, 55.0 * np.array(axis)))
        if np.hypot(*(tip - centre)) < 1:
            continue
        axes.annotate("", tip, centre, arrowprops={"arrowstyle": "-|>", "color": COLOURS["patient"], "lw": 2})
        label = tip + 0.14 * (tip - centre)
        axes.text(*label, name, color=COLOURS["patient"], fontsize=13, ha="center", va="center")
    axes.set_title("image of the view AP", y=-0.1, fontsize=11, color=COLOURS["ink"])


def shown(points: np.ndarray) -> np.ndarray:
    """(3, n) plot coordinates of camera points (n, 3): the central ray runs right, y down."""
    x, y, z = np.asarray(points, dtype=float).T
    return np.array([z, -x, -y])


def placed(T: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(3,) a patient point in the camera."""
    return T[:3, :3] @ point + T[:3, 3]


def arrow(axes, start: np.ndarray, vector: np.ndarray, name: str, colour: str) -> None:
    """An arrow with its name at the tip, in camera coordinates."""
    base, direction = shown(start[None])[:, 0], shown(vector[None])[:, 0]
    axes.quiver(*base, *direction, color=colour, linewidth=2, arrow_length_ratio=0.16)
    axes.text(*(base + 1.17 * direction), name, color=colour, fontsize=13, ha="center", va="center")


def measure(axes, start_mm: float, end_mm: float, below_mm: float, name: str) -> None:
    """A dimension line along the central ray, below it."""
    ends = np.array([(0, below_mm, start_mm), (0, below_mm, end_mm)])
    axes.plot(*shown(ends), color=COLOURS["ink"], linewidth=0.8, marker="|", markersize=9)
    middle = shown(ends.mean(axis=0)[None] + np.array([0, 35, 0]))[:, 0]
    axes.text(*middle, name, ha="center", fontsize=10, color=COLOURS["ink"])


if __name__ == "__main__":
    main()
