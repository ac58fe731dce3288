"""Joint angles against rotations made by hand, on both sides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.registration.result import Verdict
from SOPIRegistrationLib.tracking import FramePose, Track
from SOPIRegistrationLib.tracking.kinematics import (
    axes_from_landmarks,
    cardan_angles,
    grood_suntay,
    joint_values,
    read_joint,
)

SIGN = {"right": 1.0, "left": -1.0}


def turned(axis: str, degrees: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return T


@pytest.mark.parametrize("side", SIGN)
def test_flexion_brings_the_foot_backwards(side):
    """x right, y front, z up: turned about x by minus 30 deg, the shank (-z) swings back (-y)."""
    T = turned("x", -30)
    foot = T[:3, :3] @ [0, 0, -1.0]
    assert foot[1] < 0
    values = grood_suntay(T, side)
    assert values["flexion_deg"] == pytest.approx(30)
    assert values["adduction_deg"] == pytest.approx(0, abs=1e-9)
    assert values["external_rotation_deg"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("side", SIGN)
def test_adduction_brings_the_foot_to_the_middle(side):
    T = turned("y", 10 * SIGN[side])
    foot = T[:3, :3] @ [0, 0, -1.0]
    # The middle of the body is to the left of a right leg.
    assert foot[0] * SIGN[side] < 0
    values = grood_suntay(T, side)
    assert values["adduction_deg"] == pytest.approx(10)
    assert values["flexion_deg"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("side", SIGN)
def test_external_rotation_brings_the_toes_outwards(side):
    T = turned("z", -15 * SIGN[side])
    toes = T[:3, :3] @ [0, 1.0, 0]
    assert toes[0] * SIGN[side] > 0
    values = grood_suntay(T, side)
    assert values["external_rotation_deg"] == pytest.approx(15)
    assert values["flexion_deg"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("side", SIGN)
def test_all_three_together_in_the_order_of_the_joint_axes(side):
    sign = SIGN[side]
    T = turned("x", -70) @ turned("y", 8 * sign) @ turned("z", -12 * sign)
    values = grood_suntay(T, side)
    assert values["flexion_deg"] == pytest.approx(70)
    assert values["adduction_deg"] == pytest.approx(8)
    assert values["external_rotation_deg"] == pytest.approx(12)


@pytest.mark.parametrize("side", SIGN)
def test_translations_of_the_tibia(side):
    T = np.eye(4)
    T[:3, 3] = 2 * SIGN[side], 3, -40
    values = grood_suntay(T, side)
    assert [values[name] for name in ("lateral_mm", "anterior_mm", "distraction_mm")] == pytest.approx(
        [2, 3, 40]
    )
    flexed = turned("x", -90)
    flexed[:3, 3] = 0, -40, 5
    values = grood_suntay(flexed, side)
    # Flexed by 90 deg the tibia lies behind the femur, and its front is up... below: e2 is -z turned to y.
    assert values["distraction_mm"] == pytest.approx(40)
    assert abs(values["anterior_mm"]) == pytest.approx(5)


@pytest.mark.parametrize("side", SIGN)
def test_axes_from_landmarks_in_lps(side):
    """Upright patient: left is +x, the front -y, up +z of LPS."""
    lateral = np.array([-40.0 * SIGN[side], 3.0, 10.0])
    medial = np.array([40.0 * SIGN[side], 3.0, 10.0])
    T = axes_from_landmarks(medial, lateral, side, proximal=[0, 3.0, 400.0])
    assert np.allclose(T[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    assert np.allclose(T[:3, 3], [0, 3, 10])
    assert np.allclose(axes_from_landmarks(medial, lateral, side, distal=[0, 3.0, -300.0]), T)
    with pytest.raises(InputError, match="one line"):
        axes_from_landmarks(medial, lateral, side, distal=lateral * 2 - medial)
    with pytest.raises(InputError, match="proximal or a distal"):
        axes_from_landmarks(medial, lateral, side)


def test_cardan_angles_in_their_order():
    T = turned("z", 40) @ turned("x", -10) @ turned("y", 5)
    T[:3, 3] = 1, 2, 3
    values = cardan_angles(T, "ZXY")
    assert list(values) == ["z_deg", "x_deg", "y_deg", "x_mm", "y_mm", "z_mm"]
    assert list(values.values()) == pytest.approx([40, -10, 5, 1, 2, 3])
    with pytest.raises(InputError, match="ZZY"):
        cardan_angles(T, "ZZY")


def test_a_joint_of_two_tracks_does_not_depend_on_the_world(tmp_path):
    axes = {"medial": [40, 0, 0], "lateral": [-40, 0, 0]}
    entry = {
        "proximal": "femur",
        "distal": "tibia",
        "side": "right",
        "axes": {"femur": {**axes, "proximal": [0, 0, 400]}, "tibia": {**axes, "distal": [0, 0, -300]}},
    }
    path = tmp_path / "knee.json"
    path.write_text(json.dumps(entry))
    joint = read_joint(path, ["femur", "tibia"])
    world = turned("y", 33) @ turned("x", 71)
    world[:3, 3] = 10, -20, 700
    verdict = Verdict("accept", [], None, None)
    # In LPS x runs to the left: the flexion of -x is a turn of +25 deg about it.
    femur = Track("femur", 2, np.zeros(3), {1: FramePose(1, world, verdict)})
    tibia = Track("tibia", 2, np.zeros(3), {1: FramePose(1, world @ turned("x", 25), verdict)})
    values = joint_values(joint, [femur, tibia])
    assert list(values) == [(1, "tibia")]
    assert values[1, "tibia"]["joint_flexion_deg"] == pytest.approx(25)
    with pytest.raises(InputError, match="no body is called femur"):
        read_joint(path, ["tibia"])
    path.write_text("{}")
    with pytest.raises(InputError, match=r"knee.json is not one"):
        read_joint(path, ["tibia"])
