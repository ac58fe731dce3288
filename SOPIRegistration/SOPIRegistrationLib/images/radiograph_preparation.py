"""From stored X-ray pixels to an image that can be compared with DRRs."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.field_of_view import FieldOfView, block_mean, find_field, ranks
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.resampling import area_weights, averaged, masked_average

log = logging.getLogger(__name__)

POLARITIES = ("auto", "bone-dark", "bone-bright")

# The edge of a field is found to about half a percent of the image; what touches it is not worth the risk.
_MARGIN = 0.01
_WIDEST_MARGIN = 0.04
_CUE_SIZE = 192
# A picture's edge beside a bar that is no air: how many pixels it is smeared over by compression; how far, of
# all that an image spans, it goes; and how many times as far as from there to the next line: the flank of a
# body, which is round, six or seven times.
_EDGE_PX, _LEAST_JUMP, _SHARP = 2, 0.1, 10.0
# JPEG's blocks ring beside an edge, by as much and as far.
_RINGING, _RINGING_PX = 0.06, 16
# Registration starts on 32 pixels; an image of half as many has no structure to compare.
SMALLEST_SIZE = 16
# Below this the cues of the polarity contradict each other.
_CLEAR_POLARITY = 0.3


def prepare_radiograph(
    radiograph: Radiograph,
    camera: Camera,
    polarity: str = "auto",
    max_size: int | None = None,
    of_metal: bool = False,
) -> PreparedRadiograph:
    """Turn an X-ray into attenuation (bone bright, up to a monotone curve) and a mask of its usable pixels.

    Images with dark bones are taken as intensity and converted by -log(I/I0), I0 from the brightest of the
    field; images with bright bones, being logarithmic or inverted already, are kept. What is clipped on
    the side of air stays valid (its attenuation is small, whatever it is), on the side of metal not.

    Args:
        radiograph: the frame as stored.
        camera: its camera, for the stored number of pixels.
        polarity: "auto" (the file's word, else detected), "bone-dark" or "bone-bright".
        max_size: larger images are reduced to this many pixels on their longer side, by area averaging.
        of_metal: whether metal is what is sought: what is clipped on its side then stays valid, too.

    Raises:
        InputError: another image size than the camera's, too small, constant, not finite, nothing exposed.
    """
    stored_camera = camera
    if polarity not in POLARITIES:
        raise InputError(f"polarity is '{polarity}': use {', '.join(POLARITIES)}")
    pixels = _usable_pixels(radiograph, camera)
    is_integer = np.asarray(radiograph.pixels).dtype.kind in "ui"

    frame = _inside_constant_bars(pixels, radiograph.seen)
    corner = frame[1].start, frame[0].start
    fields = {}
    for surround in ("dark", "bright"):
        found = find_field(pixels[frame], surround)
        fields[surround] = None if found is None else found.shifted(*corner)
    bone_dark = _bone_dark(radiograph, pixels, frame, fields, polarity)
    valid = _exposed(pixels.shape, fields, bone_dark) & ~_bars(pixels, frame, bone_dark)
    if radiograph.seen is not None:
        valid &= radiograph.seen
    if not of_metal:
        valid &= ~_clipped(pixels, valid, bone_dark)
    valid &= ~_burnt_in(pixels)
    if valid.mean() < 0.01:
        raise InputError(f"X-ray {radiograph.name} has no exposed field: check the image and its --polarity")

    if max_size is not None and max(pixels.shape) > max_size:
        scale = max_size / max(pixels.shape)
        camera = camera.resampled(*(max(1, round(n * scale)) for n in (camera.width, camera.height)))
        pixels, valid = _area_average(pixels, valid, camera.shape)
    stored_logarithm = (radiograph.metadata or {}).get("PixelIntensityRelationship") == "LOG"
    image = attenuation_of_pixels(pixels, valid, bone_dark, stored_logarithm, is_integer)
    other = None
    if polarity == "auto" and radiograph.bone_dark is None:
        opposite = "bone-bright" if bone_dark else "bone-dark"
        other = partial(prepare_radiograph, radiograph, stored_camera, opposite, max_size, of_metal)
    return PreparedRadiograph(_filled(image, valid), valid, camera, radiograph.name, other, bone_dark)


def _usable_pixels(radiograph: Radiograph, camera: Camera) -> np.ndarray:
    """(rows, columns) float32.

    Raises:
        InputError: as :func:`prepare_radiograph`.
    """
    pixels = np.asarray(radiograph.pixels)
    if pixels.shape != camera.shape:
        raise InputError(
            f"X-ray {radiograph.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its geometry is for "
            f"{camera.width} x {camera.height} (columns x rows): give the geometry of this image"
        )
    if min(pixels.shape) < SMALLEST_SIZE:
        raise InputError(
            f"X-ray {radiograph.name} has only {pixels.shape[1]} x {pixels.shape[0]} pixels (columns x "
            f"rows): give an image of at least {SMALLEST_SIZE} x {SMALLEST_SIZE}"
        )
    pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise InputError(f"X-ray {radiograph.name} has NaN or infinite pixels: export it again")
    if pixels.min() == pixels.max():
        raise InputError(f"X-ray {radiograph.name} is constant: every pixel is {pixels.flat[0]:g}, no image")
    return pixels


def _inside_constant_bars(pixels: np.ndarray, seen: np.ndarray | None) -> tuple[slice, slice]:
    """What is left when the constant rows and columns that frame an image, or show nothing, are cut off."""
    frame = []
    for axis in (1, 0):
        varies = pixels.min(axis=axis) != pixels.max(axis=axis)
        varied = np.flatnonzero(varies if seen is None else varies & seen.any(axis=axis))
        # Stripes along the image vary in none of their own lines.
        first, last = (varied[0], varied[-1]) if varied.size else (0, pixels.shape[1 - axis] - 1)
        frame.append(slice(int(first), int(last) + 1))
    return frame[0], frame[1]


def _bars(pixels: np.ndarray, frame, bone_dark: bool) -> np.ndarray:
    """Bool (rows, columns): constant bars, unless they look like air, as the empty part of a DRR does.

    Air is left gradually, line by line: bars of its value from which the picture jumps are what it was cut
    with.
    """
    bars = np.ones(pixels.shape, dtype=bool)
    bars[frame] = False
    values, inner = pixels[bars], pixels[frame]
    spread = inner.max() - inner.min()
    bars[bars] = values < inner.max() - 0.02 * spread if bone_dark else values > inner.min() + 0.02 * spread
    rows, columns = frame
    for lines, first, marks in (
        (pixels[:, columns], rows.start, bars),
        (pixels[::-1, columns], len(pixels) - rows.stop, bars[::-1]),
        (pixels[rows].T, columns.start, bars.T),
        (pixels[rows, ::-1].T, pixels.shape[1] - columns.stop, bars[:, ::-1].T),
    ):
        edge = _sharp_edge(lines, first, spread)
        if edge is not None:
            marks[:edge] = True
    return bars


def _sharp_edge(lines: np.ndarray, first: int, spread: float) -> int | None:
    """The number of the line from which a picture is left at once; None where it fades, or has no bar.

    Args:
        lines: (n, length) from a bar towards the picture.
        first: number of those that are constant.
        spread: of the picture's values.
    """
    if first == 0:
        return None
    near = np.abs(lines[first : first + _RINGING_PX] - lines[first - 1]).max(axis=1) <= _RINGING * spread
    edge = first + int(np.argmin(np.append(near, False)))
    inside = edge + _EDGE_PX
    if inside + 1 >= len(lines):
        return None
    jump, step = (np.median(np.abs(lines[inside] - one)) for one in (lines[edge - 1], lines[inside + 1]))
    return inside if jump > max(_LEAST_JUMP * spread, _SHARP * step) else None


def _bone_dark(radiograph: Radiograph, pixels: np.ndarray, frame, fields, polarity: str) -> bool:
    if polarity != "auto":
        return polarity == "bone-dark"
    for known in (radiograph.bone_dark, radiograph.bone_dark_expected):
        if known is not None:
            return known
    score = polarity_score(pixels, fields, frame)
    name = "bone-bright" if score > 0 else "bone-dark"
    if abs(score) < _CLEAR_POLARITY:
        log.warning(
            "%s: bones seem to be %s, but not clearly: set --polarity if the result is wrong",
            radiograph.name,
            name.removeprefix("bone-"),
        )
    return score < 0


def polarity_score(pixels: np.ndarray, fields: dict[str, FieldOfView | None], frame=np.s_[:, :]) -> float:
    """Positive where bone is bright, negative where it is dark; about 1 where the image is clear about it.

    Three cues, all of ranks in the exposed field, so that no tone curve changes them: attenuation rises
    towards the centre, where the body is thick; bones are ridges of attenuation on a smoother background;
    many equal values at one end are saturated or empty background, at the end of air. The surround itself
    is a fourth: a circle or several straight edges are a collimator's, which looks like high attenuation,
    one or two edges may as well be the end of a scan, in a DRR, which looks like air.

    Args:
        pixels: (rows, columns) values.
        fields: the fields found against a "dark" and a "bright" surround.
        frame: slices of rows and columns without constant bars.
    """
    factor = max(1, max(pixels.shape) // _CUE_SIZE)
    inside = np.ones(pixels.shape, dtype=bool)
    surround_cue = 0.0
    circular = [name for name, field in fields.items() if field is not None and field.circle is not None]
    for name in circular or [name for name, field in fields.items() if field is not None]:
        field = fields[name]
        inside &= field.mask(pixels.shape, _margin(field, pixels.shape))
        weight = 0.4 if field.circle is not None else 0.15 * (len(field.lines) - 2)
        surround_cue += weight if name == "bright" else -weight
    if inside.mean() < 0.05:
        inside[:] = True
    small = block_mean(pixels[frame], factor)
    inside = block_mean(inside[frame], factor) > 0.99
    levels = np.full(small.shape, 0.5)
    levels[inside] = ranks(small[inside])

    rows, columns = (np.arange(n) - (n - 1) / 2 for n in small.shape)
    closeness = -np.hypot(rows[:, None] / small.shape[0], columns / small.shape[1])
    central = np.corrcoef(levels[inside], closeness[inside])[0, 1]

    away_from_edge = ndimage.binary_erosion(inside, iterations=8)
    ridges = sum(_ridge_balance(levels, away_from_edge, scale) for scale in (1.5, 3.0))

    # The rank of the lowest values is half the share of the pixels that have it.
    flat_end = 2 * (levels[inside].min() - (1 - levels[inside].max()))
    cues = np.array([central / 0.3, ridges / 0.1, flat_end / 0.2])
    return float(np.clip(np.nan_to_num(cues), -1.5, 1.5).mean()) + surround_cue


def _ridge_balance(levels: np.ndarray, where: np.ndarray, scale_px: float) -> float:
    """Bright less dark ridge strength over their sum: the dominant curvature of the smoothed image."""
    uu, vv, uv = (
        ndimage.gaussian_filter(levels, scale_px, order=order) for order in ((0, 2), (2, 0), (1, 1))
    )
    mean, spread = (uu + vv) / 2, np.hypot((uu - vv) / 2, uv)
    dominant = (mean + np.where(mean > 0, spread, -spread))[where]
    return float(-dominant.sum() / max(np.abs(dominant).sum(), 1e-12))


def _margin(field: FieldOfView, shape) -> float:
    size = max(shape)
    return float(np.clip(field.penumbra_px, _MARGIN * size, _WIDEST_MARGIN * size))


def _exposed(shape: tuple[int, int], fields, bone_dark: bool) -> np.ndarray:
    """Bool (rows, columns): inside the collimated field.

    Where no ray passes the image looks like infinite attenuation. A field against the look of air is believed
    only if it is a circle (some systems fill its surround with black): straight edges are also those of a
    scan that ends, in a DRR.
    """
    field = fields["dark" if bone_dark else "bright"]
    other = fields["bright" if bone_dark else "dark"]
    if field is None and other is not None and other.circle is not None:
        field = other
    if field is None:
        return np.ones(shape, dtype=bool)
    return field.mask(shape, _margin(field, shape))


def _clipped(pixels: np.ndarray, valid: np.ndarray, bone_dark: bool) -> np.ndarray:
    """Pixels at the attenuating end of the scale where that value is taken more than by chance."""
    if not valid.any():
        return ~valid
    end = pixels[valid].min() if bone_dark else pixels[valid].max()
    clipped = pixels == end
    return clipped if (clipped & valid).sum() > max(20, 1e-4 * valid.sum()) else np.zeros_like(clipped)


def _burnt_in(pixels: np.ndarray) -> np.ndarray:
    """Letters and lines drawn into the image: thin strokes of the lowest or highest value, far from their
    surroundings."""
    low, high = pixels.min(), pixels.max()
    size = max(3, round(0.008 * max(pixels.shape)))
    found = np.zeros(pixels.shape, dtype=bool)
    for value in (low, high):
        extreme = pixels == value
        if not extreme.any():
            continue
        thin = extreme & (ndimage.grey_opening(extreme.astype(np.uint8), (size, size)) == 0)
        # A stroke has many pixels of the very same value, an extreme of the noise one.
        if thin.sum() < 20:
            continue
        others = ndimage.uniform_filter((~extreme).astype(np.float32), 4 * size + 1)
        around = ndimage.uniform_filter(np.where(extreme, 0, pixels), 4 * size + 1) / np.maximum(others, 1e-3)
        found |= thin & (others > 0.5) & (np.abs(around - value) > 0.4 * (high - low))
    return ndimage.maximum_filter(found, 5) if found.any() else found


def _area_average(pixels: np.ndarray, valid: np.ndarray, shape: tuple[int, int]):
    """Mean of the valid part of each new pixel, and whether at least half of it is valid."""
    weights = [area_weights(new, old) for new, old in zip(shape, pixels.shape, strict=True)]
    mean, share = masked_average(pixels, valid, *weights)
    usable = share >= 0.5
    return np.where(usable, mean, averaged(pixels, *weights)), usable


def attenuation_of_pixels(
    pixels: np.ndarray, valid: np.ndarray, bone_dark: bool, stored_logarithm: bool, is_integer: bool
) -> np.ndarray:
    """Line integrals up to a monotone curve, bone bright: -log(I/I0) of an intensity, else the pixels.

    Args:
        pixels: (rows, columns) stored values.
        valid: (rows, columns) bool, the field; its brightest pixels are the open beam.
        bone_dark: whether bone is dark in the pixels.
        stored_logarithm: whether the pixels are logarithms already.
        is_integer: whether they were stored as integers.
    """
    if not bone_dark:
        return pixels
    open_value = np.percentile(pixels[valid], 99.5)
    if stored_logarithm:
        return open_value - pixels
    black = min(0.0, float(pixels[valid].min()))
    # Half a step of the stored scale: what is stored as zero is darker than one, by an unknown amount.
    half_step = 0.5 if is_integer else 1e-5 * (open_value - black)
    return np.log((open_value - black + half_step) / (np.maximum(pixels - black, 0) + half_step))


def _filled(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Invalid pixels take the nearest valid value: filters that reach them see no edge."""
    image = image.astype(np.float32)
    if valid.all():
        return image
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return image[tuple(nearest)]
