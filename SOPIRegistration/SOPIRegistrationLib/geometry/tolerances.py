"""How far the intrinsics of a geometry are to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tolerances:
    """Standard deviations of intrinsics; zero where a value is taken as exact.

    Attributes:
        sdd_mm: of the source-detector distance, mm.
        principal_point_px: of either coordinate of the principal point, pixels of the camera's image.
        pixel_spacing_percent: of the detector's pitch, percent, rows and columns together.
    """

    sdd_mm: float = 0.0
    principal_point_px: float = 0.0
    pixel_spacing_percent: float = 0.0

    def in_pixels_of(self, size: float) -> Tolerances:
        """The same for an image whose pixels are ``size`` times as large."""
        return replace(self, principal_point_px=self.principal_point_px / size)

    def __bool__(self) -> bool:
        return bool(self.sdd_mm or self.principal_point_px or self.pixel_spacing_percent)


EXACTLY_KNOWN = Tolerances()


@dataclass(frozen=True)
class SourceTolerances:
    """What to expect of values from one kind of source.

    Attributes:
        sdd_percent: of the source-detector distance, percent.
        principal_point_px: of a principal point taken at the detector's centre, pixels.
        pixel_spacing_percent: of the pitch, percent.
    """

    sdd_percent: float
    principal_point_px: float
    pixel_spacing_percent: float

    def with_spacing_percent(self, percent: float) -> SourceTolerances:
        """The same with another standard deviation of the pitch."""
        return replace(self, pixel_spacing_percent=percent)


# A type plate's figures; a machine's own, measured by its encoders and known by its maker; a person's.
PRESET_TOLERANCES = SourceTolerances(1.0, 5.0, 0.5)
DICOM_TOLERANCES = SourceTolerances(0.5, 3.0, 0.2)
EXACT = SourceTolerances(0.0, 0.0, 0.0)
