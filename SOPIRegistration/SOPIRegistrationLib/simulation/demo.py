"""A made-up case with a known answer: a patient's CT and an X-ray of the patient at a random pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import attenuation_of_hu
from SOPIRegistrationLib.images.pyramid import area_average
from SOPIRegistrationLib.images.radiograph import Radiograph
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.spine import VERTEBRA_LABELS
from SOPIRegistrationLib.simulation.xray import (
    Collimation,
    IntensityCurve,
    XRayDegradation,
    simulate_radiograph,
)

CT_SPACING_MM = 2.0
# The X-ray comes from a finer patient, with a finer step and on finer pixels, than a registration of it uses.
XRAY_SPACING_MM, XRAY_STEP_MM, XRAY_OVERSAMPLING = 1.25, 0.8, 2
SOD_MM = 700.0
# Of the `paper` protocol: rx, ry, rz (deg^2), tx, ty, tz (mm^2); the papers' tx, in depth, is our tz.
PAPER_VARIANCE = np.array([20.0, 20, 20, 30, 15, 100])
_THETA_SD = np.concatenate([np.deg2rad(np.sqrt(PAPER_VARIANCE[:3])), np.sqrt(PAPER_VARIANCE[3:])])


@dataclass(frozen=True)
class DemoCase:
    """What a registration is given, and the answer.

    Attributes:
        ct: int16 HU, 2 mm.
        labels: uint8 bones on the CT's grid (see :class:`~SOPIRegistrationLib.simulation.phantom.Phantom`).
        radiograph: whole-body X-ray with noise, scatter, an intensity curve and a circular field.
        camera: geometry of the X-ray.
        pose_frame: AP view about the middle of the lumbar vertebrae.
        theta_true: (6,) pose parameters of the X-ray, rad and mm.
        theta_start: (6,) where a registration starts.
    """

    ct: Volume
    labels: Volume
    radiograph: Radiograph
    camera: Camera
    pose_frame: PoseFrame
    theta_true: np.ndarray
    theta_start: np.ndarray

    @property
    def T_true(self) -> np.ndarray:
        """(4, 4) T_lps_to_world of the X-ray."""
        return self.pose_frame.T_from_theta(self.theta_true)

    @property
    def T_start(self) -> np.ndarray:
        """(4, 4) T_lps_to_world at the start."""
        return self.pose_frame.T_from_theta(self.theta_start)


def demo_case(seed: int) -> DemoCase:
    """Make a patient and an X-ray; pose and start are both drawn from the `paper` protocol."""
    rng = np.random.default_rng([seed, 1])
    phantom = lumbar_phantom(seed, CT_SPACING_MM)
    camera = Camera.from_c_arm(1011.7, (0.79836, 0.79836), 256, 256)
    frame = PoseFrame(_lumbar_centroid(phantom.labels), SOD_MM, "AP")
    theta_true, theta_start = random_paper_theta(rng, 2)
    line_integrals = fine_line_integrals(seed, camera, frame.T_from_theta(theta_true))
    degradation = XRayDegradation(
        scatter_to_primary=rng.uniform(0.1, 0.4),
        blur_px=0.5,
        collimation=Collimation(radius=0.98),
        photons=1e6,
        curve=IntensityCurve.random(rng, 0.5),
        bit_depth=12,
        invert=True,
    )
    radiograph = simulate_radiograph(line_integrals, degradation, rng, f"demo X-ray {seed}")
    return DemoCase(phantom.ct, phantom.labels, radiograph, camera, frame, theta_true, theta_start)


def random_paper_theta(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 6) pose parameters, rad and mm, drawn as in the SOPI paper (its numbers as variances)."""
    return rng.normal(0, _THETA_SD, (count, 6))


def fine_line_integrals(seed: int, camera: Camera, T_lps_to_world: np.ndarray) -> np.ndarray:
    """Line integrals (rows, columns) of a phantom at a pose, finer in every respect than its CT and without
    CT noise."""
    patient = lumbar_phantom(seed, XRAY_SPACING_MM, noise_hu=0.0).ct
    attenuation = patient.same_grid(attenuation_of_hu(patient.array.astype(np.float32)))
    fine = camera.resampled(camera.width * XRAY_OVERSAMPLING, camera.height * XRAY_OVERSAMPLING)
    integrals = project(ProjectorVolume(attenuation), fine, T_lps_to_world, XRAY_STEP_MM)
    return -np.log(area_average(np.exp(-integrals), camera.width, camera.height))


def _lumbar_centroid(labels: Volume) -> np.ndarray:
    """(3,) LPS mm: centroid of the voxels of L2 to L4."""
    k, j, i = np.nonzero((labels.array >= VERTEBRA_LABELS["L2"]) & (labels.array <= VERTEBRA_LABELS["L4"]))
    return labels.points_lps([i.mean(), j.mean(), k.mean()])
