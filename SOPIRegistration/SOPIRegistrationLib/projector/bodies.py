"""Several bodies in one picture: the sum of their line integrals, each body at a pose of its own.

Of every body only the rays are marched that meet its box; its six derivatives are zero everywhere else, and
are kept for that window only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.projector import project, project_with_jacobian
from SOPIRegistrationLib.projector.physics import SeenVolume
from SOPIRegistrationLib.projector.physics.seen import Response
from SOPIRegistrationLib.projector.volume import ProjectorVolume


class BodyBlock(NamedTuple):
    """What the picture changes by as one body moves; zero outside the window.

    Attributes:
        window: (rows, columns) slices of the picture that hold the body's projection; empty out of view.
        jacobian: (6, rows, columns) float32 there, by twists (w rad, v mm) in the camera frame, as of
            ``project_with_jacobian``.
    """

    window: tuple[slice, slice]
    jacobian: np.ndarray


def line_integrals(
    volumes: Sequence[ProjectorVolume | SeenVolume], camera: Camera, T_lps_to_world: np.ndarray
) -> np.ndarray:
    """(rows, columns) float32 sum of several bodies' line integrals, whatever a detector makes of it.

    Args:
        volumes: one for each body.
        camera: of the picture.
        T_lps_to_world: (N, 4, 4) a pose for each, mm.
    """
    plain, _ = _plain(volumes)
    integrals = np.zeros(camera.shape, np.float32)
    for volume, T in zip(plain, T_lps_to_world, strict=True):
        window = window_of(volume, camera, T)
        if is_seen(window):
            integrals[window] += project(volume, _within(camera, window), T)
    return integrals


def project_bodies(
    volumes: Sequence[ProjectorVolume | SeenVolume], camera: Camera, T_lps_to_world: np.ndarray
) -> np.ndarray:
    """The sum of several bodies' :func:`line_integrals`, of metal as a detector sees it."""
    return as_seen(volumes, line_integrals(volumes, camera, T_lps_to_world))


def as_seen(volumes: Sequence[ProjectorVolume | SeenVolume], integrals: np.ndarray) -> np.ndarray:
    """(rows, columns) what a detector makes of line integrals of bodies; these themselves without metal."""
    _, response = _plain(volumes)
    return integrals if response is None else response.projection([integrals], [], False)[0]


def project_bodies_with_jacobian(
    volumes: Sequence[ProjectorVolume | SeenVolume],
    camera: Camera,
    T_lps_to_world: np.ndarray,
    standing: np.ndarray | None = None,
    free: Sequence[bool] | None = None,
) -> tuple[np.ndarray, list[BodyBlock]]:
    """The same with its derivatives.

    Args:
        volumes: one for each body.
        camera: of the picture.
        T_lps_to_world: (N, 4, 4) a pose for each, mm.
        standing: (rows, columns) line integrals of those that do not move.
        free: (N,) which bodies move; all unless given.

    Returns:
        Picture (rows, columns) float32, and a block for each body that moves, in their order.
    """
    plain, response = _plain(volumes)
    image = np.zeros(camera.shape, np.float32) if standing is None else standing.copy()
    blocks = []
    moves = [True] * len(plain) if free is None else free
    for volume, T, moving in zip(plain, T_lps_to_world, moves, strict=True):
        if not moving:
            continue
        window = window_of(volume, camera, T)
        jacobian = np.zeros((*image[window].shape, 6), np.float32)
        if is_seen(window):
            part, jacobian = project_with_jacobian(volume, _within(camera, window), T)
            image[window] += part
        blocks.append(BodyBlock(window, jacobian))
    if response is not None:
        integrals = image
        image = response.projection([integrals], [], False)[0]
        for block in blocks:
            # In place.
            response.projection([integrals[block.window]], [block.jacobian], True)
    return image, [BodyBlock(window, np.moveaxis(jacobian, -1, 0)) for window, jacobian in blocks]


def window_of(
    volume: ProjectorVolume | SeenVolume, camera: Camera, T_lps_to_world: np.ndarray
) -> tuple[slice, slice]:
    """(rows, columns) slices of a picture within which a volume's box is projected; empty out of view."""
    [volume], _ = _plain([volume])
    nothing = slice(0, 0), slice(0, 0)
    if volume.is_empty:
        return nothing
    corners = np.stack(np.meshgrid(*volume.support.T, indexing="ij"), axis=-1).reshape(-1, 3)
    padded_to_camera = camera.T_world_to_camera @ T_lps_to_world @ np.linalg.inv(volume.lps_to_padded)
    points = se3.transform_points(padded_to_camera, corners)
    if points[:, 2].max() <= 0:
        return nothing
    if points[:, 2].min() <= 0:
        return slice(0, camera.height), slice(0, camera.width)
    pixels = camera.project(points)
    size = [camera.width, camera.height]
    low = np.clip(np.floor(pixels.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 1, low, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _plain(volumes) -> tuple[list[ProjectorVolume], Response | None]:
    """The volumes whose line integrals are summed, and what a detector makes of the sum."""
    response = next((one.response for one in volumes if isinstance(one, SeenVolume)), None)
    return [one.parts[0] if isinstance(one, SeenVolume) else one for one in volumes], response


def is_seen(window: tuple[slice, slice]) -> bool:
    """Whether there is anything in a window."""
    rows, columns = window
    return rows.stop > rows.start and columns.stop > columns.start


def _within(camera: Camera, window: tuple[slice, slice]) -> Camera:
    rows, columns = window
    return camera.cropped(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
