"""What a tracking leaves behind: track.csv, track.json, transforms, plots and a film of the overlay."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SOPIRegistrationLib import __version__
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.files import geometry_as_dict
from SOPIRegistrationLib.geometry.views import THETA_NAMES, theta_as_dict
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.images.pyramid import resampled_radiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.subject import MovingVolume
from SOPIRegistrationLib.tracking.body import Body
from SOPIRegistrationLib.tracking.frames import Frames
from SOPIRegistrationLib.tracking.track import LOST, STATUSES, FramePose, Track

MATRIX_NAMES = tuple(f"T{row}{column}" for row in range(3) for column in range(4))
ERROR_NAMES = ("error_rx_deg", "error_ry_deg", "error_rz_deg", "error_tx_mm", "error_ty_mm", "error_tz_mm")
_POSE_NAMES = (*THETA_NAMES, *MATRIX_NAMES)
_COLOURS = dict(zip(STATUSES, ("tab:blue", "tab:orange", "tab:red", "tab:red"), strict=True))
_FILM_PIXELS = 384


@dataclass(frozen=True)
class Motion:
    """Tracks of all bodies with what was made of them.

    Attributes:
        bodies: in order; poses relative to the first one are told of the others.
        tracks: one for each.
        geometry: the cameras.
        frames_per_second: None where it is not known.
        smooth: (4, 4) T_lps_to_world by frame, of each body; empty where no smoothing was asked for.
        joints: values by column name, frame and body.
    """

    bodies: Sequence[Body]
    tracks: Sequence[Track]
    geometry: CArmGeometry
    frames_per_second: float | None = None
    smooth: Sequence[Mapping[int, np.ndarray]] = ()
    joints: Mapping[tuple[int, str], Mapping[str, float]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        names = ["frame", "time_s", "body", *_POSE_NAMES]
        if self.smooth:
            names += [f"smooth_{name}" for name in _POSE_NAMES]
        if len(self.bodies) > 1:
            names += [f"rel_{name}" for name in MATRIX_NAMES]
        names += dict.fromkeys(name for values in self.joints.values() for name in values)
        return (*names, *ERROR_NAMES, "share", "probability", "status", "source", "reasons")

    def rows(self) -> list[dict]:
        """A row a frame and body, numbers as they are; what is not known is left out."""
        rows = []
        for poses in zip(*self.tracks, strict=True):
            parent = poses[0].T
            for number, (body, pose) in enumerate(zip(self.bodies, poses, strict=True)):
                row = {"frame": pose.frame, "body": body.name, "status": pose.status, "source": pose.source}
                row["reasons"] = "; ".join(pose.verdict.reasons)
                if self.frames_per_second:
                    row["time_s"] = (pose.frame - 1) / self.frames_per_second
                if pose.T is not None:
                    row |= self._pose(body, pose.T, "") | _errors(pose)
                    if number and parent is not None:
                        row |= _matrix(se3.invert_rigid(parent) @ pose.T, "rel_")
                    if self.smooth:
                        row |= self._pose(body, self.smooth[number][pose.frame], "smooth_")
                    row |= self.joints.get((pose.frame, body.name), {})
                rows.append(row)
        return rows

    def theta(self, body: Body, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(..., 6) pose parameters in the first camera, rad and mm."""
        return body.frame.theta_from_T(self.geometry.camera.T_world_to_camera @ T_lps_to_world)

    def _pose(self, body: Body, T: np.ndarray, prefix: str) -> dict:
        values = theta_as_dict(self.theta(body, T))
        return {f"{prefix}{name}": value for name, value in values.items()} | _matrix(T, prefix)


def _matrix(T: np.ndarray, prefix: str) -> dict:
    return {f"{prefix}{name}": float(value) for name, value in zip(MATRIX_NAMES, T[:3].ravel(), strict=True)}


def _errors(pose: FramePose) -> dict:
    verdict = pose.verdict
    if verdict.predicted_error_mm is None:
        return {}
    values = np.concatenate([verdict.predicted_error_deg, verdict.predicted_error_mm])
    told = dict(zip(ERROR_NAMES, map(float, values), strict=True))
    others = {"share": verdict.share, "probability": verdict.probability}
    return told | {name: float(value) for name, value in others.items() if value is not None}


def table_text(motion: Motion) -> str:
    """The text of track.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, motion.columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in motion.rows():
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def write_motion(folder: Path, motion: Motion, with_transforms: bool = False) -> list[str]:
    """Write track.csv, track.json, a plot for each body, and on request a transform for each body and frame.

    Args:
        folder: an existing folder.
        motion: what to write.
        with_transforms: whether to write BODY_FRAME.tfm files, which move the CT in a Slicer scene.

    Returns:
        The files' names.
    """
    (folder / "track.csv").write_text(table_text(motion), encoding="utf-8")
    entry = {
        "version": __version__,
        "geometry": geometry_as_dict(motion.geometry),
        "frames_per_second": motion.frames_per_second,
        "bodies": [
            {
                "name": body.name,
                "view": body.frame.view,
                "rotation_centre_lps_mm": body.frame.centre_lps_mm.tolist(),
                "counts": {status: sum(p.status == status for p in one) for status in STATUSES},
                "frames": [pose.to_dict() for pose in one],
            }
            for body, one in zip(motion.bodies, motion.tracks, strict=True)
        ],
    }
    (folder / "track.json").write_text(json.dumps(entry, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    names = ["track.csv", "track.json"]
    for number, body in enumerate(motion.bodies):
        name = f"{body.name}_pose.png"
        (folder / name).write_bytes(plot(motion, number))
        names.append(name)
    if with_transforms:
        for body, one in zip(motion.bodies, motion.tracks, strict=True):
            for pose in one:
                if pose.T is not None:
                    T = motion.geometry.camera.T_world_to_camera @ pose.T
                    write_transform(folder / f"{body.name}_{pose.frame:04d}.tfm", T, body.frame)
        names.append("BODY_FRAME.tfm")
    return names


def plot(motion: Motion, number: int) -> bytes:
    """Picture (PNG) of a body's six curves, each point in its verdict's colour."""
    from matplotlib.figure import Figure

    body, poses = motion.bodies[number], list(motion.tracks[number])
    rate = motion.frames_per_second
    figure = Figure((11, 7), layout="constrained")
    found = [pose for pose in poses if pose.T is not None]
    theta, smooth = _curves(motion, body, np.stack([pose.T for pose in found])), None
    if motion.smooth:
        smooth = _curves(motion, body, np.stack([motion.smooth[number][pose.frame] for pose in found]))
    frames = np.array([pose.frame for pose in found])
    at = (frames - 1) / rate if rate else frames
    colours = [_COLOURS[pose.status] for pose in found]
    # A gap is a gap: no line leads over it.
    pieces = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1)
    lost = [(pose.frame - 1) / rate if rate else pose.frame for pose in poses if pose.status == LOST]
    for column, axes in enumerate(figure.subplots(2, 3, sharex=True).ravel()):
        for piece in pieces:
            axes.plot(at[piece], theta[piece, column], color="0.7", linewidth=1, zorder=1)
            if smooth is not None:
                axes.plot(at[piece], smooth[piece, column], color="black", linewidth=0.8, zorder=3)
        axes.scatter(at, theta[:, column], c=colours, s=9, zorder=2)
        for when in lost:
            axes.axvline(when, color="tab:red", alpha=0.15)
        name, unit = THETA_NAMES[column].split("_")
        axes.set(title=name, ylabel=unit)
        axes.grid(alpha=0.3)
    for axes in figure.axes[3:]:
        axes.set_xlabel("time, s" if rate else "frame")
    figure.suptitle(f"{body.name}: {_counts(poses)} (blue: accept, orange: review, red bars: lost)")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100)
    return stream.getvalue()


def _counts(poses: Sequence[FramePose]) -> str:
    """How many frames have each status, in words."""
    told = {status: sum(pose.status == status for pose in poses) for status in STATUSES}
    return ", ".join(f"{count} {status}" for status, count in told.items() if count)


def _curves(motion: Motion, body: Body, T_lps_to_world: np.ndarray) -> np.ndarray:
    """(n, 6) pose parameters in deg and mm, without jumps by a full turn."""
    theta = motion.theta(body, T_lps_to_world)
    theta[:, :3] = np.rad2deg(np.unwrap(theta[:, :3], axis=0))
    return theta


def write_film(path: Path, motion: Motion, frames: Frames, moving: Sequence[MovingVolume]) -> None:
    """Write a GIF of the first view: X-ray blue, the bodies' DRRs orange, agreement gray.

    Args:
        path: the file.
        motion: the poses.
        frames: where the X-rays are read from once more.
        moving: what each body's DRRs are made of.
    """
    from PIL import Image

    by_frame = list(zip(*motion.tracks, strict=True))
    pictures = []
    for number in range(1, frames.count + 1):
        frame = frames.frame(number)
        if not frame.radiographs:
            # The film keeps its time.
            pictures.append(pictures[-1].point(lambda value: 0) if pictures else None)
            continue
        view = frame.radiographs[0]
        scale = min(1.0, _FILM_PIXELS / max(view.camera.shape))
        view = resampled_radiograph(view, round(view.camera.width * scale), round(view.camera.height * scale))
        drr = np.zeros(view.camera.shape, np.float32)
        for body, pose in zip(moving, by_frame[number - 1], strict=True):
            if pose.T is not None:
                drr += project(body.for_camera(view.camera, pose.T), view.camera, pose.T)
        # What is made up beyond the field would catch the eye.
        shown = np.where(view.valid, view.image, view.image[view.valid].min())
        pictures.append(Image.fromarray(fusion_image(shown, drr, view.valid)))
    pictures = [picture.quantize(64) for picture in pictures if picture is not None]
    if pictures:
        duration = 1000 / (motion.frames_per_second or 10.0)
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=max(20, round(duration)), loop=0
        )
