"""Poses from the RTPI network: corrected from several starts at once until they stand still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch

from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.pyramid import radiograph_in_camera, square_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.installed import RTPI
from SOPIRegistrationLib.networks.comparing import (
    ComparingRTPI,
    camera_features,
    centre_in_camera,
    corrected,
    drrs_to_compare,
    moving_channels,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.patient import PatientNetwork
from SOPIRegistrationLib.networks.two_branch import TwoBranchRTPI, camera_parameters, filled, nominal_cube
from SOPIRegistrationLib.networks.weights import network_of
from SOPIRegistrationLib.projector import ProjectorVolume

PoseNetwork = ComparingRTPI | TwoBranchRTPI | PatientNetwork
# Features of CTs that the published network has seen, by the volume they are of.
_FEATURES: WeakKeyDictionary[ProjectorVolume, dict] = WeakKeyDictionary()

_CORRECTIONS = 5
# Of the images that a patient's network was trained on, an X-ray must show so much.
_LEAST_IN_VIEW = 0.25
# Starts besides the nominal pose: turned about each axis, nearer and further.
_TURN_DEG, _DEPTH_MM = 28.0, 110.0


@dataclass(frozen=True)
class NetworkPoses:
    """What the network makes of an X-ray.

    Attributes:
        T_lps_to_camera: (n, 4, 4) one pose from each start: that from the nominal view, then the others, the
            most certain ones first.
        expected_error: (n, 3) rotation (deg), in plane and in depth (mm), as the network expects them.
    """

    T_lps_to_camera: np.ndarray
    expected_error: np.ndarray


def load_network(path: str | Path | None = None) -> PoseNetwork:
    """The network of a file of weights, or the installed one; read once.

    Raises:
        InputError: no such weights, damaged, or those of something else.
    """
    return network_of(path, RTPI, PoseNetwork, "pose initialiser")


@torch.inference_mode()
def network_poses(
    network: PoseNetwork,
    radiograph: PreparedRadiograph,
    body: ProjectorVolume,
    bone: ProjectorVolume,
    frame: PoseFrame,
    progress: Callable[[float], bool | None] | None = None,
) -> NetworkPoses:
    """Ask a network for the pose.

    Args:
        network: the network.
        radiograph: prepared X-ray, any size and camera.
        body: attenuation of the CT, as coarse as the network's pixels allow.
        bone: the same of its bones alone.
        frame: nominal view, source-object distance and rotation centre.
        progress: called with the fraction done; a true answer raises Cancelled.

    Raises:
        Cancelled: ``progress`` asked for it.
        InputError: a patient's network, and an X-ray that shows little of what it was trained to see.
    """
    if isinstance(network, PatientNetwork):
        return _of_patient(network, radiograph)
    view = square_radiograph(radiograph, pixels_of(network))
    if isinstance(network, TwoBranchRTPI):
        return _regressed(network, view, body, frame)
    return _corrected(network, view, body, bone, frame, progress)


def require_same_ct(network: PoseNetwork, ct_identity: str) -> None:
    """Whether a network may be asked about a CT: a patient's network knows only its own.

    Args:
        network: any.
        ct_identity: of the CT to be registered (``images.identity``).

    Raises:
        InputError: it was trained on another CT.
    """
    if isinstance(network, PatientNetwork) and network.config.ct_identity != ct_identity:
        raise InputError(
            "these weights were trained on another CT: train for this one (sopi train patient), or choose "
            "another way to start with --init"
        )


def _of_patient(network: PatientNetwork, radiograph: PreparedRadiograph) -> NetworkPoses:
    """The one pose of a patient's network, which says nothing about its errors."""
    view = radiograph_in_camera(radiograph, network.config.camera)
    if view.valid.mean() < _LEAST_IN_VIEW:
        raise InputError(
            f"{radiograph.name or 'the X-ray'} shows {view.valid.mean():.0%} of the field of view that these "
            "weights were trained for: train with the geometry of this X-ray (sopi train patient)"
        )
    image, valid = torch.from_numpy(view.image)[None], torch.from_numpy(view.valid)[None]
    values = network(fixed_channels(image, valid)).values
    return NetworkPoses(network.poses(values).numpy(), np.full((1, 3), np.nan))


def pixels_of(network: PoseNetwork) -> int:
    """Width and height of the images that a network sees."""
    return network.config.xray_size if isinstance(network, TwoBranchRTPI) else network.config.pixels


def _regressed(network: TwoBranchRTPI, view: PreparedRadiograph, body, frame) -> NetworkPoses:
    """The one pose of the published network, which says nothing about its errors."""
    key = id(network), frame.rotation.tobytes(), frame.centre_lps_mm.tobytes()
    known = _FEATURES.setdefault(body, {})
    if key not in known:
        cube = torch.from_numpy(nominal_cube(body.volume, frame, network.config))
        known[key] = network.encode_volume(cube[None, None])
    image = filled(torch.from_numpy(view.image)[None], torch.from_numpy(view.valid)[None])
    camera = camera_parameters(torch.from_numpy(view.camera.K)[None], view.camera.shape, frame.sod_mm)
    theta = network(image[None], known[key], camera).double().numpy()
    return NetworkPoses(frame.T_from_theta(theta), np.full((1, 3), np.nan))


def _corrected(network: ComparingRTPI, view: PreparedRadiograph, body, bone, frame, progress) -> NetworkPoses:
    """Poses corrected from the nominal view and from views around it, all at once."""
    pixels = network.config.pixels
    T = torch.from_numpy(frame.T_from_theta(_starts()))
    count = len(T)
    K = torch.from_numpy(view.camera.K).expand(count, 3, 3)
    centre = torch.from_numpy(frame.centre_lps_mm).expand(count, 3)
    image, valid = torch.from_numpy(view.image)[None], torch.from_numpy(view.valid)[None]
    fixed = fixed_channels(image, valid).expand(count, -1, -1, -1)
    for number in range(_CORRECTIONS):
        moving = moving_channels(drrs_to_compare(body, bone, view.camera, T.numpy(), frame.centre_lps_mm))
        correction = network(fixed, moving, camera_features(K, T, centre, pixels))
        T = corrected(T, correction.values, K, centre, pixels)
        if progress is not None and progress((number + 1) / _CORRECTIONS):
            raise Cancelled("stopped during the pose network")
    depth = centre_in_camera(T, centre)[:, 2]
    width_mm = pixels * depth / K[:, 0, 0]
    deviation = correction.deviation
    expected = torch.stack(
        [
            torch.rad2deg(deviation[:, :3].norm(dim=1)),
            deviation[:, 3:5].norm(dim=1) * width_mm,
            deviation[:, 5] * depth,
        ],
        dim=1,
    ).numpy()
    # What it is trained most for goes first: from elsewhere it is often certain and wrong.
    order = np.argsort(np.append(-np.inf, deviation[1:].sum(dim=1).numpy()), kind="stable")
    return NetworkPoses(T.numpy()[order], expected[order])


def _starts() -> np.ndarray:
    """(9, 6) theta: the nominal view, turned both ways about each axis, nearer and further."""
    theta = np.zeros((9, 6))
    for axis in range(3):
        theta[1 + 2 * axis, axis] = np.deg2rad(_TURN_DEG)
        theta[2 + 2 * axis, axis] = -np.deg2rad(_TURN_DEG)
    theta[7:, 5] = _DEPTH_MM, -_DEPTH_MM
    return theta
