"""CTs whose values are not in Hounsfield units, told by where air and soft tissue lie in their histogram.

A wrong scale makes everything bone, or air; the registration of that means nothing. What is certain is put
right, with a note; what is not is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.attenuation import AIR_HU, MU_WATER
from SOPIRegistrationLib.images.volume import Volume

_SOFT_TISSUE_HU = 40.0
# Fat to contrast-filled organs: the most frequent of what is no air lies between.
_SOFT_TISSUE_RANGE = (-200.0, 150.0)
# Lungs are above, air and padding below.
_AIR_BELOW_HU = -800.0
# No scanner's padding is lower.
_LOWEST_HU = -4096.0
# Metal on an extended scale is lower.
_HIGHEST_HU = 32768.0
# What all corners of a scan have, and is above this, is padding.
_HIGHEST_BACKGROUND = 2500.0
# A tenth of what follows is noise: these shares of all voxels count.
_ANY, _SOME = 0.001, 0.005
# Attenuation of water between 40 and 120 keV, with room for other mixtures, 1/mm.
_WATER_PER_MM = (0.012, 0.035)
_VOXELS = 1_000_000
_CORNERS = np.ix_((0, -1), (0, -1), (0, -1))


def in_hounsfield(volume: Volume) -> Volume:
    """The CT in Hounsfield units: itself where it is, else rescaled, with a note.

    Recognised are an offset of 1000 or 1024 (unsigned voxels), attenuation in 1/mm or 1/cm, any other linear
    scale in which air and soft tissue are two clear peaks (the gray values of cone-beam CTs), and a
    background of 0 where it should be air.

    Raises:
        InputError: the scale cannot be told, or it is that of a picture or of labels.
    """
    array = volume.array
    step = max(1, int(np.ceil((array.size / _VOXELS) ** (1 / 3))))
    # Beyond these limits is no scale of a CT; within them nothing overflows.
    sample = np.clip(array[::step, ::step, ::step].ravel(), -1e9, 1e9).astype(np.float64)
    if sample.min() == sample.max():
        # Nothing to tell a scale by, nor to register.
        return volume
    _refuse_picture(volume, sample)
    corners = array[_CORNERS].ravel()
    background = float(np.median(corners)) if (corners == np.median(corners)).sum() >= 7 else None
    if background is not None and background == sample.max() > _HIGHEST_BACKGROUND:
        return in_hounsfield(_with_air_around(volume, background))
    content = sample if background is None else sample[sample != background]
    if len(content) < 100:
        content = sample
    if _has_air(sample):
        # Lower than air is padding, which is not to be taken for it where there is air as well.
        is_padded = background is not None and background < AIR_HU - 100
        scale = _check_of_hu(content if is_padded and _has_air(content) else sample)
    else:
        scale = _other_scale(sample, content, background)
    if scale is None:
        raise InputError(
            f"CT {volume.name} is not in Hounsfield units: its values are {sample.min():.4g} to "
            f"{sample.max():.4g}, and air and soft tissue cannot be told in them: rescale it so that air is "
            "-1000 and water 0"
        )
    if scale.note:
        note = f"CT {volume.name} is not in Hounsfield units: {scale.note}"
        return replace(volume, array=scale.applied(array), notes=(*volume.notes, note))
    if background == 0 and (sample == 0).mean() >= _SOME:
        return _with_air_around(volume, background)
    return volume


@dataclass(frozen=True)
class _Scale:
    """HU are ``factor * (value - zero) - 1000``; with a note where that changes anything."""

    factor: float = 1.0
    zero: float = AIR_HU
    note: str = ""

    @classmethod
    def between(cls, air: float, soft_tissue: float, note: str) -> _Scale:
        """The scale on which air and soft tissue have their usual values."""
        return cls((_SOFT_TISSUE_HU - AIR_HU) / (soft_tissue - air), air, note)

    def applied(self, array: np.ndarray) -> np.ndarray:
        """Voxels in HU; int16 where they were whole numbers and stay so."""
        if self.factor == 1 and array.dtype.kind in "iu":
            low, high = (float(value) - self.zero + AIR_HU for value in (array.min(), array.max()))
            kind = np.int16 if low >= -32768 and high <= 32767 else np.int32
            return np.subtract(array, int(self.zero - AIR_HU), dtype=np.int32).astype(kind)
        scaled = array.astype(np.float32)
        scaled -= np.float32(self.zero)
        scaled *= np.float32(self.factor)
        scaled += np.float32(AIR_HU)
        return scaled


def _refuse_picture(volume: Volume, sample: np.ndarray) -> None:
    is_whole = volume.array.dtype.kind in "iu" or bool((sample == np.rint(sample)).all())
    if is_whole and sample.min() >= 0 and sample.max() <= 255 and volume.array.max() <= 255:
        raise InputError(
            f"CT {volume.name} is a picture or a label map (whole values {sample.min():g} to "
            f"{sample.max():g}), no longer a CT: give the CT in Hounsfield units that it was made from"
        )


def _has_air(values: np.ndarray) -> bool:
    return bool((values <= _AIR_BELOW_HU).mean() >= _SOME)


def _check_of_hu(sample: np.ndarray) -> _Scale | None:
    """Values with air about -1000 HU: whether the rest fits."""
    air, dense = sample[sample <= _AIR_BELOW_HU], sample[sample > -500]
    air_value = _mode(air)
    if air_value < _LOWEST_HU:
        return _scale_by_peaks(sample)
    # In even air: segmented bones, or a phantom. Nothing says that soft tissue is among them.
    if len(dense) < 100 or (air == air_value).mean() > 0.9:
        return _Scale()
    if _SOFT_TISSUE_RANGE[0] <= _mode(dense) <= _SOFT_TISSUE_RANGE[1]:
        return _Scale()
    return _scale_by_peaks(sample) or _Scale()


def _other_scale(sample: np.ndarray, content: np.ndarray, background: float | None) -> _Scale | None:
    """The scale of values without air at -1000 HU."""
    low, middle = np.quantile(content, [0.01, 0.5])
    peak = _mode(content)
    high = np.quantile(sample, 0.999)
    if high < 8:
        return _scale_of_attenuation(sample, content, background)
    is_tissue = _SOFT_TISSUE_RANGE[0] <= peak <= _SOFT_TISSUE_RANGE[1]
    offset = _offset(sample, content, background)
    if offset is not None:
        return offset
    if high > _HIGHEST_HU:
        return _scale_by_peaks(sample)
    # Of a patient something is fat: where nothing is below water, it is an MR image as well as a CT.
    has_fat = low < -50 or sample.min() < -50 or background == 0
    if is_tissue and (low < -50 or (has_fat and _scale_by_peaks(content) is None)):
        # A scan without air around it, or with a background of 0.
        return _Scale()
    if scale := _scale_by_peaks(content):
        return scale
    if background == 0 and low > -300 and peak < 600 and middle < 3000:
        # Bones cut out of a CT in Hounsfield units, in a background of 0.
        return _Scale()
    scale = _scale_by_peaks(sample)
    if scale and (background is None or low < scale.zero + 600 / scale.factor):
        # With nothing between the background and a single peak that may be bones, cut out.
        return scale
    # The inside of a bone.
    return _Scale() if has_fat and -300 < low < 100 and peak < 700 else None


def _offset(sample: np.ndarray, content: np.ndarray, background: float | None) -> _Scale | None:
    """Hounsfield units with 1000 or 1024 added, as unsigned voxels need it; None if they are not."""
    if sample.min() < -150:
        return None
    if background == sample.min() == AIR_HU + 1024:
        # Bones cut out, or a phantom, in even air.
        return _Scale(zero=AIR_HU + 1024, note=_offset_note(1024))
    upper = content[content > 500]
    if len(upper) < 0.01 * len(content):
        return None
    peak = _mode(upper)
    is_narrow = (np.abs(upper - peak) < 100).mean() > 0.3 and 880 < peak < 1180
    is_narrower = (np.abs(content - peak) < 100).mean() > 0.5 and 1010 < peak < 1110
    air = content[content < 200]
    has_air = len(air) > _SOME * len(sample)
    if background == 0 and not has_air and np.quantile(content, 0.1) > 850:
        # Bones cut out, in a background of 0, which is what air became.
        offset = 1024
    elif (is_narrow and (has_air or background == 0)) or is_narrower:
        # Padding is 0; where air was -1000 HU it shows which offset was added, else DICOM's is.
        offset = 1000 if has_air and _mode(air) < 12 and (air > 0).any() else 1024
    else:
        return None
    return _Scale(zero=AIR_HU + offset, note=_offset_note(offset))


def _offset_note(offset: int) -> str:
    return f"it has them with {offset} added, which was taken off"


def _scale_of_attenuation(sample: np.ndarray, content: np.ndarray, background: float | None) -> _Scale | None:
    """The scale of small fractions: attenuation, of which that of nothing is 0, or any other."""
    peaks = _two_peaks(sample, lung_is_air=True)
    # A scan without air around it has one peak; whatever of fat and muscle is more frequent, it is narrow.
    alone = _muscle(content, 0.0)
    if peaks is None and alone > 0 and (np.abs(content / alone - 0.95) < 0.15).mean() > 0.5:
        peaks = (0.0, alone)
    for unit, per_mm in (("1/mm", 1.0), ("1/cm", 10.0)):
        low, high = (per_mm * value for value in _WATER_PER_MM)
        water = per_mm * MU_WATER
        is_cut_out = background is not None and abs(background) < 0.1 * water
        is_bone = is_cut_out and water < np.median(content) < 4 * water
        if is_bone and (peaks is None or np.quantile(content, 0.05) > water):
            note = f"it is the bones' attenuation in {unit}, rescaled with water at {water:g}"
            return _Scale(1000 / water, 0.0, note)
        if peaks and -0.1 < peaks[0] / peaks[1] < 0.35 and low <= peaks[1] <= high:
            # Where lungs are more frequent than air they are the first peak.
            note = f"it is attenuation in {unit}, soft tissue at {peaks[1]:.3g}, rescaled"
            return _Scale.between(0.0, peaks[1], note)
    return _scale_by_peaks(content) or _scale_by_peaks(sample)


def _scale_by_peaks(sample: np.ndarray) -> _Scale | None:
    """The scale that air and soft tissue give, where both are clear and something is denser."""
    peaks = _two_peaks(sample)
    if peaks is None:
        return None
    low, high = peaks
    note = (
        f"air is at {low:.4g} and soft tissue at {high:.4g}, rescaled to {AIR_HU:g} and "
        f"{_SOFT_TISSUE_HU:g} HU, which means nothing if it is an MR image"
    )
    return _Scale.between(low, high, note)


def _two_peaks(sample: np.ndarray, lung_is_air: bool = False) -> tuple[float, float] | None:
    """Air's and soft tissue's value, where they are two narrow peaks, bone above and nothing below.

    Args:
        sample: voxels of any scale.
        lung_is_air: accept lungs in air's place, whose peak is broader.
    """
    ends = np.quantile(sample, [0.002, 0.995])
    threshold = _two_class_threshold(sample[(sample >= ends[0]) & (sample <= ends[1])])
    lower, upper = sample[sample <= threshold], sample[sample > threshold]
    if min(len(lower), len(upper)) < _SOME * len(sample):
        return None
    low = _mode(lower)
    high = _muscle(upper, low)
    distance = high - low
    if distance <= 0:
        return None
    position = (sample - low) / distance
    is_separate = ((position > 0.35) & (position < 0.65)).mean() < 0.15
    is_narrow = (np.abs(position[position > 0.5] - 0.95) < 0.2).mean() > 0.4
    has_denser = (position > 1.15).mean() >= _ANY
    is_lowest = (position < -0.25).mean() < 0.01
    if not lung_is_air:
        is_lowest &= (np.abs(position[position < 0.35]) < 0.07).mean() > 0.65
    return (low, high) if is_separate and is_narrow and has_denser and is_lowest else None


def _muscle(values: np.ndarray, air: float) -> float:
    """The most frequent value; of fat and muscle as two peaks, the second, a tenth denser, is muscle's."""
    peak = _mode(values)
    if peak <= air:
        return peak
    ends = peak + np.array([-0.15, 0.35]) * (peak - air)
    counts, edges = np.histogram(values, 100, tuple(ends))
    counts = ndimage.gaussian_filter1d(counts.astype(float), 2, mode="nearest")
    inner = np.arange(1, 99)
    is_top = (counts[inner] > counts[inner - 1]) & (counts[inner] >= counts[inner + 1])
    place = (edges[inner] - air) / (peak - air)
    second = inner[is_top & (place > 1.08) & (place < 1.25) & (counts[inner] > 0.3 * counts.max())]
    return peak if not len(second) else float((edges[second[0]] + edges[second[0] + 1]) / 2)


def _two_class_threshold(values: np.ndarray) -> float:
    """Otsu's threshold: N. Otsu, *A threshold selection method from gray-level histograms*, 1979."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(all="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _mode(values: np.ndarray) -> float:
    """The most frequent value, of a histogram smoothed over its noise."""
    low, high = np.quantile(values, [0.002, 0.998])
    if low == high:
        return float(low)
    counts, edges = np.histogram(values, 256, (low, high))
    at = int(ndimage.gaussian_filter1d(counts.astype(float), 2, mode="constant").argmax())
    near = values[(values >= edges[max(0, at - 1)]) & (values <= edges[min(256, at + 2)])]
    return float(np.median(near)) if len(near) else float(edges[at])


def _with_air_around(volume: Volume, background: float) -> Volume:
    """A background that is no air, all of it that reaches the border, replaced by air.

    Of a background higher than anything else the scale may be any: the lowest value is air there.
    """
    is_background = volume.array == background
    labels, count = ndimage.label(is_background)
    reaching = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            reaching[np.take(labels, end, axis=axis)] = True
    reaching[0] = False
    array = volume.array if volume.array.dtype.kind != "u" else volume.array.astype(np.int32)
    if background == 0:
        air, why = AIR_HU, f"0 HU, which is water: taken for air, {AIR_HU:g} HU"
        if array.min() >= 0:
            why += "; nothing in it is below water, as if it were an MR image, which means nothing here"
    else:
        air = array[~is_background].min()
        why = f"{background:g}, higher than all that it shows: taken for air, which is {air:g} in it"
    array = np.where(reaching[labels], array.dtype.type(air), array)
    note = f"CT {volume.name} has a background of {why}"
    return replace(volume, array=array, notes=(*volume.notes, note))
