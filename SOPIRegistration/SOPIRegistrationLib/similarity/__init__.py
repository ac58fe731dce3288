"""Similarity of a projection and an X-ray: larger is better, a mask is exact, numpy and torch alike.

Every measure takes ``moving``, (..., rows, columns) images, ``fixed``, (rows, columns) or one image for each
of ``moving``, and ``mask``, (rows, columns) bool or nonnegative weights, None for every pixel; and gives
(...,) one value an image.
"""

from __future__ import annotations

from collections.abc import Callable

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.similarity.correlation import local_ncc, ncc
from SOPIRegistrationLib.similarity.gradients import (
    gradient_correlation,
    gradient_difference,
    normalised_gradient_information,
)
from SOPIRegistrationLib.similarity.laplacian import nccl

SIMILARITIES: dict[str, Callable] = {
    "ncc": ncc,
    "local_ncc": local_ncc,
    "gc": gradient_correlation,
    "ngi": normalised_gradient_information,
    "nccl": nccl,
    "gd": gradient_difference,
}


def get_similarity(name: str) -> Callable:
    """The measure of that name.

    Raises:
        InputError: there is none.
    """
    try:
        return SIMILARITIES[name]
    except KeyError:
        choices = ", ".join(SIMILARITIES)
        raise InputError(f"unknown similarity '{name}': use one of {choices}") from None


__all__ = [
    "SIMILARITIES",
    "get_similarity",
    "gradient_correlation",
    "gradient_difference",
    "local_ncc",
    "ncc",
    "nccl",
    "normalised_gradient_information",
]
