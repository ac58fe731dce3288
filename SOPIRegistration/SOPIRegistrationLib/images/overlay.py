"""X-ray and DRR in one picture, to judge a registration by eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

MODES = ("edges", "fusion", "curtain", "checkerboard", "lens", "drr")

# Complementary, so that what agrees adds up to gray; blue and orange are told apart by nearly everybody.
XRAY_COLOUR = np.array([0.0, 0.6, 1.0], dtype=np.float32)
DRR_COLOUR = 1 - XRAY_COLOUR
EDGE_COLOUR = np.array([1.0, 0.85, 0.0], dtype=np.float32)
_TILES = 8
# Radius of the lens, as a share of an image's shorter edge.
_LENS = 0.18
_EDGE_SIGMA_PX = 1.5
# Of the gradients of an image, the steepest start an edge and those of the second share go on with it.
_STRONG_PERCENTILE, _WEAK_PERCENTILE = 93.0, 85.0
_MATCHED_PERCENTILES = (10.0, 90.0)
# Share of a DRR's maximum below which a ray passes beside the object; bones alone leave most rays empty.
_COVERED = 0.02
# Edge of the neighbourhood whose contrast is evened out, as a share of the shorter edge of an image.
_LOCAL_SHARE = 0.25
# Contrast below this share of the window is noise, not to be raised further.
_LEAST_CONTRAST = 0.02


def fusion_image(
    xray: np.ndarray,
    drr: np.ndarray,
    valid: np.ndarray | None = None,
    mode: str = "fusion",
    *,
    xray_window: tuple[float, float] | None = None,
    drr_window: tuple[float, float] | None = None,
    bone_dark: bool = False,
    mix: float = 0.5,
    edge_strength: float = 1.0,
    curtain: float = 0.5,
    lens_down: float = 0.5,
    local_contrast: float = 0.0,
    bodies: Sequence[tuple[np.ndarray, Sequence[float]]] = (),
) -> np.ndarray:
    """One colour picture of an X-ray and the DRR at a pose, bones as dark or bright as the X-ray has them.

    Args:
        xray: (rows, columns) X-ray, any intensity curve.
        drr: (rows, columns) DRR, bone bright.
        valid: (rows, columns) bool, where the X-ray shows the patient; elsewhere the X-ray stands alone.
        mode: "edges" (the DRR's edges on the X-ray), "fusion" (X-ray blue, DRR orange, agreement gray),
            "curtain" (the X-ray left of a line, the DRR right of it), "checkerboard" (tiles of both), "lens"
            (the DRR in a circle, the X-ray around it) or "drr" (the DRR, as the X-ray would show it).
        xray_window: values shown as black and white; what the valid pixels hold unless given.
        drr_window: the same of the DRR; what gives it the X-ray's brightness unless given.
        bone_dark: whether bones are dark in the X-ray; the DRR is turned over where it has to look alike.
        mix: of "fusion", 0 (the X-ray as stored) to 1 (the DRR in the X-ray's polarity).
        edge_strength: of "edges", opacity 0 to 1.
        curtain: of "curtain", where the line stands, of "lens", where its centre is, as a share of the width.
        lens_down: of "lens", where its centre is, as a share of the height.
        local_contrast: share, 0 to 1, of both images that :func:`even_contrast` replaces.
        bodies: of "edges", the DRR of each of several bodies by itself and its colour (3,), 0 to 1; one edge
            of all of them unless given.

    Returns:
        (rows, columns, 3) uint8 RGB.
    """
    if valid is None:
        valid = np.ones(xray.shape, dtype=bool)
    fixed = windowed(xray, xray_window or display_window(xray[valid]))
    bright_bones = 1 - fixed if bone_dark else fixed
    moving = windowed(drr, drr_window or matching_window(drr[valid], bright_bones[valid]))
    alike = 1 - moving if bone_dark else moving
    if local_contrast > 0:
        fixed, alike = (
            image + np.float32(local_contrast) * (even_contrast(image) - image) for image in (fixed, alike)
        )
    if mode == "fusion":
        share = drr_share(mix) * valid[..., None]
        picture = fixed[..., None] * (1 - share) + alike[..., None] * share
    elif mode == "edges":
        picture = np.repeat(fixed[..., None], 3, axis=-1)
        for image, colour in bodies or [(moving, EDGE_COLOUR)]:
            share = np.float32(edge_strength) * (edges(_whole_range(image) if bodies else image) & valid)
            picture += share[..., None] * (np.asarray(colour, np.float32) - picture)
    elif mode in ("curtain", "checkerboard", "lens", "drr"):
        shown = valid & _shown_drr(mode, xray.shape, curtain, lens_down)
        picture = np.repeat(np.where(shown, alike, fixed)[..., None], 3, axis=-1)
    else:
        raise ValueError(f"unknown mode '{mode}': use one of {', '.join(MODES)}")
    return np.rint(255 * picture).astype(np.uint8)


# Of several bodies, in turn (Okabe and Ito: told apart by nearly everybody).
BODY_COLOURS = np.array(
    [
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [0, 114, 178],
        [213, 94, 0],
        [204, 121, 167],
    ],
    dtype=np.float32,
) / np.float32(255)


def edges_of_bodies(xray: np.ndarray, drrs: Sequence[np.ndarray], valid: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB: an X-ray (rows, columns), where it is valid, with the edges of each DRR
    in a colour."""
    colours = [BODY_COLOURS[number % len(BODY_COLOURS)] for number in range(len(drrs))]
    bodies = list(zip(drrs, colours, strict=True))
    return fusion_image(xray, drrs[0], valid, "edges", bodies=bodies)


def _whole_range(image: np.ndarray) -> np.ndarray:
    return windowed(image, (float(image.min()), float(image.max())))


def drr_share(mix: float) -> np.ndarray:
    """(3,) share of the DRR in red, green and blue: none at 0, ``DRR_COLOUR`` at 0.5, all at 1."""
    # Red goes over first and blue last: what agrees keeps its gray at every setting.
    if mix <= 0.5:
        return np.float32(2 * mix) * DRR_COLOUR
    return DRR_COLOUR + np.float32(2 * mix - 1) * XRAY_COLOUR


def even_contrast(image: np.ndarray) -> np.ndarray:
    """An image (0 to 1) whose parts all have the same mean and contrast, clipped to 0 to 1."""
    size = max(3, round(_LOCAL_SHARE * min(image.shape)))
    mean, square = (ndimage.uniform_filter(one, size, mode="nearest") for one in (image, image * image))
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    return np.clip(0.5 + (image - mean) / (4 * np.maximum(spread, _LEAST_CONTRAST)), 0, 1).astype(np.float32)


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


def _shown_drr(mode: str, shape: tuple[int, int], across: float, down: float) -> np.ndarray:
    """Bool, where a picture of parts shows the DRR: right of a line, in every other tile, in a circle."""
    rows, columns = (np.arange(n) for n in shape)
    if mode == "curtain":
        return np.broadcast_to(columns >= across * shape[1], shape)
    if mode == "checkerboard":
        # Eight tiles along the shorter edge; the X-ray at the first pixel.
        edge = max(1, min(shape) // _TILES)
        return ((rows // edge)[:, None] + columns // edge) % 2 == 1
    if mode == "lens":
        away = np.hypot((rows + 0.5 - down * shape[0])[:, None], columns + 0.5 - across * shape[1])
        return away < _LENS * min(shape)
    return np.ones(shape, dtype=bool)
