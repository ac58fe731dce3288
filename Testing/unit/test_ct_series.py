"""DICOM CTs: planes where their tags put them, or one line."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    XRay3DAngiographicImageStorage,
    generate_uid,
)
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import read_volume
from support.ct_files import Scan, largest_error_voxels, stacked

REGULAR = np.arange(40) * 2.0


def refusal(path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    return message


def only_note(volume) -> str:
    assert len(volume.notes) == 1, volume.notes
    assert "\n" not in volume.notes[0]
    return volume.notes[0]


def test_oblique_anisotropic_series_lies_where_its_tags_say(tmp_path):
    volume = read_volume(Scan().write_series(tmp_path / "ct"))
    assert volume.array.shape == (40, 84, 112)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0], rtol=1e-6)
    assert largest_error_voxels(volume) < 0.01
    assert volume.notes == ()


# Tilted gantry


@pytest.mark.parametrize("tilt_deg", [-22.0, 4.0, 30.0])
@pytest.mark.parametrize("enhanced", [False, True])
def test_tilted_gantry_is_resampled_to_perpendicular_axes(tmp_path, tilt_deg, enhanced):
    scan = Scan(positions=stacked(REGULAR, np.tan(np.radians(tilt_deg))))
    path = scan.write_enhanced(tmp_path / "e.dcm") if enhanced else scan.write_series(tmp_path / "ct")
    volume = read_volume(path)
    directions = volume.index_to_lps[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(volume.spacing_mm, [0.8, 1.1, 2.0], rtol=1e-6)
    assert volume.array.shape[::2] == (40, 112)
    assert largest_error_voxels(volume) < 0.01
    assert f"{abs(tilt_deg):.1f} deg off the perpendicular" in only_note(volume)
    # What no slice shows is air.
    assert volume.array.min() == -1000


def test_positions_rounded_to_hundredths_are_no_tilt(tmp_path):
    scan = Scan(positions=stacked(REGULAR).round(2))
    volume = read_volume(scan.write_series(tmp_path / "ct"))
    assert volume.notes == ()
    assert largest_error_voxels(volume) < 0.02


# Gaps


def test_missing_slices_are_interpolated_with_a_note(tmp_path):
    scan = Scan()
    whole = read_volume(scan.write_series(tmp_path / "whole"))
    volume = read_volume(scan.write_series(tmp_path / "gaps", skip=(9, 21, 30)))
    assert volume.array.shape == whole.array.shape
    np.testing.assert_allclose(volume.index_to_lps, whole.index_to_lps, atol=1e-6)
    kept = [k for k in range(40) if k not in (9, 21, 30)]
    np.testing.assert_array_equal(volume.array[kept], whole.array[kept])
    for k in (9, 21, 30):
        between = np.rint((whole.array[k - 1].astype(float) + whole.array[k + 1]) / 2)
        np.testing.assert_allclose(volume.array[k], between, atol=1)
    note = only_note(volume)
    assert "slices are missing (gaps: 3)" in note
    assert "interpolated to even 2 mm" in note


def test_slices_at_uneven_distances_are_interpolated_to_even_ones(tmp_path, rng):
    along = np.cumsum(np.concatenate([[0.0], rng.uniform(1.4, 2.0, 46)]))
    volume = read_volume(Scan(positions=stacked(along)).write_series(tmp_path / "ct"))
    assert largest_error_voxels(volume) < 0.03
    assert "slices are not evenly spaced" in only_note(volume)


def test_thick_slices_beside_thin_ones(tmp_path):
    along = np.concatenate([np.arange(20) * 1.5, 30 + np.arange(17) * 3.0])
    volume = read_volume(Scan(positions=stacked(along)).write_series(tmp_path / "ct"))
    assert volume.spacing_mm[2] == pytest.approx(1.5, rel=1e-6)
    # Half of what is between thick slices is interpolated, linearly.
    assert largest_error_voxels(volume) < 0.1
    note = only_note(volume)
    assert "not evenly spaced (steps of 1.5 to 3 mm" in note


def test_a_gap_of_more_than_two_and_a_half_steps_is_refused(tmp_path):
    folder = Scan().write_series(tmp_path / "ct", skip=(18, 19))
    refusal(folder, "slices 2 mm apart but a step of 6 mm", "export the complete series")


def test_slices_beside_the_line_of_the_others_are_refused(tmp_path):
    scan = Scan()
    scan.positions[17] += 3 * scan.axes[:, 0]
    refusal(scan.write_series(tmp_path / "ct"), "not in line", "_17.dcm", "(0020,0032)")


def test_a_copied_file_is_read_once(tmp_path):
    scan = Scan()
    folder = scan.write_series(tmp_path / "ct")
    first = next(folder.iterdir())
    (folder / "copy.dcm").write_bytes(first.read_bytes())
    assert "there twice (1)" in only_note(read_volume(folder))


# Enhanced (multi-frame) CT


def test_enhanced_frames_in_any_order_are_the_series(tmp_path, rng):
    scan = Scan()
    series = read_volume(scan.write_series(tmp_path / "ct"))
    for name, order in (("feet_first", range(40)), ("head_first", range(39, -1, -1)), ("mixed", None)):
        order = rng.permutation(40) if order is None else order
        volume = read_volume(scan.write_enhanced(tmp_path / f"{name}.dcm", order))
        np.testing.assert_allclose(volume.index_to_lps, series.index_to_lps, atol=1e-6)
        np.testing.assert_array_equal(volume.array, series.array)
        assert volume.notes == ()


def test_enhanced_ct_with_missing_frames(tmp_path):
    scan = Scan()
    volume = read_volume(scan.write_enhanced(tmp_path / "e.dcm", [k for k in range(40) if k != 12]))
    assert volume.array.shape == (40, 84, 112)
    assert largest_error_voxels(volume) < 0.1
    assert "slices are missing (gaps: 1)" in only_note(volume)
    refusal(
        scan.write_enhanced(tmp_path / "f.dcm", [*range(12), *range(17, 40)]), "a step of 12 mm after the 12."
    )


def test_enhanced_ct_with_a_rescale_of_its_own_in_every_frame(tmp_path):
    scan = Scan()
    path = scan.write_enhanced(tmp_path / "e.dcm")
    expected = read_volume(path).array
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.astype(int)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        values = pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept = 1, -1024 - 2 * number
        frame.PixelValueTransformationSequence = [values]
        pixels[number] += 2 * number
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).array, expected)


def test_cone_beam_ct_of_a_c_arm_is_a_ct(tmp_path):
    tags = {"Modality": "XA", "SOPClassUID": XRay3DAngiographicImageStorage}
    volume = read_volume(Scan().write_enhanced(tmp_path / "cbct.dcm", **tags))
    assert largest_error_voxels(volume) < 0.01


def test_frames_without_places_are_refused(tmp_path):
    scan = Scan()
    path = scan.write_enhanced(tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.SliceThickness = 3
    dataset.save_as(path)
    refusal(path, "40 frames", "(5200,9230)")
    path = scan.write_enhanced(tmp_path / "f.dcm")
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    dataset.save_as(path)
    refusal(path, "Image Position (Patient) (0020,0032)", "missing")


# Tags that are not there, or no numbers


@pytest.mark.parametrize(
    ("keyword", "tag"),
    [
        ("ImagePositionPatient", "(0020,0032)"),
        ("ImageOrientationPatient", "(0020,0037)"),
        ("PixelSpacing", "(0028,0030)"),
    ],
)
def test_series_whose_slices_do_not_say_where_they_are(tmp_path, keyword, tag):
    folder = Scan().write_series(tmp_path / "ct", **{keyword: None})
    refusal(folder, tag, "is missing")


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PixelSpacing", [0.8], "2 numbers are needed"),
        ("PixelSpacing", [0.8, -1.1], "above zero"),
        ("ImagePositionPatient", [1, 2], "3 numbers are needed"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "perpendicular"),
        ("RescaleSlope", 0, "must not be zero"),
    ],
)
def test_tags_of_no_use_are_named(tmp_path, keyword, value, words):
    folder = Scan().write_series(tmp_path / "ct", **{keyword: value})
    message = refusal(folder, words)
    assert message.count(str(folder)) == 1


def test_a_slice_without_a_place_among_others_is_left_out(tmp_path):
    folder = Scan().write_series(tmp_path / "ct", tags={3: {"ImagePositionPatient": None}})
    volume = read_volume(folder)
    assert largest_error_voxels(volume) < 0.02
    assert any("1 of 40 images are left out" in note and "_3.dcm" in note for note in volume.notes)


# What does not belong


def test_localizer_and_images_of_another_size_are_left_out(tmp_path):
    scan = Scan()
    folder = scan.write_series(tmp_path / "ct")
    expected = read_volume(folder)
    scout = Scan(shape=(60, 50), axes=scan.axes[:, ::-1])
    scout.write_slice(folder / "a_scout.dcm", 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scan.write_slice(folder / "z_scout.dcm", 7, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    Scan(shape=(20, 30)).write_slice(folder / "small.dcm", 11)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.index_to_lps, expected.index_to_lps)
    note = only_note(volume)
    assert "3 of 43 images are left out" in note
    for name in ("a_scout.dcm", "small.dcm", "z_scout.dcm"):
        assert name in note


def test_two_stacks_under_one_series_are_refused(tmp_path):
    folder = Scan().write_series(tmp_path / "ct")
    other = Scan(shape=(40, 30))
    for number in range(40):
        other.write_slice(folder / f"other{number}.dcm", number)
    refusal(folder, "several stacks of 40 images")


def test_localizers_alone_are_no_ct(tmp_path):
    folder = Scan().write_series(tmp_path / "ct", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    refusal(folder, "localizers")


@pytest.mark.parametrize(
    ("modality", "storage"),
    [
        ("MR", MRImageStorage),
        ("PT", PositronEmissionTomographyImageStorage),
        ("CR", ComputedRadiographyImageStorage),
        ("MR", None),
        ("", MRImageStorage),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_other_modalities_are_refused(tmp_path, modality, storage, single):
    tags = {"Modality": modality} | ({"SOPClassUID": storage} if storage else {})
    folder = Scan(positions=stacked(REGULAR[:4])).write_series(tmp_path / "other", **tags)
    path = next(folder.iterdir()) if single else folder
    refusal(path, "is no CT", modality or "missing")


def test_the_ct_among_larger_series_is_taken(tmp_path):
    scan = Scan()
    folder = Scan(positions=stacked(REGULAR[:6])).write_series(tmp_path / "study")
    for number in range(9):
        other = {"SeriesInstanceUID": "1.2.9", "Modality": "MR", "SOPClassUID": MRImageStorage}
        scan.write_slice(folder / f"mr{number}.dcm", number, **other)
    (folder / "notes.txt").write_text("a note beside the images")
    volume = read_volume(folder)
    assert volume.array.shape == (6, 84, 112)
    assert "2 series: the largest, of 6 images, is taken (the others have 9 (MR))" in only_note(volume)


def test_slices_of_other_frames_of_reference_are_not_mixed(tmp_path):
    tags = {number: {"FrameOfReferenceUID": "1.2.5"} for number in range(3)}
    volume = read_volume(Scan().write_series(tmp_path / "ct", tags=tags))
    assert volume.array.shape[0] == 37
    assert "3 of 40 images are left out" in only_note(volume)


# Pixels


def test_bits_that_are_not_stored_are_ignored(tmp_path):
    scan = Scan()
    expected = read_volume(scan.write_series(tmp_path / "clean")).array
    folder = scan.write_series(tmp_path / "overlay", BitsStored=12, HighBit=11)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dirty = np.frombuffer(dataset.PixelData, "<u2") | 0x4000
        dataset.PixelData = dirty.astype("<u2").tobytes()
        dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(folder).array, expected)


def test_run_length_encoded_slices(tmp_path):
    scan = Scan()
    expected = read_volume(scan.write_series(tmp_path / "plain")).array
    folder = scan.write_series(tmp_path / "packed")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(folder).array, expected)


def test_fractional_rescale_keeps_its_fractions(tmp_path):
    folder = Scan().write_series(tmp_path / "ct", RescaleSlope="0.5", RescaleIntercept="-1000.25")
    volume = read_volume(folder)
    assert volume.array.dtype == np.float32
    assert volume.array.min() == pytest.approx(12 - 1000.25)


def test_file_without_a_preamble(tmp_path):
    folder = Scan().write_series(tmp_path / "ct")
    expected = read_volume(folder).array
    for path in folder.iterdir():
        pydicom.dcmread(path).save_as(path, enforce_file_format=False)
        content = path.read_bytes()
        path.write_bytes(content[132:])
    np.testing.assert_array_equal(read_volume(folder).array, expected)


def test_damaged_slice_of_a_series_is_named(tmp_path):
    folder = Scan().write_series(tmp_path / "ct")
    bad = sorted(folder.iterdir())[11]
    bad.write_bytes(bad.read_bytes()[:-4000])
    with pytest.raises(InputError, match=f"{bad.name} is damaged or incomplete"):
        read_volume(folder)


def test_enhanced_ct_of_one_frame_a_file(tmp_path):
    scan = Scan()
    for number in range(40):
        scan.write_enhanced(tmp_path / f"{number}.dcm", [number])
    assert largest_error_voxels(read_volume(tmp_path / "7.dcm")) < 0.01


def test_part_of_a_concatenation_stands_for_all_of_it(tmp_path):
    scan = Scan()
    uid = generate_uid()
    scan.write_enhanced(tmp_path / "1.dcm", range(20), ConcatenationUID=uid)
    second = scan.write_enhanced(tmp_path / "2.dcm", range(20, 40), ConcatenationUID=uid)
    assert read_volume(second).array.shape[0] == 40
