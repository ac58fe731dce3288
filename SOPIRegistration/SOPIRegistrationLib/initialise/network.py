"""Poses of a CT in an X-ray from a pose network, whichever it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.pyramid import radiograph_in_camera, square_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.initialise.views_around import ViewsAround, places_along
from SOPIRegistrationLib.installed import RTPI
from SOPIRegistrationLib.networks.comparing import ComparingRTPI
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.patient import PatientNetwork
from SOPIRegistrationLib.networks.threads import few_threads
from SOPIRegistrationLib.networks.two_branch import TwoBranchRTPI, camera_parameters, filled, nominal_cube
from SOPIRegistrationLib.networks.weights import network_of
from SOPIRegistrationLib.subject import Subject

PoseNetwork = ComparingRTPI | TwoBranchRTPI | PatientNetwork

# Of the images that a patient's network was trained on, an X-ray must show so much.
_LEAST_IN_VIEW = 0.25


def load_network(path: str | Path | None = None) -> PoseNetwork:
    """The network of a file of weights, or the installed one, read once; InputError for others."""
    return network_of(path, RTPI, PoseNetwork, "pose initialiser")


@torch.inference_mode()
def network_poses(
    network: PoseNetwork,
    radiograph: PreparedRadiograph,
    subject: Subject | None,
    frame: PoseFrame | None,
    along_scan: bool = False,
    looks_again: bool = True,
) -> np.ndarray:
    """(n, 4, 4) T_lps_to_camera that a network finds, the most certain first.

    Args:
        network: the network.
        radiograph: prepared X-ray, any size and camera.
        subject: the CT; a patient's network knows its own, and needs neither it nor a frame.
        frame: nominal view, source-object distance and rotation centre, in the X-ray's camera.
        along_scan: whether a network that looks from many views does so from places all along the scan.
        looks_again: whether it does so again from its answers.

    Raises:
        InputError: a patient's network, and an X-ray that shows little of what it was trained to see.
    """
    with few_threads(network):
        if isinstance(network, PatientNetwork):
            return _of_patient(network, radiograph)
        # Its poses are the camera's own.
        radiograph = replace(radiograph, camera=radiograph.camera.as_world())
        view = square_radiograph(radiograph, pixels_of(network))
        if isinstance(network, TwoBranchRTPI):
            return _regressed(network, view, subject, frame)
        return _compared(network, view, radiograph.camera, subject, frame, along_scan, looks_again)


def require_same_ct(network: PoseNetwork, ct_identity: str) -> None:
    """Raise InputError where a patient's network is asked about another CT than its own
    (``images.identity``)."""
    if isinstance(network, PatientNetwork) and network.config.ct_identity != ct_identity:
        raise InputError(
            "these weights were trained on another CT: train for this one (sopi train patient), or choose "
            "another way to start with --init"
        )


def _of_patient(network: PatientNetwork, radiograph: PreparedRadiograph) -> np.ndarray:
    """The one pose of a patient's network."""
    view = radiograph_in_camera(radiograph, network.config.camera)
    # Of the same detector: a collimator may leave little of it, in training too.
    detector = replace(radiograph, valid=np.ones_like(radiograph.valid))
    shown = radiograph_in_camera(detector, network.config.camera).valid.mean()
    if shown < _LEAST_IN_VIEW:
        raise InputError(
            f"{radiograph.name or 'the X-ray'} shows {shown:.0%} of the field of view that these "
            "weights were trained for: train with the geometry of this X-ray (sopi train patient)"
        )
    image, valid = torch.from_numpy(view.image)[None], torch.from_numpy(view.valid)[None]
    values = network(fixed_channels(image, valid)).values
    return network.poses(values).numpy()


def pixels_of(network: PoseNetwork) -> int:
    """Width and height of the images that a network sees."""
    return network.config.xray_size if isinstance(network, TwoBranchRTPI) else network.config.pixels


def _regressed(network: TwoBranchRTPI, view: PreparedRadiograph, subject: Subject, frame) -> np.ndarray:
    """The one pose of the published network."""

    def encoded():
        body = subject.body.for_camera(view.camera, frame.T_nominal)
        cube = torch.from_numpy(nominal_cube(body.volume, frame, network.config))
        return network.encode_volume(cube[None, None])

    features = subject.kept("encoded volume", _seen(network, frame), encoded)
    image = filled(torch.from_numpy(view.image)[None], torch.from_numpy(view.valid)[None])
    camera = camera_parameters(torch.from_numpy(view.camera.K)[None], view.camera.shape, frame.sod_mm)
    theta = network(image[None], features, camera).double().numpy()
    return frame.T_from_theta(theta)


def _compared(
    network: ComparingRTPI,
    view: PreparedRadiograph,
    detector: Camera,
    subject: Subject,
    frame: PoseFrame,
    along_scan: bool,
    looks_again: bool,
) -> np.ndarray:
    """Poses mended from views all around."""
    # As coarse as the network's pixels of the whole detector, of which it may see a square part.
    scale = pixels_of(network) / max(detector.shape)
    coarse = detector.resampled(round(detector.width * scale), round(detector.height * scale))

    def seen():
        volumes = [moving.for_camera(coarse, frame.T_nominal) for moving in (subject.body, subject.bones)]
        places = places_along(volumes[1].volume, frame.centre_lps_mm) if along_scan else None
        return ViewsAround(network, *volumes, view.camera, frame, places)

    kept = "views along the scan" if along_scan else "views around"
    around = subject.kept(kept, (_seen(network, frame), view.camera.K.tobytes()), seen)
    image, valid = torch.from_numpy(view.image), torch.from_numpy(view.valid)
    return around.poses(image, valid, looks_again).T_lps_to_camera


def _seen(network: PoseNetwork, frame: PoseFrame) -> tuple:
    """What the network's view of a CT depends on."""
    return id(network), frame.rotation.tobytes(), frame.centre_lps_mm.tobytes(), frame.sod_mm
