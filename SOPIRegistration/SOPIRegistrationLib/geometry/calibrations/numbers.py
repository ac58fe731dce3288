"""Numbers in texts, and the cameras they make."""

from __future__ import annotations

import re

import numpy as np

from SOPIRegistrationLib.errors import InputError


def numbers_of(text: str) -> np.ndarray | None:
    """Numbers separated by blanks, commas, semicolons or brackets; None where anything else stands there."""
    words = re.split(r"[\s,;\[\]()]+", text.strip())
    try:
        values = np.array([float(word) for word in words if word])
    except ValueError:
        return None
    return values if values.size and np.isfinite(values).all() else None


def required_numbers(text: str, count: int, what: str) -> np.ndarray:
    """Exactly so many numbers.

    Raises:
        InputError: another number of them, or something else.
    """
    values = numbers_of(text)
    if values is None or len(values) != count:
        remedy = (
            "write them with decimal points" if has_decimal_commas(text) else "export the calibration again"
        )
        raise InputError(f"{what} must be {count} finite numbers: {remedy}")
    return values


def has_decimal_commas(text: str) -> bool:
    """Whether a text is numbers of which some have a comma for a point, as some languages write them."""
    words = [word for word in re.split(r"[\s;\[\]()]+", text.strip()) if word]
    is_number = all(re.fullmatch(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?", word) for word in words)
    return is_number and len(words) > 1 and any("," in word for word in words)


def decomposed(P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K (3, 3) with positive focal lengths, R (3, 3) and t (3,) of a projection matrix (3, 4) of any scale.

    Raises:
        InputError: the matrix is singular.
    """
    # Here, for most runs read no projection matrix and need not wait for it.
    from scipy.linalg import rq

    M = P[:, :3]
    determinant = np.linalg.det(M)
    if not abs(determinant) > 1e-12 * np.linalg.norm(M) ** 3:
        raise InputError("a projection matrix is singular: export the calibration again")
    P = P * np.sign(determinant)
    K, R = rq(P[:, :3])
    signs = np.diag(np.sign(np.diag(K)))
    K, R = K @ signs, signs @ R
    return K / K[2, 2], R, np.linalg.solve(K, P[:, 3])


def text_of(matrix, separator: str = ",") -> str:
    """Rows of a matrix, a line each, without loss."""
    return "\n".join(separator.join(f"{value:.17g}" for value in row) for row in np.atleast_2d(matrix))
