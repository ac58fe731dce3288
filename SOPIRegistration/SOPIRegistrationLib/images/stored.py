"""From a picture as it is stored to what the X-ray source sees: the border between the two, in one place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import Radiograph


def as_seen_from_the_source(radiograph: Radiograph, mirrored: bool, camera: Camera | None) -> Radiograph:
    """An X-ray as its geometry's camera describes it: columns turned over, lens distortion taken out.

    Args:
        radiograph: as stored.
        mirrored: whether the geometry says that the stored image is mirrored (``CArmGeometry.mirrored``).
        camera: of this X-ray; None where it is not known yet.
    """
    if mirrored:
        radiograph = radiograph.mirrored()
    if camera is None or camera.distortion is None or radiograph.pixels.shape != camera.shape:
        return radiograph
    u, v = distorted_pixels(camera)
    rows, columns = camera.shape
    pixels = ndimage.map_coordinates(radiograph.pixels.astype(np.float32), [v, u], order=1, mode="nearest")
    seen = (u >= 0) & (u <= columns - 1) & (v >= 0) & (v <= rows - 1)
    if radiograph.seen is not None:
        nearest = (
            np.clip(np.rint(v), 0, rows - 1).astype(int),
            np.clip(np.rint(u), 0, columns - 1).astype(int),
        )
        seen &= radiograph.seen[nearest]
    return replace(radiograph, pixels=pixels, seen=seen)


def distorted_pixels(camera: Camera) -> np.ndarray:
    """(2, rows, columns): u and v in the stored picture of each pixel of the undistorted one.

    Brown's model as OpenCV counts it: with x, y the ray at depth one and r its length across,
    x_d = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), y_d likewise with p1 and p2
    exchanged.
    """
    k1, k2, p1, p2, k3 = camera.distortion
    rays = camera.unit_rays()
    x, y = rays[..., 0] / rays[..., 2], rays[..., 1] / rays[..., 2]
    r2 = x**2 + y**2
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    x_d = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    y_d = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    pixels = np.stack([x_d, y_d, np.ones_like(x)], axis=-1) @ camera.K.T
    return np.moveaxis(pixels[..., :2], -1, 0)
