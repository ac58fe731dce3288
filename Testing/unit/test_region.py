"""The part of an X-ray that is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.images.region import read_region, restricted

CAMERA = Camera.from_c_arm(1000.0, (0.5, 0.5), 60, 40)


@pytest.fixture
def prepared(rng):
    image = rng.random((40, 60)).astype(np.float32)
    valid = np.zeros((40, 60), bool)
    valid[5:35, 5:55] = True

    def other():
        return PreparedRadiograph(1 - image, valid, CAMERA, "film")

    return PreparedRadiograph(image, valid, CAMERA, "film", other)


def test_nothing_outside_is_valid_in_either_polarity(prepared):
    region = np.zeros((40, 60), bool)
    region[:, :30] = True
    for view in (restricted(prepared, region), restricted(prepared, region).other_polarity()):
        np.testing.assert_array_equal(view.valid, prepared.valid & region)
    assert restricted(prepared.other_polarity(), region).other_polarity is None


def test_a_region_of_another_size_or_of_nothing_is_refused(prepared):
    with pytest.raises(InputError, match="has 60 x 41 pixels, the X-ray has 60 x 40"):
        restricted(prepared, np.ones((41, 60), bool))
    with pytest.raises(InputError, match=r"leaves 0.0 % of it to compare"):
        restricted(prepared, ~prepared.valid)


def test_a_picture_counts_where_it_is_not_0(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:20, 30:50] = 255
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "mask.png"))
    geometry = CArmGeometry((CAMERA,))
    np.testing.assert_array_equal(read_region(tmp_path / "mask.png", geometry), pixels > 0)
    mirrored = read_region(tmp_path / "mask.png", replace(geometry, mirrored=True))
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1] > 0)
