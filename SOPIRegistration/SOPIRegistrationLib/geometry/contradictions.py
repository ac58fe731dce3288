"""What an image and its geometry, or two values of a geometry, say against each other."""

from __future__ import annotations

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.dicom_values import values_from_dicom
from SOPIRegistrationLib.geometry.rays import meeting_point
from SOPIRegistrationLib.geometry.se3 import transform_points
from SOPIRegistrationLib.geometry.tags_not_followed import tags_not_followed
from SOPIRegistrationLib.geometry.views import LEAST_FACING, NOMINAL_VIEWS, direction_lps, nominal_view

# The largest flat detectors and films are 43 cm wide, stitched long-leg images longer; the smallest show a
# finger.
_LARGEST_FIELD_MM, _SMALLEST_FIELD_MM = 450.0, 20.0
_DETECTOR_DISTANCES_MM = 250.0, 3000.0
# Cone angle of the widest X-ray systems, between opposite sides of the image.
_WIDEST_CONE_DEG = 45.0
_SQUARE, _SAME_SIZE, _EXCHANGED = 1.05, 1.1, 0.02
_MOST_SKEW = 0.01
_LARGEST_MAGNIFICATION = 4.0
# Where cameras that look at one object meet, before their sources; how far their middle rays may be from
# there, of half the field.
_MEETING_MM, _PASSING = (150.0, 5000.0), 0.15
_NEARLY_SAME_VIEW_DEG = 30.0


def contradictions(
    geometry: CArmGeometry,
    image_shape: tuple[int, int] | None = None,
    metadata: dict | None = None,
    camera: Camera | None = None,
) -> list[str]:
    """Sentences, one for each contradiction; none where all agrees.

    None of them stops a registration: crops, long images and odd machines exist. They are to be shown.

    Args:
        geometry: of the image.
        image_shape: (rows, columns) of the image as stored; None where there is none.
        metadata: the image's DICOM tags by keyword.
        camera: the one that took the image; the first unless given.
    """
    camera = camera or geometry.camera
    found = _of_size(camera, image_shape) + _of_field(camera) + _of_distances(geometry, camera)
    if metadata:
        found += _of_tags(geometry, camera, metadata) + tags_not_followed(geometry, camera, metadata)
    return found


def contradictions_of_set(geometry: CArmGeometry) -> list[str]:
    """As :func:`contradictions`, of where the cameras of a calibration stand; none of a single C-arm."""
    cameras = geometry.cameras
    meeting = meeting_point(cameras, [one.middle_px for one in cameras])
    if meeting is None:
        return _of_origin(geometry.camera) if len(cameras) == 1 else []
    depths = [float(transform_points(one.T_world_to_camera, meeting.point)[2]) for one in cameras]
    remedy = "is R transposed, or t the place of the source? x_camera = R x_world + t"
    if min(depths) <= 0:
        behind = cameras[int(np.argmin(depths))].name
        return [f"the rays of the images' middles meet behind the source of camera {behind}: {remedy}"]
    found = []
    fields = [depth * one.width / 2 / one.K[0, 0] for depth, one in zip(depths, cameras, strict=True)]
    if meeting.apart_mm > _PASSING * min(fields):
        found.append(
            f"the cameras look past each other, their images' middle rays {meeting.apart_mm:.0f} mm from one "
            f"point: {remedy}"
        )
    if not _MEETING_MM[0] < min(depths) or max(depths) > _MEETING_MM[1]:
        near = ", ".join(f"{depth:.3g}" for depth in depths)
        found.append(
            f"the cameras look at a place {near} mm before their sources, X-ray systems at one of "
            f"{_MEETING_MM[0]:g} to {_MEETING_MM[1]:g}: lengths in another unit than mm?"
        )
    return found


def _of_origin(camera: Camera) -> list[str]:
    """Of a camera calibrated alone, for the calibration object stood where the patient will."""
    distance = float(np.linalg.norm(camera.T_world_to_camera[:3, 3]))
    if distance == 0 or _MEETING_MM[0] < distance < _MEETING_MM[1]:
        return []
    return [
        f"the calibration's origin is {distance:.3g} mm from the source: lengths in another unit than mm?"
    ]


def _of_size(camera: Camera, image_shape) -> list[str]:
    found = []
    if image_shape is not None and tuple(image_shape) != camera.shape:
        rows, columns = image_shape
        found.append(
            f"the image has {columns} x {rows} pixels, the geometry is for {camera.width} x {camera.height}"
        )
    ratio = float(camera.K[0, 0] / camera.K[1, 1])
    if not 1 / _SQUARE < ratio < _SQUARE:
        found.append(
            f"the pixels are {ratio:.2f} times as high as wide, those of detectors are square: rows and "
            "columns of the spacing exchanged, or the image stretched?"
        )
    u, v = camera.K[:2, 2]
    if not (-0.5 <= u <= camera.width - 0.5 and -0.5 <= v <= camera.height - 0.5):
        found.append(
            f"the principal point ({u:.1f}, {v:.1f}) lies outside the image: right for a crop of a larger "
            "detector only"
        )
    elif camera.width != camera.height and _is_exchanged(camera):
        found.append(
            f"the principal point ({u:.1f}, {v:.1f}) would be the middle if rows and columns were exchanged"
        )
    elif camera.is_off_centre:
        found.append(
            f"the principal point ({u:.1f}, {v:.1f}) lies far from the image's middle: right for a crop of a "
            "larger detector only; K in mm, or of an image of another size?"
        )
    if abs(camera.K[0, 1]) > _MOST_SKEW * camera.K[0, 0]:
        found.append(
            f"the pixels are skewed ({camera.K[0, 1]:.3g} of {camera.K[0, 0]:.4g} px), those of detectors "
            "are not: a matrix written by columns?"
        )
    return found


def _is_exchanged(camera: Camera) -> bool:
    middle = camera.middle_px[::-1]
    return bool((np.abs(camera.K[:2, 2] - middle) < _EXCHANGED * middle).all())


def _of_field(camera: Camera) -> list[str]:
    found = []
    if camera.sdd_mm is not None:
        row, column = camera.pixel_spacing_mm
        width, height = column * camera.width, row * camera.height
        size = f"pixel spacing times pixels gives a field of {width:.0f} x {height:.0f} mm"
        if min(width, height) > _LARGEST_FIELD_MM or max(width, height) > 3 * _LARGEST_FIELD_MM:
            found.append(f"{size}, larger than any detector")
        if max(width, height) < _SMALLEST_FIELD_MM:
            found.append(f"{size}, smaller than any detector")
    for pixels, focal, which in (
        (camera.width, camera.K[0, 0], "wide"),
        (camera.height, camera.K[1, 1], "high"),
    ):
        cone = float(np.rad2deg(2 * np.arctan(pixels / 2 / focal)))
        if cone > _WIDEST_CONE_DEG:
            found.append(
                f"the image is {cone:.0f} deg {which} as seen from the source, X-ray systems are below "
                f"{_WIDEST_CONE_DEG:.0f}: the distance too short, or the spacing too large?"
            )
    return found


def _of_distances(geometry: CArmGeometry, camera: Camera) -> list[str]:
    found = []
    sdd, sod = camera.sdd_mm, geometry.sod_mm
    low, high = _DETECTOR_DISTANCES_MM
    if sdd is not None and not low <= sdd <= high:
        found.append(
            f"the source-detector distance of {sdd:g} mm is none of an X-ray system ({low:g} to {high:g})"
        )
    if sdd is not None and sod is not None and sod >= sdd:
        found.append(f"the patient stands behind the detector: {sod:g} of {sdd:g} mm")
    elif sdd is not None and sod is not None and sdd > _LARGEST_MAGNIFICATION * sod:
        found.append(
            f"the patient stands {sod:g} mm before the source, {sdd / sod:.1f} times magnified: is it the "
            "distance from the detector?"
        )
    return found


def _of_tags(geometry: CArmGeometry, camera: Camera, metadata: dict) -> list[str]:
    """What the DICOM tags say against the geometry, which may have come from elsewhere."""
    found = []
    field_only = {
        key: metadata[key]
        for key in (
            "FieldOfViewDimensionsInFloat",
            "FieldOfViewDimensions",
            "IntensifierSize",
            "FieldOfViewRotation",
            "PixelAspectRatio",
        )
        if key in metadata
    }
    values, _ = values_from_dicom(field_only, camera.shape, "")
    of_field = values.get("pixel_spacing_mm", (None,))[0]
    if camera.sdd_mm is not None and of_field is not None and not isinstance(of_field, InputError):
        ratios = np.array(camera.pixel_spacing_mm) / of_field
        if not ((ratios > 1 / _SAME_SIZE) & (ratios < _SAME_SIZE)).all():
            tag = "the field of view or intensifier size in the DICOM tags"
            found.append(
                f"pixel spacing times pixels is {ratios[1]:.2f} times {tag}: binned, or cropped, after the "
                "tags were written?"
            )
    found += _of_binning(camera, metadata)
    factor = metadata.get("EstimatedRadiographicMagnificationFactor")
    if isinstance(factor, float) and factor > 1 and geometry.sod_mm and camera.sdd_mm:
        ratio = camera.sdd_mm / geometry.sod_mm / factor
        if not 1 / _SAME_SIZE < ratio < _SAME_SIZE:
            found.append(
                f"the distances give a magnification of {camera.sdd_mm / geometry.sod_mm:.2f}, the DICOM "
                f"tags say {factor:g}"
            )
    return found + _of_views(geometry, metadata)


def _of_binning(camera: Camera, metadata: dict) -> list[str]:
    """The pixels against the detector's elements, of which so many make one."""
    alone = {key: metadata[key] for key in ("DetectorElementSpacing", "DetectorBinning") if key in metadata}
    if camera.sdd_mm is None or len(alone) < 2:
        return []
    of_elements = values_from_dicom(alone, None, "")[0].get("pixel_spacing_mm", (None,))[0]
    if not isinstance(of_elements, np.ndarray):
        return []
    ratio = float(np.array(camera.pixel_spacing_mm)[1] / of_elements[1])
    if 1 / _SAME_SIZE < ratio < _SAME_SIZE:
        return []
    return [
        f"the pixel spacing is {ratio:.2f} times that of the detector's elements times their binning "
        "(Detector Element Spacing, Detector Binning (0018,7022, 701A)): was it given before binning?"
    ]


def _of_views(geometry: CArmGeometry, metadata: dict) -> list[str]:
    """Each way in which the tags tell a view, against the view that is taken."""
    found = []
    taken = nominal_view(geometry.view) if geometry.rotation is None else np.asarray(geometry.rotation)
    angles = {key: metadata[key] for key in metadata if key.startswith("Positioner")}
    position = {key: metadata[key] for key in ("ViewPosition",) if key in metadata}
    for tags, what in ((angles, "the positioner angles"), (position, "View Position")):
        values, _ = values_from_dicom(tags, None, "")
        said = values.get("view", (None,))[0]
        if said is None or isinstance(said, InputError):
            continue
        said = NOMINAL_VIEWS[said] if isinstance(said, str) else said
        # Turns about the central ray are how the image was stored; mirrored views look along the same line.
        apart = float(np.rad2deg(np.arccos(np.clip(taken[2] @ said[2], -1, 1))))
        if apart > _NEARLY_SAME_VIEW_DEG:
            found.append(f"the view is {apart:.0f} deg off what {what} in the DICOM tags say")
    stored = {key: metadata[key] for key in ("PatientOrientation",) if key in metadata}
    orientation = values_from_dicom(stored, None, "")[0].get("patient_orientation", (None,))[0]
    if orientation is not None:
        across = np.cross(*(direction_lps(one) for one in orientation))
        if abs(float(taken[2] @ across)) < LEAST_FACING:
            text = "\\".join(orientation)
            found.append(
                f"Patient Orientation {text} in the DICOM tags is not that of this view's image plane"
            )
    return found
