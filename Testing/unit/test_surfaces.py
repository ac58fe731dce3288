"""Closed surfaces: read, filled, and registered as silhouettes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from SOPIRegistrationLib.cli.main import main
from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, targets_of
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.projector import project, project_with_jacobian
from SOPIRegistrationLib.refine.joint_scene import Scene
from SOPIRegistrationLib.refine.jointly import JointObjective, Refined
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.registration.bodies_verdict import judge_bodies
from SOPIRegistrationLib.registration.pose_files import write_transform
from SOPIRegistrationLib.registration.verdict import judge
from SOPIRegistrationLib.settings import RegistrationSettings
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies
from SOPIRegistrationLib.subject.surface import MATERIALS, closed, filled, material_named, read_surface

pytest.importorskip("vtk")
from support.surfaces import implant, metal_radiograph, sphere, write_surface

RADIUS_MM, CENTRE = 20.0, np.array([3.0, -7.0, 11.0])
CAMERA = Camera.from_c_arm(1100.0, (0.8, 0.8), 256, 256)


@pytest.fixture(scope="module")
def ball():
    return closed(*sphere(RADIUS_MM, CENTRE), "ball")


@pytest.fixture(scope="module")
def subject():
    return Subject(filled(implant(), material_named("CoCr")))


@pytest.fixture(scope="module")
def case(subject):
    """Frame, true pose and X-ray of the implant."""
    frame = PoseFrame(subject.ct.rotation_centre_lps_mm, 800.0)
    T_true = frame.T_from_theta(np.array([0.3, -0.4, 0.2, 6.0, -9.0, 12.0]))
    xray = metal_radiograph(implant(), CAMERA, T_true)
    return frame, T_true, xray


def moved(T, degrees, mm, centre):
    """A pose turned by degrees (3,) and shifted by mm (3,) about a point."""
    return se3.move_about(T[None], np.hstack([np.deg2rad(degrees), mm])[None], centre)[0]


@pytest.mark.parametrize("material", MATERIALS)
def test_a_filled_surface_has_its_volume_place_and_attenuation(ball, material):
    ct = filled(ball, material_named(material))
    share = ct.attenuation.array / material_named(material).attenuation_per_mm
    volume = share.sum(dtype=np.float64) * ct.attenuation.spacing_mm.prod()
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=3e-3)
    assert share.max() == pytest.approx(1)
    np.testing.assert_allclose(ct.rotation_centre_lps_mm, CENTRE, atol=0.02)
    distance = np.linalg.norm(ct.surface_points_lps_mm - CENTRE, axis=1)
    assert abs(distance - RADIUS_MM).max() < 0.6
    assert ct.is_metal == (material in ("CoCr", "Ti"))


def test_the_outline_of_metal_is_right_to_a_tenth_of_a_millimetre(ball):
    moving = Subject(filled(ball, material_named("CoCr"))).silhouette
    camera = Camera.from_c_arm(1000.0, (0.1, 0.1), 700, 700)
    T = PoseFrame(CENTRE, 700.0).T_nominal
    # A sphere on the central ray is seen under the angle whose sine is radius over distance.
    at_depth = 700.0 * np.tan(np.arcsin(RADIUS_MM / 700.0))
    image = project(moving.level(0), camera, T)
    seen = np.sqrt((image > 0.5).sum() / np.pi) * 0.1 * 700 / 1000
    assert seen == pytest.approx(at_depth, abs=0.1)


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".vtp"])
def test_every_format_gives_the_same_body(tmp_path, suffix, ball):
    path = write_surface(tmp_path / f"body{suffix}", ball.points_lps_mm, ball.triangles)
    surface = read_surface(path)
    assert surface.name == "body"
    assert surface.notes == ()
    assert len(surface.triangles) == len(ball.triangles)
    expected, found = (filled(one, material_named("bone")) for one in (ball, surface))
    np.testing.assert_allclose(found.attenuation.array, expected.attenuation.array, atol=0.02)
    assert found.attenuation.array.shape == expected.attenuation.array.shape


def test_coordinates_that_a_file_calls_ras_are_turned(tmp_path, ball):
    path = write_surface(tmp_path / "body.ply", ball.points_lps_mm, ball.triangles)
    path.write_bytes(path.read_bytes().replace(b"comment ", b"comment SPACE=RAS ", 1))
    np.testing.assert_allclose(read_surface(path).points_lps_mm.mean(axis=0), CENTRE * [-1, -1, 1], atol=0.1)


def test_cracks_are_closed_and_said(ball):
    keep = np.ones(len(ball.triangles), bool)
    keep[[5000, 9000]] = False
    mended = closed(ball.points_lps_mm, ball.triangles[keep], "ball", "ball.stl")
    [note] = mended.notes
    assert "ball.stl had cracks" in note
    whole, ct = (filled(one, material_named("PMMA")) for one in (ball, mended))
    np.testing.assert_allclose(ct.attenuation.array.sum(), whole.attenuation.array.sum(), rtol=1e-3)
    assert ct.notes == mended.notes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t: (p, t[p[t].mean(axis=1)[:, 2] < CENTRE[2] + 15]), "is not closed: .* is missing"),
        (lambda p, t: (p / 1000, t), "is 0.04 mm across: export it in millimetres"),
        (lambda p, t: (np.where(p > CENTRE + 19.9, np.nan, p), t), "NaN"),
        (lambda p, t: (p * [1, 1, 0], t), "encloses nothing"),
    ],
)
def test_what_is_no_closed_surface_is_refused_in_one_line(ball, spoil, message):
    with pytest.raises(InputError, match=message) as refused:
        filled(closed(*spoil(ball.points_lps_mm, ball.triangles), "ball"), material_named("CoCr"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"solid nothing\nendsolid nothing\n", b"\x00\x01garbage" * 30])
@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".vtp"])
def test_files_without_a_surface_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="broken"):
        read_surface(path)


_PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 2
property list uchar int vertex_indices
end_header
0 0 0
20 0 0
0 20 0
3 0 1 2
3 0 1 {}
"""
_OBJ = "v 0 0 0\nv 20 0 0\nv 0 20 0\nf 1 2 3\nf 1 2 {}\n"


@pytest.mark.parametrize(
    ("name", "text"), [("a.ply", _PLY.format(3)), ("a.ply", _PLY.format(-1)), ("a.obj", _OBJ.format(99))]
)
def test_faces_of_vertices_that_are_not_there_do_not_reach_vtk(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=f"{name} has faces of vertices that it does not hold"):
        read_surface(path)


def test_what_is_smaller_than_bones_and_implants_may_be_in_centimetres(ball):
    [note] = closed(ball.points_lps_mm / 10, ball.triangles, "ball", "ball.stl").notes
    assert "ball.stl is only 4 mm across" in note
    assert closed(ball.points_lps_mm, ball.triangles).notes == ()


def test_vtk_that_is_missing_is_asked_for(tmp_path, monkeypatch, ball):
    path = write_surface(tmp_path / "body.stl", ball.points_lps_mm, ball.triangles)
    monkeypatch.setitem(sys.modules, "vtk", None)
    with pytest.raises(InputError, match="pip install vtk"):
        read_surface(path)


def test_the_jacobian_of_a_silhouette_is_that_of_its_image(subject):
    # Titanium: metal that is not black everywhere has a slope inside its outline, too.
    moving = Subject(filled(implant(), material_named("Ti"))).silhouette
    camera = Camera.from_c_arm(1000.0, (3.0, 3.0), 32, 32)
    T = PoseFrame(subject.ct.rotation_centre_lps_mm, 700.0).T_nominal
    image, jacobian = project_with_jacobian(moving.level(2), camera, T, step_mm=0.05)
    assert 0.9 < image.max() <= 1
    h = 1e-3
    for axis in range(3, 6):
        twist = np.zeros(6)
        twist[axis] = h
        ahead, behind = (
            project(moving.level(2), camera, se3.exp_se3(s * twist) @ T, step_mm=0.05).astype(float)
            for s in (1, -1)
        )
        slope = (ahead - behind) / (2 * h)
        assert np.abs(jacobian[..., axis] - slope).max() < 0.05 * max(np.abs(slope).max(), 0.05)


def test_metal_has_one_target(subject):
    for content in ("auto", "body", "bone", "metal"):
        assert [target.content for target in targets_of(subject, content)] == ["metal"]


@pytest.mark.parametrize("refine", ["opt", "physics"])
def test_an_implant_is_found_in_one_view(subject, case, refine):
    frame, T_true, xray = case
    start = moved(T_true, [4.0, -3.0, 4.0], [3.0, -2.0, 8.0], frame.centre_lps_mm)
    view = prepare_radiograph(xray, CAMERA, "bone-dark", of_metal=True)
    result = register(subject, [view], frame, RegistrationSettings("given", refine=refine), start)
    assert result.verdict.status == "accept", result.verdict.reasons
    assert result.content == "metal"
    turn = se3.rotation_distance(result.T_lps_to_world[:3, :3], T_true[:3, :3])
    place, true = (se3.transform_points(T, frame.centre_lps_mm) for T in (result.T_lps_to_world, T_true))
    assert np.rad2deg(turn) < 0.5
    assert np.linalg.norm((place - true)[:2]) < 0.2
    assert abs(place[2] - true[2]) < 4


@pytest.fixture(scope="module")
def second_view(case):
    """The implant's X-ray from 60 deg beside, prepared."""
    _, T_true, _ = case
    world = se3.rigid(se3.exp_so3(np.array([0.0, np.pi / 3, 0.0])), np.array([-692.8, 0.0, 400.0]))
    camera = replace(CAMERA, T_world_to_camera=world)
    return prepare_radiograph(
        metal_radiograph(implant(), camera, T_true, seed=1), camera, "bone-dark", of_metal=True
    )


@pytest.mark.slow
def test_two_views_fix_the_depth(subject, case, second_view):
    frame, T_true, first = case
    views = [prepare_radiograph(first, CAMERA, "bone-dark", of_metal=True), second_view]
    start = moved(T_true, [-3.0, 4.0, 3.0], [3.0, 2.0, -4.0], frame.centre_lps_mm)
    result = register(subject, views, frame, RegistrationSettings("given"), start)
    assert result.verdict.status == "accept", result.verdict.reasons
    place, true = (se3.transform_points(T, frame.centre_lps_mm) for T in (result.T_lps_to_world, T_true))
    assert np.linalg.norm(place - true) < 0.25


def judged(subject, views, frame, T_start):
    """Verdict on an implant where it comes to from a start."""
    one = Case(subject, Reading(tuple(views)), frame, T_expected=T_start)
    [target] = one.targets
    start = Hypotheses.unscored(Comparison(one, one.reading, target), T_start[None])
    return judge(through_levels(start, target.kind.coarse[0] + target.kind.fine, Run(one)))


def changed(factors, frame):
    """The implant stretched about its centre along each axis."""
    surface = implant()
    points = (surface.points_lps_mm - frame.centre_lps_mm) * factors + frame.centre_lps_mm
    triangles = surface.triangles[:, ::-1] if np.prod(factors) < 0 else surface.triangles
    return Subject(filled(closed(points, triangles, "changed"), material_named("CoCr")))


def test_another_implant_is_not_accepted(case):
    frame, T_true, xray = case
    other = Subject(filled(closed(*sphere(22.0, frame.centre_lps_mm), "ball"), material_named("CoCr")))
    view = prepare_radiograph(xray, CAMERA, "bone-dark", of_metal=True)
    assert judged(other, [view], frame, T_true).status != "accept"


def test_another_size_that_looks_the_same_in_one_view_is_not_accepted(case, subject):
    frame, T_true, xray = case
    view = prepare_radiograph(xray, CAMERA, "bone-dark", of_metal=True)
    verdict = judged(changed([1.06] * 3, frame), [view], frame, T_true)
    assert verdict.status == "review"
    assert any("mm further than at the start: one of another size" in one for one in verdict.reasons)
    assert verdict.ambiguous
    assert judged(subject, [view], frame, T_true).status == "accept"


@pytest.mark.parametrize("factors", [[1.08] * 3, [0.94] * 3, [-1, 1, 1]])
def test_another_size_or_side_is_not_accepted_in_two_views(case, second_view, factors):
    frame, T_true, xray = case
    first = prepare_radiograph(xray, CAMERA, "bone-dark", of_metal=True)
    assert judged(changed(factors, frame), [first, second_view], frame, T_true).status != "accept"


def test_of_several_bodies_each_is_judged_by_its_weak_parts(case, second_view, subject):
    frame, T_true, xray = case
    views = [prepare_radiograph(xray, CAMERA, "bone-dark", of_metal=True), second_view]
    told = []
    for one in (subject, changed([-1, 1, 1], frame)):
        scene = Scene(Bodies.one(one), views)
        refined = Refined(T_true[None], JointObjective(scene, scene.kind.check, T_true[None]))
        [verdict], _ = judge_bodies(scene, refined)
        told.append(any("parts of the outline do not agree" in reason for reason in verdict.reasons))
    assert told == [False, True]


def test_metal_that_is_clipped_stays_in_the_comparison(case):
    _, _, xray = case
    clipped = type(xray)(np.where(xray.pixels < 60, 0, xray.pixels), "clipped")
    dark = clipped.pixels == 0
    assert not prepare_radiograph(clipped, CAMERA, "bone-dark").valid[dark].any()
    assert prepare_radiograph(clipped, CAMERA, "bone-dark", of_metal=True).valid[dark].mean() > 0.9


@pytest.fixture(scope="module")
def files(tmp_path_factory, case):
    """A folder with the implant, its X-ray, the geometry and a start pose."""
    folder = tmp_path_factory.mktemp("surface")
    frame, T_true, xray = case
    surface = implant()
    write_surface(folder / "implant.stl", surface.points_lps_mm, surface.triangles)
    sitk.WriteImage(sitk.GetImageFromArray(xray.pixels), str(folder / "xray.png"))
    geometry = {"sdd_mm": 1100.0, "pixel_spacing_mm": [0.8, 0.8], "sod_mm": 800.0, "view": "AP"}
    (folder / "geometry.json").write_text(json.dumps(geometry), encoding="utf-8")
    start = moved(T_true, [3.0, -3.0, 3.0], [2.0, -2.0, 4.0], frame.centre_lps_mm)
    write_transform(folder / "start.tfm", start, frame)
    return folder


def test_the_command_line_registers_a_surface(files, case, capsys):
    frame, T_true, _ = case
    words = [files / "implant.stl", "--xrays", files / "xray.png", "--geometry", files / "geometry.json"]
    words += ["--material", "implant=cocr", "--init", files / "start.tfm", "--polarity", "bone-dark"]
    assert main(["register", *map(str, words), "--out", str(files / "out")]) == 0
    assert "ACCEPT" in capsys.readouterr().out
    assert (files / "out" / "implant_to_carm.tfm").is_file()
    pose = json.loads((files / "out" / "result.json").read_text(encoding="utf-8"))["pose"]
    centre = frame.centre_lps_mm
    away = se3.transform_points(np.array(pose["T_lps_to_camera"]), centre) - se3.transform_points(
        T_true, centre
    )
    assert np.linalg.norm(away[:2]) < 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "has no material: give --material with one of bone, CoCr, Ti, PMMA"),
        (["--material", "gold"], "unknown material 'gold'"),
        (["--material", "tray=CoCr"], "is for no body of this command: name implant"),
        (["--material", "CoCr", "Ti"], "names two materials for implant"),
        (["--material", "CoCr", "--bone-threshold", "200"], "--bone-threshold is for a CT"),
        (["--material", "CoCr", "--refine", "sopi"], "does not know implants of metal"),
    ],
)
def test_what_does_not_go_with_a_surface_is_said_in_one_line(files, words, message, tmp_path, capsys):
    inputs = [files / "implant.stl", files / "xray.png", "--geometry", files / "geometry.json"]
    assert main(["register", *map(str, inputs), *words, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert not (tmp_path / "out").exists()


def test_x_rays_are_named_in_one_way(files, tmp_path, capsys):
    body, xray = str(files / "implant.stl"), str(files / "xray.png")
    geometry = ["--geometry", str(files / "geometry.json")] if (files / "geometry.json").exists() else []
    for words in ([body], [body, xray, "--xrays", xray, *geometry]):
        assert main(["register", *words, "--material", "CoCr", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert "no X-ray is given" in printed[0]
    # What stands before --xrays is a body.
    assert "xray.png" in printed[-1]
