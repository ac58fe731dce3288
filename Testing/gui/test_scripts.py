"""What a script does by the logic's methods beyond one CT and one X-ray: as much as somebody at the panel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from SOPIRegistrationLib.errors import Cancelled, InputError


@pytest.fixture
def script(user, module, demo_case):
    """The module's logic, and the demo case in a scene in which nothing is chosen."""
    from SOPIRegistrationLib.scene import load_demo_case

    logic = module.SOPIRegistrationLogic()
    logic.nodes = load_demo_case(user.host.scene, case=demo_case)
    return logic


def stopped(_stage, _fraction) -> bool:
    """A progress that stops at once."""
    return True


def chosen_in(logic) -> tuple:
    """Everything that a script may choose, as the scene has it."""
    from SOPIRegistrationLib.scene import RegistrationState

    p = logic.getParameterNode()
    state = RegistrationState(p.parameterNode)
    names = "ct", "xray", "mask", "region", "frame", "joint", "polarity", "timeLimit"
    return [getattr(p, name) for name in names], state.geometry, state.bodies, state.xrays


def test_bodies_are_cut_out_of_the_ct_and_held(script, user, demo_case):
    """As the table of bodies would have it; what is unknown is refused with what is known."""
    from test_bodies_section import add_segments

    nodes, spine = script.nodes, add_segments(user, demo_case)
    inputs = {"ctNode": nodes.ct, "xrayNode": nodes.xray, "geometry": nodes.geometry, "bodies": [spine]}
    before = chosen_in(script)
    for wrong, told in (
        ({"motions": {"L3": "fixed"}}, "unknown body 'L3': use one of L1, L2"),
        ({"motions": {"L1": "loose"}}, "unknown motion 'loose'"),
        ({"materials": {"L1": "gold"}}, "unknown material 'gold'"),
        ({"bodies": [nodes.xray]}, "chosen already"),
    ):
        with pytest.raises(InputError, match=told):
            script.register(**{**inputs, **wrong})
        assert chosen_in(script) == before
    with pytest.raises(Cancelled):
        script.register(**inputs, motions={"L1": "fixed"}, progress=stopped)
    assert chosen_in(script) == before


def test_one_piece_tracked_and_exported(script, user, demo_case, tmp_path):
    """A script's whole way on a film: registered in a frame, followed, written."""
    import slicer

    pixels = slicer.util.arrayFromVolume(script.nodes.xray)[0]
    slicer.util.updateVolumeFromArray(
        script.nodes.xray, np.stack([np.roll(pixels, 5 * n, axis=1) for n in range(3)])
    )
    nodes = script.nodes
    with pytest.raises(InputError, match="no CT is chosen"):
        script.track()
    script.register(nodes.ct, nodes.xray, nodes.geometry, init=demo_case.T_true, refine="none", frame=1)
    tracks = script.track()
    [track] = tracks.values()
    assert [pose.status for pose in track] == ["accept"] * 3
    columns = [
        demo_case.camera.project((pose.T @ [*demo_case.pose_frame.centre_lps_mm, 1.0])[:3])[0]
        for pose in track
    ]
    np.testing.assert_allclose(np.diff(columns), 5, atol=1.0)
    written = [path.name for path in script.exportResult(tmp_path / "out")]
    assert written == ["ct_to_carm.tfm", "overlay.png", "result.json"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["pose"]
    with pytest.raises(Cancelled):
        script.track(progress=stopped)


def test_two_xrays_jointly(script, user, demo_case, side_xray):
    """A geometry of several cameras, the other X-ray by its camera's name or told; one X-ray a camera."""
    import slicer
    from SOPIRegistrationLib.geometry.c_arm import CArmGeometry

    camera, pixels = side_xray
    cameras = CArmGeometry((replace(demo_case.camera, name="front"), camera))
    side = slicer.util.addVolumeFromArray(pixels[None].astype(np.float32), name="side")
    nodes = script.nodes
    nodes.xray.SetName("front")
    before = chosen_in(script)
    with pytest.raises(InputError, match="camera 'front' has X-ray 'front'"):
        script.register(nodes.ct, nodes.xray, cameras, otherXrays=[(side, "front")])
    with pytest.raises(InputError, match="cannot be combined"):
        script.register(nodes.ct, nodes.xray, nodes.geometry, otherXrays=[(side, "side")])
    assert chosen_in(script) == before
    result = script.register(
        nodes.ct, nodes.xray, cameras, init=demo_case.T_true, refine="none", otherXrays=[side]
    )
    assert [one.camera.name for one in result.radiographs] == ["front", "side"]
    assert script.getParameterNode().joint
    user.show_views()
    assert user.ui.xrayTable.rowCount == 2
    assert len(user.session.overlay.beside) == 1


def test_landmarks(script, user, demo_case):
    """Pairs of points put the CT to its place."""
    from SOPIRegistrationLib.scene import RAS_FROM_LPS, ras_from_pixels

    nodes, T = script.nodes, demo_case.T_true
    user.choose(nodes.ct, nodes.xray)
    user.session.state.geometry = nodes.geometry
    user.show_views()
    frame = user.session.case.frame
    in_ct, in_xray, one = (
        user.host.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for name in ("in CT", "in X-ray", "one")
    )
    for offset in ([30, 0, 0], [-30, 5, 10], [0, 20, 40], [10, -25, -40], [0, 0, 0]):
        point = frame.centre_lps_mm + offset
        in_ct.AddControlPoint(*(RAS_FROM_LPS[:3, :3] @ point))
        pixel = demo_case.camera.project(T[:3, :3] @ point + T[:3, 3])
        in_xray.AddControlPoint(*ras_from_pixels(pixel, demo_case.camera, frame))
    one.AddControlPoint(0, 0, 0)
    with pytest.raises(InputError, match="4"):
        script.solveLandmarks(one, one)
    assert script.solveLandmarks(in_ct, in_xray).rms_px < 1e-3
    np.testing.assert_allclose(user.session.pose, T, atol=1e-3)
