"""A geometry's values in an X-ray's DICOM tags: which tag, in which order, and how reliable.

Where the standard gives several ways to a value, the first that is there is taken (PS3.3 10.7, C.8.7.3,
C.8.7.5, C.8.11). A tag that is there but cannot be read (LAO 30, 0,3) becomes an error of the value it would
have given: raised if the value is needed, and never where a geometry file or the user gives it.
"""

from __future__ import annotations

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.dicom_spacing import spacing_of_tags
from SOPIRegistrationLib.geometry.dicom_tag_values import Tags
from SOPIRegistrationLib.geometry.dicom_view import view_of_tags
from SOPIRegistrationLib.geometry.rt_image import values_of_rt_image
from SOPIRegistrationLib.geometry.tolerances import DICOM_TOLERANCES, SourceTolerances
from SOPIRegistrationLib.geometry.values import Values


def values_from_dicom(
    metadata: dict, image_shape: tuple[int, int] | None, image_name: str
) -> tuple[Values, SourceTolerances]:
    """Values of DICOM tags, with their sources, and how far they are to be trusted.

    A zero distance or spacing, common in exports, counts as absent.

    Args:
        metadata: tags by keyword (``Radiograph.metadata``).
        image_shape: (rows, columns); without it nothing can be taken from the size of a field.
        image_name: the image's name, for messages.
    """
    tags = Tags(metadata, image_name)
    if "RTImageSID" in metadata or "ImagePlanePixelSpacing" in metadata:
        return values_of_rt_image(tags), DICOM_TOLERANCES
    factor = _magnification(tags)
    values = _distances(tags, factor) | view_of_tags(tags)
    spacing = spacing_of_tags(tags, factor, image_shape)
    if spacing is None:
        return values, DICOM_TOLERANCES
    values["pixel_spacing_mm"], percent = spacing
    return values, DICOM_TOLERANCES.with_spacing_percent(percent)


def _magnification(tags: Tags) -> float | InputError | None:
    """The patient's; a factor of one, the default of some exports, would put it into the detector."""
    factor = tags.number("EstimatedRadiographicMagnificationFactor", "sdd_mm")
    return factor if isinstance(factor, InputError) or (factor or 0) > 1 else None


def _distances(tags: Tags, factor: float | InputError | None) -> Values:
    sod = tags.first("sod_mm", "DistanceSourceToPatient", "DistanceSourceToIsocenter")
    sdd = tags.first("sdd_mm", "DistanceSourceToDetector")
    if sdd is None and factor is not None:
        distance = tags.first("sdd_mm", "DistanceSourceToPatient")
        sdd = _product(factor, distance, "DICOM magnification factor x Distance Source to Patient")
    elif sod is None and factor is not None:
        inverse = factor if isinstance(factor, InputError) else 1 / factor
        sod = _product(inverse, sdd, "DICOM Distance Source to Detector by the magnification factor")
    found = {"sdd_mm": sdd, "sod_mm": sod}
    return {name: value for name, value in found.items() if value is not None}


def _product(factor: float | InputError | None, distance, source: str):
    """A distance times a factor, with its source; None where there is no distance."""
    if distance is None:
        return None
    unusable = [one for one in (distance[0], factor) if isinstance(one, InputError)]
    return unusable[0] if unusable else factor * distance[0], source
