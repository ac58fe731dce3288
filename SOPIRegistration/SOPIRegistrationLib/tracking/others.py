"""What other tracked bodies hide of one: behind metal nothing is seen, and its edge is not the body's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.compare.objective import at_level
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.projector import project
from SOPIRegistrationLib.subject import Subject

_PIXELS = 256
# Opacity from which metal is seen to be there, and the blur of its edge.
_THERE, _MARGIN_PX = 0.05, 2


def without_others(
    radiograph: PreparedRadiograph, others: Iterable[tuple[Subject, np.ndarray]]
) -> PreparedRadiograph:
    """An X-ray without the pixels that other bodies of metal cover.

    Args:
        radiograph: prepared.
        others: each with its pose (4, 4) T_lps_to_world, mm. Those that are not of metal hide nothing.
    """
    metal = [(subject, T) for subject, T in others if subject.ct.is_metal]
    if not metal:
        return radiograph
    camera = at_level(radiograph, _PIXELS).camera
    shadow = np.zeros(camera.shape, bool)
    for subject, T in metal:
        shadow |= project(subject.silhouette.for_camera(camera, T), camera, T) > _THERE
    shadow = ndimage.binary_dilation(shadow, iterations=_MARGIN_PX)
    return replace(radiograph, valid=radiograph.valid & ~spread(shadow, radiograph.camera.shape))


def spread(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: a mask of fewer pixels of the same field on the pixels of a shape."""
    rows, columns = (
        np.minimum((np.arange(full) * small) // full, small - 1)
        for full, small in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
