"""X-ray and DRR in one picture, to judge a registration by eye."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

MODES = ("fusion", "edges", "checkerboard", "drr")

# Complementary, so that what agrees adds up to gray; blue and orange are told apart by nearly everybody.
XRAY_COLOUR = np.array([0.0, 0.6, 1.0], dtype=np.float32)
DRR_COLOUR = 1 - XRAY_COLOUR
EDGE_COLOUR = np.array([1.0, 0.85, 0.0], dtype=np.float32)
_TILES = 8
_EDGE_SIGMA_PX = 1.5
# Of the gradients of an image, the steepest start an edge and those of the second share go on with it.
_STRONG_PERCENTILE, _WEAK_PERCENTILE = 93.0, 85.0
_MATCHED_PERCENTILES = (10.0, 90.0)
# Share of a DRR's maximum below which a ray passes beside the object; bones alone leave most rays empty.
_COVERED = 0.02


def fusion_image(
    xray: np.ndarray,
    drr: np.ndarray,
    valid: np.ndarray | None = None,
    mode: str = "fusion",
    *,
    xray_window: tuple[float, float] | None = None,
    drr_window: tuple[float, float] | None = None,
    bone_dark: bool = False,
) -> np.ndarray:
    """One colour picture of an X-ray and the DRR at a pose.

    Args:
        xray: (rows, columns) X-ray, any intensity curve.
        drr: (rows, columns) DRR, bone bright.
        valid: (rows, columns) bool, where the X-ray shows the patient; the DRR is shown nowhere else.
        mode: "fusion" (X-ray blue, DRR orange, agreement gray), "edges" (the DRR's edges on the X-ray),
            "checkerboard" (tiles of both) or "drr" (the DRR, as the X-ray would show it).
        xray_window: values shown as black and white; what the valid pixels hold unless given.
        drr_window: the same of the DRR; what gives it the X-ray's brightness unless given.
        bone_dark: whether bones are dark in the X-ray; the DRR is turned over where it has to look alike.

    Returns:
        (rows, columns, 3) uint8 RGB.
    """
    if valid is None:
        valid = np.ones(xray.shape, dtype=bool)
    fixed = windowed(xray, xray_window or display_window(xray[valid]))
    bright_bones = 1 - fixed if bone_dark else fixed
    moving = windowed(drr, drr_window or matching_window(drr[valid], bright_bones[valid]))
    if mode == "fusion":
        picture = bright_bones[..., None] * XRAY_COLOUR + moving[..., None] * DRR_COLOUR
        picture *= valid[..., None]
    elif mode == "edges":
        picture = np.where((edges(moving) & valid)[..., None], EDGE_COLOUR, fixed[..., None])
    elif mode in ("checkerboard", "drr"):
        alike = 1 - moving if bone_dark else moving
        shown = valid & _tiles(xray.shape) if mode == "checkerboard" else valid
        picture = np.repeat(np.where(shown, alike, fixed)[..., None], 3, axis=-1)
    else:
        raise ValueError(f"unknown mode '{mode}': use one of {', '.join(MODES)}")
    return np.rint(255 * picture).astype(np.uint8)


def display_window(values: np.ndarray) -> tuple[float, float]:
    """Values to be shown as black and white: all but the outermost of an image."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def matching_window(drr: np.ndarray, brightness: np.ndarray) -> tuple[float, float]:
    """Values of a DRR to be shown as black and white so that it is as bright as an X-ray, and as contrasty.

    Args:
        drr: (n,) its pixels.
        brightness: (n,) what the X-ray shows there, bone bright, 0 to 1.
    """
    covered = drr > _COVERED * drr.max(initial=0.0)
    if not covered.any():
        return 0.0, 1.0
    low, high = np.percentile(drr[covered], _MATCHED_PERCENTILES)
    dark, bright = np.percentile(brightness[covered], _MATCHED_PERCENTILES)
    if high <= low or bright <= dark:
        return display_window(drr)
    per_brightness = (high - low) / (bright - dark)
    # Where nothing attenuates, nothing shows, even if the bones alone would match a brighter gray.
    return max(0.0, float(low - dark * per_brightness)), float(high + (1 - bright) * per_brightness)


def windowed(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Float32 image with a window's values stretched to 0 and 1, clipped."""
    low, high = window
    scale = 1 / (high - low) if high > low else 0.0
    return np.clip((image.astype(np.float32) - np.float32(low)) * np.float32(scale), 0, 1)


def edges(image: np.ndarray) -> np.ndarray:
    """Bool edges, a pixel wide: maxima of the gradient along it, followed by hysteresis (Canny 1986)."""
    row = ndimage.gaussian_filter(image, _EDGE_SIGMA_PX, order=(1, 0))
    column = ndimage.gaussian_filter(image, _EDGE_SIGMA_PX, order=(0, 1))
    steepness = np.hypot(row, column)
    if not steepness.any():
        return np.zeros(image.shape, dtype=bool)
    crest = np.zeros(image.shape, dtype=bool)
    padded = np.pad(steepness, 1)
    direction = np.rint(np.arctan2(row, column) / (np.pi / 4)).astype(int) % 4
    for turn, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + down : padded.shape[0] - 1 + down, 1 + right : padded.shape[1] - 1 + right]
        behind = padded[1 - down : padded.shape[0] - 1 - down, 1 - right : padded.shape[1] - 1 - right]
        crest |= (direction == turn) & (steepness >= ahead) & (steepness > behind)
    weak, strong = np.percentile(steepness[steepness > 0], (_WEAK_PERCENTILE, _STRONG_PERCENTILE))
    candidates, count = ndimage.label(crest & (steepness >= weak), np.ones((3, 3)))
    kept = np.zeros(count + 1, dtype=bool)
    kept[candidates[steepness >= strong]] = True
    kept[0] = False
    return kept[candidates]


def _tiles(shape: tuple[int, int]) -> np.ndarray:
    """Bool checkerboard, eight tiles along the shorter edge; False at the first pixel."""
    edge = max(1, min(shape) // _TILES)
    rows, columns = (np.arange(n) // edge for n in shape)
    return (rows[:, None] + columns) % 2 == 1
