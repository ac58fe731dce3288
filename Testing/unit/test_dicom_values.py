"""What DICOM tags make of a geometry: in which order they are taken, how reliable, and what is unusable."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS, nominal_view_from_angles

SHAPE = (480, 640)
TAGS = {
    "DistanceSourceToDetector": 1100.0,
    "DistanceSourceToPatient": 800.0,
    "ImagerPixelSpacing": [0.3, 0.2],
    "PositionerPrimaryAngle": 30.0,
    "PositionerSecondaryAngle": -10.0,
}


def loaded(drop=(), **tags):
    metadata = {key: value for key, value in TAGS.items() if key not in drop} | tags
    return load_geometry(None, SHAPE, metadata, image_name="run.dcm")


def refused(drop=(), geometry=None, view=None, **tags) -> str:
    metadata = {key: value for key, value in TAGS.items() if key not in drop} | tags
    with pytest.raises(InputError) as caught:
        load_geometry(geometry, SHAPE, metadata, view, "run.dcm")
    message = str(caught.value)
    assert "\n" not in message
    assert "run.dcm" in message
    return message


# Distances


def test_magnification_and_patient_distance_give_the_detector_distance():
    geometry = loaded(["DistanceSourceToDetector"], EstimatedRadiographicMagnificationFactor=1.4)
    assert geometry.camera.sdd_mm == pytest.approx(1.4 * 800)
    assert geometry.sources["sdd_mm"] == "DICOM magnification factor x Distance Source to Patient"
    # The file's own distance wins.
    assert loaded(EstimatedRadiographicMagnificationFactor=1.4).camera.sdd_mm == 1100


def test_detector_distance_and_magnification_give_the_patient_distance():
    geometry = loaded(["DistanceSourceToPatient"], EstimatedRadiographicMagnificationFactor=1.25)
    assert geometry.sod_mm == pytest.approx(1100 / 1.25)


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_a_factor_that_says_nothing_is_absent(factor):
    message = refused(["DistanceSourceToDetector"], EstimatedRadiographicMagnificationFactor=factor)
    assert "lacks Distance Source to Detector (0018,1110)" in message


# Spacing: what the standard justifies, in order


SPACINGS = [
    ({"ImagerPixelSpacing": [0.3, 0.2]}, (0.3, 0.2), "DICOM", 0.2),
    (
        {"DetectorElementSpacing": [0.15, 0.1], "DetectorBinning": [2.0, 3.0]},
        (0.3, 0.3),
        "DICOM Detector Element Spacing (0018,7022) x Detector Binning (0018,701A)",
        0.2,
    ),
    (
        {"FieldOfViewDimensions": [240.0, 160.0]},
        (0.5, 0.25),
        "DICOM Field of View Dimension(s) (0018,1149) over rows and columns",
        2,
    ),
    (
        {"FieldOfViewDimensions": 320.0},
        (0.5, 0.5),
        "DICOM Field of View Dimension(s) (0018,1149) over the columns",
        2,
    ),
    ({"IntensifierSize": 256.0}, (0.4, 0.4), "DICOM Intensifier Size (0018,1162) over the columns", 5),
    (
        {"NominalScannedPixelSpacing": [0.1, 0.1]},
        (0.1, 0.1),
        "DICOM Nominal Scanned Pixel Spacing (0018,2010)",
        2,
    ),
    (
        {
            "PixelSpacing": [0.2, 0.3],
            "PixelSpacingCalibrationType": "GEOMETRY",
            "EstimatedRadiographicMagnificationFactor": 1.5,
        },
        (0.3, 0.45),
        "DICOM Pixel Spacing (0028,0030), in the patient (GEOMETRY), x magnification factor",
        2,
    ),
]


@pytest.mark.parametrize("first", range(len(SPACINGS)))
def test_spacings_in_the_order_that_the_standard_justifies(first):
    """Each is taken when those before it are absent, whatever comes after it."""
    tags = {}
    for given, *_ in reversed(SPACINGS[first:]):
        tags |= given
    _, spacing, source, percent = SPACINGS[first]
    geometry = loaded(["ImagerPixelSpacing"], **tags)
    assert geometry.camera.pixel_spacing_mm == pytest.approx(spacing)
    assert geometry.sources["pixel_spacing_mm"] == source
    assert geometry.tolerances.pixel_spacing_percent == percent


def test_fiducials_in_the_patient_are_magnified_too():
    geometry = loaded(
        ["ImagerPixelSpacing"],
        PixelSpacing=[0.2, 0.2],
        PixelSpacingCalibrationType="FIDUCIAL",
        EstimatedRadiographicMagnificationFactor=1.3,
    )
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.26, 0.26))


def test_field_whose_dimensions_were_exchanged():
    """Pixels of a detector are square: only one order makes them so."""
    geometry = loaded(["ImagerPixelSpacing"], FieldOfViewDimensions=[320.0, 240.0])
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.5, 0.5))
    # Where neither does, the standard's order stands.
    geometry = loaded(["ImagerPixelSpacing"], FieldOfViewDimensions=[240.0, 160.0])
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.5, 0.25))


def test_turned_field():
    geometry = loaded(["ImagerPixelSpacing"], FieldOfViewDimensions=[320.0, 120.0], FieldOfViewRotation=90.0)
    assert geometry.camera.pixel_spacing_mm == pytest.approx((120 / 480, 320 / 640))


def test_pixel_spacing_that_may_be_anywhere_is_not_taken():
    message = refused(["ImagerPixelSpacing"], PixelSpacing=[0.2, 0.2])
    assert "lacks Imager Pixel Spacing (0018,1164): give pixel_spacing_mm" in message
    assert "Pixel Spacing (0028,0030) without Calibration Type" in message


@pytest.mark.parametrize("diameter", [9.0, 23.0, 40.0])
def test_an_intensifier_is_not_measured_in_centimetres_or_inches(diameter):
    with pytest.raises(InputError, match=r"Intensifier Size .* not a diameter in mm.*give pixel_spacing_mm"):
        loaded(drop=["ImagerPixelSpacing"], IntensifierSize=diameter)


def test_a_spacing_of_zero_is_absent():
    geometry = loaded(ImagerPixelSpacing=[0.0, 0.0], IntensifierSize=320.0)
    assert geometry.camera.pixel_spacing_mm == pytest.approx((0.5, 0.5))


# Views


def test_one_angle_alone_is_said():
    geometry = loaded(["PositionerSecondaryAngle"])
    np.testing.assert_allclose(geometry.rotation, nominal_view_from_angles(30, 0))
    assert "none, taken as 0" in geometry.sources["view"]


ANGLES = ("PositionerPrimaryAngle", "PositionerSecondaryAngle")


@pytest.mark.parametrize("position", ["LATERAL", "LAT", "OBLIQUE", "RLO"])
def test_a_view_position_that_does_not_tell_the_view_is_asked_for(position, tmp_path):
    message = refused(ANGLES, ViewPosition=position)
    assert f"View Position (0018,5101) is '{position}'" in message
    assert "--view" in message
    assert load_geometry(None, SHAPE, {**TAGS, "ViewPosition": position}).view == "angles"
    tags = {key: value for key, value in TAGS.items() if key not in ANGLES} | {"ViewPosition": position}
    assert load_geometry(None, SHAPE, tags, "LLAT").view == "LLAT"
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"view": "RLAT"}))
    assert load_geometry(path, SHAPE, tags).view == "RLAT"


@pytest.mark.parametrize("orientation", [["A", "F"], ["", "F"], "L", ["L", "?"], ["L", "P"], ["L", "F", "P"]])
def test_an_orientation_that_does_not_tell_the_view_is_asked_for(orientation):
    message = refused(ANGLES, PatientOrientation=orientation)
    assert "Patient Orientation (0020,0020)" in message
    assert "--view" in message


def test_frontal_orientation_is_ap_and_that_is_said():
    geometry = loaded(ANGLES, PatientOrientation=["L", "F"])
    assert (geometry.view, geometry.mirrored) == ("AP", False)
    assert geometry.sources["view"] == "default for DICOM Patient Orientation"


def test_half_an_orientation_beside_angles_is_said():
    geometry = loaded(PatientOrientation=["", "F"])
    assert not geometry.mirrored
    assert "does not tell: taken as not mirrored" in geometry.sources["patient_orientation"]


# Tags that are no numbers


UNREADABLE = [
    ("DistanceSourceToDetector", "110,5", "Distance Source to Detector (0018,1110) is '110,5'", "sdd_mm"),
    ("DistanceSourceToDetector", -1100.0, "is '-1100.0'", "sdd_mm"),
    ("DistanceSourceToDetector", float("nan"), "is 'NAN'", "sdd_mm"),
    (
        "ImagerPixelSpacing",
        ["0,3", "0,3"],
        r"Imager Pixel Spacing (0018,1164) is '0,3\0,3'",
        "pixel_spacing_mm",
    ),
    ("ImagerPixelSpacing", 0.3, "Imager Pixel Spacing (0018,1164) is '0.3'", "pixel_spacing_mm"),
    ("ImagerPixelSpacing", [0.3, 0.3, 0.3], "not two positive numbers", "pixel_spacing_mm"),
]


@pytest.mark.parametrize(("keyword", "value", "said", "key"), UNREADABLE)
def test_an_unreadable_tag_is_one_line_with_the_remedy(keyword, value, said, key):
    message = refused(**{keyword: value})
    assert said in message
    assert f"give {key} in a geometry file with --geometry" in message


@pytest.mark.parametrize("value", ["LAO 30", [1.0, 2.0], float("inf")])
def test_an_unreadable_angle_asks_for_the_view(value, tmp_path, caplog):
    message = refused(PositionerPrimaryAngle=value)
    assert "Positioner Primary Angle (0018,1510)" in message
    assert "--view" in message
    tags = {**TAGS, "PositionerPrimaryAngle": value}
    assert load_geometry(None, SHAPE, tags, "PA").view == "PA"
    # A geometry file need not say what has a default; what was taken is said.
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"sdd_mm": 1000, "pixel_spacing_mm": [0.3, 0.3]}))
    with caplog.at_level(logging.WARNING):
        assert load_geometry(path, SHAPE, tags).view == "AP"
    assert "taken as AP" in caplog.text


@pytest.mark.parametrize(("keyword", "value", "said", "key"), UNREADABLE)
def test_a_geometry_file_makes_every_tag_unneeded(keyword, value, said, key, tmp_path):
    tags = {**TAGS, keyword: value, "DistanceSourceToPatient": "far"}
    path = tmp_path / "g.json"
    for entry in (
        {"sdd_mm": 1000, "pixel_spacing_mm": [0.5, 0.4], "view": "PA"},
        {"K": [[2500.0, 0, 319.5], [0, 2000.0, 239.5], [0, 0, 1]], "view": "PA"},
    ):
        path.write_text(json.dumps(entry))
        geometry = load_geometry(path, SHAPE, tags)
        np.testing.assert_allclose(geometry.camera.K, [[2500, 0, 319.5], [0, 2000, 239.5], [0, 0, 1]])
        assert (geometry.view, geometry.rotation) == ("PA", None)


# Tolerances


def test_tolerances_by_source(tmp_path):
    def of(*arguments, **options):
        found = load_geometry(*arguments, **options).tolerances
        return found.sdd_mm, found.principal_point_px, found.pixel_spacing_percent

    assert of(None, SHAPE, TAGS) == pytest.approx((0.005 * 1100, 3, 0.2))
    assert of("Perlove PLX118F", (1024, 1024)) == pytest.approx((0.01 * 1011.7, 5, 0.5))
    # The image's own tags are better than a type plate.
    assert of("Perlove PLX118F", (1024, 1024), TAGS) == pytest.approx((0.005 * 1100, 3, 0.2))
    path = tmp_path / "g.json"
    K = {"K": [[2500.0, 0, 319.5], [0, 2000.0, 239.5], [0, 0, 1]]}
    path.write_text(json.dumps(K))
    assert of(path, SHAPE, TAGS) == (0, 0, 0)
    path.write_text(json.dumps({"sdd_mm": 1000}))
    assert of(path, SHAPE, TAGS) == (0, 3, 0.2)
    path.write_text(json.dumps({"principal_point_px": [300, 200]}))
    assert of(path, SHAPE, TAGS) == pytest.approx((0.005 * 1100, 0, 0.2))
    given = {
        "sdd_tolerance_mm": 12,
        "principal_point_tolerance_px": 7.5,
        "pixel_spacing_tolerance_percent": 0,
    }
    for entry in (given, given | K):
        path.write_text(json.dumps(entry))
        assert of(path, SHAPE, TAGS) == (12, 7.5, 0)


def test_nominal_view_of_a_named_position():
    geometry = loaded(ANGLES, ViewPosition="RL")
    np.testing.assert_array_equal(geometry.pose_frame(np.zeros(3)).rotation, NOMINAL_VIEWS["RLAT"])
