"""Published figures of some C-arms, for images that carry no geometry of their own.

Nominal values of a type of machine, not a calibration of one: depth and magnification are as good as
the distances, the principal point is taken at the detector's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

from SOPIRegistrationLib.errors import InputError


@dataclass(frozen=True)
class Preset:
    """One C-arm type.

    Attributes:
        name: manufacturer and type.
        width: columns of the full image.
        height: rows of the full image.
        pixel_spacing_mm: detector pitch (row, column), mm.
        sdd_mm: source-detector distance, mm.
        sod_mm: source-object distance, mm; None where the source gives none.
        source: where the figures are published.
    """

    name: str
    width: int
    height: int
    pixel_spacing_mm: tuple[float, float]
    sdd_mm: float
    sod_mm: float | None
    source: str

    def pixel_spacing_of(self, width: int, height: int) -> tuple[float, float] | None:
        """Pitch (row, column), mm, of an image of the whole detector; None for another aspect ratio."""
        if width * self.height != height * self.width:
            return None
        row, column = self.pixel_spacing_mm
        return row * self.height / height, column * self.width / width


PRESETS = {
    preset.name.lower(): preset
    for preset in (
        Preset(
            "Perlove PLX118F",
            1024,
            1024,
            (0.19959, 0.19959),
            1011.7,
            700.0,
            "SOPI reference implementation: the C-arm of its real X-rays",
        ),
        Preset(
            "Siemens Cios Fusion",
            1536,
            1536,
            (0.194, 0.194),
            1020.0,
            None,
            "DeepFluoro data set, Grupp et al., Int J CARS 15, 2020",
        ),
        Preset(
            "Siemens Artis zee",
            2480,
            1920,
            (0.154, 0.154),
            1200.0,
            785.0,
            "nominal C-arm CT geometry: detector 40 x 30 cm fully lowered, isocentre as the object",
        ),
        Preset(
            "Philips Allura FD20",
            2480,
            1920,
            (0.154, 0.154),
            1195.0,
            810.0,
            "nominal C-arm CT geometry: detector 40 x 30 cm fully lowered, isocentre as the object",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of a name, in any case.

    Raises:
        InputError: there is none.
    """
    try:
        return PRESETS[name.strip().lower()]
    except KeyError:
        known = ", ".join(preset.name for preset in PRESETS.values())
        raise InputError(f"no C-arm preset is called '{name}': known are {known}") from None
