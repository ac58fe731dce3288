"""The part of an X-ray that is compared: what a person has drawn or given as a picture."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.images.files import read_radiograph
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.stored import as_seen_from_the_source

# Of the X-ray's pixels, the least share from which a pose can be told.
_LEAST_SHARE = 0.005


def restricted(prepared: PreparedRadiograph, region: np.ndarray) -> PreparedRadiograph:
    """The X-ray with nothing valid outside a region, in the other polarity as well.

    Args:
        prepared: the X-ray.
        region: (rows, columns) bool on its pixels, True where it is to be compared.

    Raises:
        InputError: the region has another size, or hardly any usable pixel.
    """
    if region.shape != prepared.image.shape:
        (rows, columns), (own_rows, own_columns) = region.shape, prepared.image.shape
        raise InputError(
            f"the region of X-ray {prepared.name} has {columns} x {rows} pixels, the X-ray has "
            f"{own_columns} x {own_rows} (columns x rows): make it on this X-ray"
        )
    valid = prepared.valid & region
    if valid.mean() < _LEAST_SHARE:
        raise InputError(
            f"the region of X-ray {prepared.name} leaves {100 * valid.mean():.1f} % of it to compare: draw "
            "it where the bones are seen"
        )
    other = prepared.other_polarity
    return replace(prepared, valid=valid, other_polarity=other and (lambda: restricted(other(), region)))


def region_seen(region: np.ndarray, geometry: CArmGeometry) -> np.ndarray:
    """(rows, columns) bool of a region on one X-ray's stored pixels, as its geometry's camera sees it."""
    stored = Radiograph(region.astype(np.float32))
    return as_seen_from_the_source(stored, geometry.mirrored, geometry.camera).pixels > 0.5


def read_region(path: str | os.PathLike, geometry: CArmGeometry) -> np.ndarray:
    """The pixels that are not 0 of a gray picture of the X-ray's size, as the camera sees it, or
    InputError."""
    return region_seen(read_radiograph(path, is_mask=True).pixels != 0, geometry)
