"""What X-rays are taken to be where only their polarity was detected."""

from __future__ import annotations

import numpy as np
import pytest
from SOPIRegistrationLib.compare.case import Reading
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph

CAMERA = Camera.from_c_arm(1000.0, (1.0, 1.0), 8, 8)


def detected(bone_dark: bool, is_known: bool = False) -> PreparedRadiograph:
    """An X-ray whose polarity was detected, or is known."""
    image = np.zeros(CAMERA.shape, dtype=np.float32)
    other = None if is_known else lambda: detected(not bone_dark)
    return PreparedRadiograph(image, image == 0, CAMERA, bone_dark=bone_dark, other_polarity=other)


@pytest.mark.parametrize(
    ("radiographs", "expected"),
    [
        ([detected(True)], ["D", "B"]),
        ([detected(True, is_known=True)], ["D"]),
        ([detected(True), detected(True)], ["DD", "BB"]),
        ([detected(True), detected(False)], ["DB", "DD", "BB", "BD"]),
        ([detected(True, is_known=True), detected(False)], ["DB", "DD"]),
        ([detected(False), detected(True), detected(True)], ["BDD", "DDD", "BBB", "DBB"]),
    ],
)
def test_polarities_that_are_tried_and_their_order(radiographs, expected):
    found = Reading(tuple(radiographs)).polarities()
    assert ["".join("DB"[not one.bone_dark] for one in each.radiographs) for each in found] == expected
