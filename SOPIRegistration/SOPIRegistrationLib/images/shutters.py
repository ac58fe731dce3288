"""What of an X-ray lies inside its collimator and its display shutter, by DICOM tags (C.8.7.3, C.7.6.11).

Both come in the same shapes, rectangle, circle and polygon, of which what lies inside all is shown. Rows and
columns are counted from one.
"""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.images.dicom_tags import frame_value

# What shows less of the image than this was made for another.
_LEAST_SHOWN = 0.05


def shown_by_tags(dataset, index: int, shape: tuple[int, int]) -> np.ndarray | None:
    """Bool (rows, columns) of a frame, False behind collimator or shutter; None where no tag tells."""
    shown = np.ones(shape, dtype=bool)
    for name in ("Collimator", "Shutter"):
        inside = _inside(dataset, index, shape, name)
        if inside.mean() >= _LEAST_SHOWN:
            shown &= inside
    return None if shown.all() or shown.mean() < _LEAST_SHOWN else shown


def _inside(dataset, index: int, shape, name: str) -> np.ndarray:
    shapes = frame_value(dataset, f"{name}Shape", index)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    rows, columns = np.arange(1, shape[0] + 1)[:, None], np.arange(1, shape[1] + 1)
    inside = np.ones(shape, dtype=bool)

    def numbers(keyword: str) -> list[float]:
        value = frame_value(dataset, keyword, index)
        values = value if isinstance(value, list) else [value]
        return values if all(isinstance(one, float) for one in values) else []

    if "RECTANGULAR" in shapes:
        edges = [
            numbers(f"{name}{side}Edge")
            for side in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
        ]
        if all(len(edge) == 1 for edge in edges):
            (left,), (right,), (upper,), (lower,) = edges
            inside &= (columns >= left) & (columns <= right) & (rows >= upper) & (rows <= lower)
    if "CIRCULAR" in shapes:
        centre, radius = numbers(f"CenterOfCircular{name}"), numbers(f"RadiusOfCircular{name}")
        if len(centre) == 2 and len(radius) == 1:
            inside &= (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius[0] ** 2
    if "POLYGONAL" in shapes:
        corners = numbers(f"VerticesOfThePolygonal{name}")
        if len(corners) >= 6 and len(corners) % 2 == 0:
            inside &= _in_polygon(rows, columns, np.reshape(corners, (-1, 2)))
    return inside


def _in_polygon(rows: np.ndarray, columns: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Where a line to the right crosses the border an odd number of times; corners (n, 2) are row, column."""
    inside = np.zeros((rows.size, columns.size), dtype=bool)
    for (row, column), (next_row, next_column) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if row != next_row:
            crosses = (row > rows) != (next_row > rows)
            at = column + (rows - row) * (next_column - column) / (next_row - row)
            inside ^= crosses & (columns < at)
    return inside
