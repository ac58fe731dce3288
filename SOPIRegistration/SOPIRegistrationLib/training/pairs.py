"""X-rays of patients at known poses, rendered and degraded anew for every step, where the training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from SOPIRegistrationLib.compare.objective import about_shadow
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame, nominal_view
from SOPIRegistrationLib.networks.comparing import Drrs, drrs_to_compare
from SOPIRegistrationLib.projector.autograd import project_tensors
from SOPIRegistrationLib.simulation.xray import random_degradation
from SOPIRegistrationLib.simulation.xray_batch import attenuation_of_stored, simulate_xrays
from SOPIRegistrationLib.training.patients import Patient
from SOPIRegistrationLib.training.settings import PairOptions

# Standard deviations of theta (rx, ry, rz deg; tx, ty, tz mm), somewhat beyond the ``wide`` protocol.
POSE_DEVIATION = np.array([22.0, 22.0, 22.0, 32.0, 24.0, 105.0])
# Of starts that are not at the nominal view: standard deviation about each axis, deg.
_START_TURN_DEG = 11.0
# Of shifts that may be anything up to this share of the image's width: more, and little is left to compare.
_FURTHEST_SHIFT = 0.45
# A centre that lies anywhere is the middle of the bones within at most so many mm.
_AROUND_MM = 80.0
# Share of an X-ray's pixels that must be valid.
_LEAST_VALID = 0.05
# Edge of a usual field of view at the detector, mm; poses and starts spread less in smaller ones.
_FIELD_MM = 204.4
# Of an X-ray that shows a part of the field only, how much at least.
_CLOSEST = 0.4
# About one bone in an X-ray that is cut to it, and about its DRR at the start, mm at its place.
_MARGINS_MM, _COMPARED_MM = (8.0, 25.0), (6.0, 15.0)
# Share of an X-ray's pixels that one bone is compared on, at least.
_LEAST_COMPARED = 0.03
# Nearer than this share of the source-object distance the patient would be in the source's housing.
_NEAREST = 0.55


@dataclass(frozen=True)
class Pairs:
    """X-rays with their patients and poses; consecutive ones share patient and camera.

    An X-ray with several starts comes as often, one after the other.

    Attributes:
        image: (B, N, N) float32, bone bright, any curve.
        valid: (B, N, N) bool.
        K: (B, 3, 3) float64, intrinsics as the registration is told, pixels.
        T_true: (B, 4, 4) float64, T_lps_to_camera.
        T_start: (B, 4, 4) float64, where the search starts.
        T_nominal: (B, 4, 4) float64.
        centre_lps_mm: (B, 3) float64.
        patients: of each group.
        cameras: of each group.
        frames: of each group.
        group: how many X-rays a group has, each counted as often as it comes.
        starts: how often an X-ray comes.
    """

    image: torch.Tensor
    valid: torch.Tensor
    K: torch.Tensor
    T_true: torch.Tensor
    T_start: torch.Tensor
    T_nominal: torch.Tensor
    centre_lps_mm: torch.Tensor
    patients: Sequence[Patient]
    cameras: Sequence[Camera]
    frames: Sequence[PoseFrame]
    group: int
    starts: int = 1

    @property
    def slices(self) -> list[slice]:
        """Of each group, which X-rays of the batch it has."""
        return [slice(n * self.group, (n + 1) * self.group) for n in range(len(self.patients))]

    def project(self, T_lps_to_camera: torch.Tensor) -> Drrs:
        """DRRs from the patients' CTs at poses (B, 4, 4), on the poses' device."""
        T = T_lps_to_camera
        parts = [
            drrs_to_compare(patient.ct_body, patient.ct_bone, camera, T[images], frame.centre_lps_mm)
            for patient, camera, frame, images in zip(
                self.patients, self.cameras, self.frames, self.slices, strict=True
            )
        ]
        return Drrs(*(torch.cat(images) for images in zip(*parts, strict=True)))


def draw_pairs(
    patients: Sequence[Patient],
    group: int,
    pixels: int,
    options: PairOptions,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Pairs:
    """X-rays of each patient with a random C-arm at random poses.

    Args:
        patients: who.
        group: different X-rays of each.
        pixels: width and height of the images.
        options: what X-rays.
        rng: source of everything random.
        device: where the images are made, and all else is put.
    """
    columns: dict[str, list] = {name: [] for name in ("K", "T_true", "T_start", "T_nominal", "centre_lps_mm")}
    line_integrals, strengths, cameras, frames = [], [], [], []
    for patient in patients:
        camera, frame = _random_geometry(patient, pixels, options, rng)
        theta = _random_theta(
            frame, camera, group, 0.0 if patient.is_part and options.cut else options.shifted, rng
        )
        T_true = frame.T_from_theta(theta)
        really = misjudged(camera, rng, options.misjudged)
        line_integrals.append(_line_integrals(patient, really, torch.from_numpy(T_true).to(device), rng))
        strengths += list(options.strength * rng.uniform(0, 1, group) ** 1.5)
        theta, T_true = (np.repeat(array, options.starts, axis=0) for array in (theta, T_true))
        columns["K"].append(np.repeat(camera.K[None], len(theta), axis=0))
        columns["T_true"].append(T_true)
        columns["T_start"].append(_random_starts(frame, camera, theta, options, rng))
        columns["T_nominal"].append(np.repeat(frame.T_nominal[None], len(theta), axis=0))
        columns["centre_lps_mm"].append(np.repeat(frame.centre_lps_mm[None], len(theta), axis=0))
        cameras.append(camera)
        frames.append(frame)
    image, valid = (
        one.repeat_interleave(options.starts, dim=0)
        for one in seen(torch.cat(line_integrals), strengths, rng)
    )
    tensors = {name: torch.from_numpy(np.concatenate(parts)).to(device) for name, parts in columns.items()}
    if options.cut:
        parts = zip(patients, cameras, frames, columns["T_start"], strict=True)
        compared = [_compared(*part, rng) for part in parts]
        limited = valid & torch.from_numpy(np.concatenate(compared)).to(device)
        enough = limited.float().mean(dim=(1, 2), keepdim=True) > 0.5 * _LEAST_COMPARED
        valid = torch.where(enough, limited, valid)
    return Pairs(
        image,
        valid,
        **tensors,
        patients=patients,
        cameras=cameras,
        frames=frames,
        group=group * options.starts,
        starts=options.starts,
    )


def _random_geometry(patient: Patient, pixels: int, options: PairOptions, rng) -> tuple[Camera, PoseFrame]:
    if rng.random() >= options.c_arms:
        sdd_mm, field_mm, sod_mm = 1011.7, _FIELD_MM, rng.choice([700.0, rng.uniform(620, 800)])
    else:
        sdd_mm = rng.uniform(850, 1300)
        field_mm = np.exp(rng.uniform(np.log(160), np.log(420)))
        sod_mm = sdd_mm * rng.uniform(0.58, 0.8)
    view = str(rng.choice(options.views))
    centre_lps_mm, rotation = patient.centre_lps_mm, nominal_view(view)
    is_cut = patient.is_part and options.cut
    if rng.random() < options.elsewhere and not is_cut:
        centre_lps_mm = _any_centre(patient, rng)
    if rng.random() < options.rolled:
        rotation = se3.exp_so3(np.array([0, 0, rng.uniform(-np.pi, np.pi)])) @ rotation
    frame = PoseFrame(centre_lps_mm, sod_mm, view, rotation)
    if is_cut:
        field_mm = _extent_mm(patient, frame, rng) * sdd_mm / sod_mm
    elif rng.random() < options.close:
        field_mm *= rng.uniform(_CLOSEST, 1)
    shift = rng.normal(0, 0.03 * pixels, 2) * (rng.random() < 0.8 * options.c_arms)
    middle = (pixels - 1) / 2
    camera = Camera.from_c_arm(
        sdd_mm,
        (field_mm / pixels, field_mm / pixels),
        pixels,
        pixels,
        principal_point_px=(middle + shift[0], middle + shift[1]),
    )
    return camera, frame


def _extent_mm(patient: Patient, frame: PoseFrame, rng) -> float:
    """Edge of the square, at the patient's place, that holds the CT's bones and a margin."""
    across = (patient.places_lps_mm - frame.centre_lps_mm) @ frame.rotation[:2].T
    return 2 * (float(np.abs(across).max()) + rng.uniform(*_MARGINS_MM))


def _any_centre(patient: Patient, rng) -> np.ndarray:
    """Middle of the CT's bones, a few or many, about any of their points."""
    places = patient.places_lps_mm
    away = np.linalg.norm(places - places[rng.integers(len(places))], axis=1)
    return places[away <= rng.uniform(0, _AROUND_MM)].mean(axis=0) + rng.normal(0, 4, 3)


def _compared(patient: Patient, camera: Camera, frame: PoseFrame, T_start: np.ndarray, rng) -> np.ndarray:
    """(n, N, N) bool: of one bone what is about its DRR at each start, else everything."""
    if not patient.is_part:
        return np.ones((len(T_start), *camera.shape), dtype=bool)
    margin_mm = rng.uniform(*_COMPARED_MM)
    about = about_shadow(patient.ct_body, camera, T_start, frame.sod_mm, margin_mm)
    # Out of sight there is nothing to learn from.
    return about | (about.mean(axis=(1, 2), keepdims=True) < _LEAST_COMPARED)


def _random_theta(frame: PoseFrame, camera: Camera, count: int, shifted: float, rng) -> np.ndarray:
    theta = rng.normal(size=(count, 6)) * POSE_DEVIATION * _spread(camera)
    theta[:, :3] = np.deg2rad(theta[:, :3])
    furthest_mm = _FURTHEST_SHIFT * camera.width * frame.sod_mm / camera.K[0, 0]
    anywhere = rng.random((count, 1)) < shifted
    theta[:, 3:5] = np.where(anywhere, rng.uniform(-furthest_mm, furthest_mm, (count, 2)), theta[:, 3:5])
    theta[:, 5] = np.maximum(theta[:, 5], (_NEAREST - 1) * frame.sod_mm)
    return theta


def _spread(camera: Camera) -> np.ndarray:
    """(6,) factors of the deviations of poses and starts: shifts are smaller in a small field."""
    field_mm = camera.width / camera.K[0, 0] * camera.sdd_mm
    return np.repeat([1.0, min(1.0, field_mm / _FIELD_MM)], 3)


def _random_starts(
    frame: PoseFrame, camera: Camera, theta: np.ndarray, options: PairOptions, rng
) -> np.ndarray:
    if options.start_deviation is None:
        return _starts_as_in_use(frame, theta, options.nominal_starts, rng)
    twist = rng.normal(size=(len(theta), 6)) * options.start_deviation * _spread(camera)
    twist[:, :3] = np.deg2rad(twist[:, :3])
    twist *= 10 ** rng.uniform(-options.start_spread, 0, (len(theta), 1))
    return se3.move_about(frame.T_from_theta(theta), twist, frame.centre_lps_mm)


def _starts_as_in_use(frame: PoseFrame, theta: np.ndarray, nominal: float, rng) -> np.ndarray:
    """Views turned away from the true one, or the nominal view, the patient always nominally placed."""
    count = len(theta)
    w = np.deg2rad(rng.normal(0, _START_TURN_DEG, (count, 3)))
    R = se3.exp_so3(w) @ frame.T_from_theta(theta)[:, :3, :3]
    turned = se3.rigid(R, np.array([0, 0, frame.sod_mm]) - R @ frame.centre_lps_mm)
    return np.where(rng.random((count, 1, 1)) < nominal, frame.T_nominal, turned)


def misjudged(camera: Camera, rng, degree: float = 1.0) -> Camera:
    """The camera as it really was: distances and centre are never known exactly."""
    K = camera.K.copy()
    K[:2, :2] *= np.exp(rng.normal(0, 0.006 * degree))
    K[:2, 2] += rng.normal(0, 0.004 * degree * camera.width, 2)
    return replace(camera, K=K)


def _line_integrals(patient: Patient, camera: Camera, T_lps_to_camera: torch.Tensor, rng) -> torch.Tensor:
    bone, _ = project_tensors(patient.bone, camera, T_lps_to_camera)
    if patient.body is patient.bone:
        return bone
    body, _ = project_tensors(patient.body, camera, T_lps_to_camera, 2 * patient.body.default_step_mm)
    return through_tissue(body, bone, rng)


def through_tissue(body: torch.Tensor, bone: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Line integrals of a body with bones, by a random beam: softer ones show more of the bones."""
    return body + rng.uniform(-0.1, 0.6) * bone


def seen(
    line_integrals: torch.Tensor, strengths: Sequence[float], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """X-rays (B, N, N) float32, bone bright, any curve, and their valid pixels, as preparation hands them
    over, of line integrals (B, N, N) degraded by ``strengths`` (B,)."""
    degradations = [random_degradation(rng, strength) for strength in strengths]
    quanta = torch.Generator(line_integrals.device).manual_seed(int(rng.integers(2**62)))
    xrays = simulate_xrays(
        line_integrals, degradations, lambda expected: torch.poisson(expected, generator=quanta)
    )
    # Of an X-ray that is hardly exposed anywhere, everything counts.
    valid = xrays.valid | (xrays.valid.float().mean(dim=(1, 2), keepdim=True) <= _LEAST_VALID)
    return attenuation_of_stored(xrays._replace(valid=valid), degradations), valid
