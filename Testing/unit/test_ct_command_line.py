"""What a user of the command line sees of a CT that was mended, or of one that is of no use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.main import main
from support.ct_files import Scan, grid, sampled, write_nifti


@pytest.fixture
def draw(tmp_path):
    """Project a CT with ``sopi drr``."""
    geometry = tmp_path / "geometry.json"
    geometry.write_text(
        json.dumps(
            {
                "sdd_mm": 1000,
                "pixel_spacing_mm": [8, 8],
                "sod_mm": 700,
                "view": "AP",
                "width": 40,
                "height": 32,
            }
        )
    )

    def run(ct) -> tuple[int, np.ndarray | None]:
        out = tmp_path / "drr.nrrd"
        words = ["drr", ct, "--geometry", geometry, "--theta", *[0] * 6, "--out", out]
        # The balls are small: what is denser than half of them counts.
        words += ["--bone-threshold", -300]
        code = main([str(word) for word in words])
        return code, sitk.GetArrayFromImage(sitk.ReadImage(str(out))) if out.exists() else None

    return run


def notes(capsys) -> list[str]:
    printed = capsys.readouterr().err.splitlines()
    assert all(line.startswith("note: CT ") for line in printed), printed
    return printed


def test_a_tilted_unsigned_ct_gives_the_same_picture_and_two_notes(tmp_path, draw, capsys):
    affine, straight = grid(0.3), grid()
    plain = write_nifti(tmp_path / "plain.nii", sampled(straight), straight, straight)
    code, expected = draw(plain)
    assert (code, notes(capsys)) == (0, [])
    unsigned = (sampled(affine) + 1024).astype(np.int16)
    code, found = draw(write_nifti(tmp_path / "odd.nii", unsigned, affine, straight, (2, 0)))
    assert code == 0
    printed = notes(capsys)
    assert "odd.nii is not in Hounsfield units: it has them with 1024 added" in printed[0]
    assert "odd.nii has sheared axes, 16.7 deg off" in printed[1]
    assert len(printed) == 2
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995


def test_a_series_with_a_hole_and_a_scout_is_projected_with_notes(tmp_path, draw, capsys):
    scan = Scan()
    folder = scan.write_series(tmp_path / "ct", skip=(9,))
    scan.write_slice(folder / "scout.dcm", 3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert draw(folder)[0] == 0
    printed = notes(capsys)
    assert "scout.dcm" in printed[0]
    assert "slices are missing" in printed[1]


@pytest.mark.parametrize(
    "tags", [{"ImagePositionPatient": None}, {"Modality": "MR"}, {"PixelSpacing": [1.0]}, {"RescaleSlope": 0}]
)
def test_a_ct_of_no_use_is_one_line(tmp_path, draw, capsys, tags):
    folder = Scan().write_series(tmp_path / "ct", **tags)
    assert draw(folder) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("sopi drr: CT ")
    assert error.count("\n") == 1
    assert str(folder) in error
