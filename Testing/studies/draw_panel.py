"""Pictures of the module in every state, in the test host: panel and views as the application has them.

    python Testing/studies/draw_panel.py [--out Resources/Screenshots] [--wrist ../shared/data/wrist]
        [--knee ../shared/data/knee_implant] [--only NAME ...]

Writes small PNGs: empty, inputs chosen, running, accepted, rejected, landmarks solved, adjusting by hand and
every fusion mode, two vertebrae as bodies of their own, a film tracked; with the wrist data two X-rays of a
calibrated set, too, and with the knee two implants without a CT. Times that a picture tells are those of the
machine: draw on an idle one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TESTING = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTING / "gui"), str(TESTING / "studies"), str(TESTING)]
# Smaller than a window, so that words can still be read in a page of the Docs.
PANEL_WIDTH, VIEWS = 400, (800, 680)
COLOURS = 256


class Album:
    """Takes pictures of a user's window into a folder."""

    def __init__(self, user, folder: Path):
        self._user, self._folder = user, folder
        folder.mkdir(parents=True, exist_ok=True)
        user.host.resize_views(*VIEWS)

    def window(self, name: str) -> None:
        """Panel and views."""
        self._user.host.process(0.3)
        self._save(name, self._user.host.window_picture(self._user.widget.parent, PANEL_WIDTH))

    def fusion(self, name: str) -> np.ndarray:
        """The fusion view alone, (rows, columns, 3)."""
        self._user.host.process(0.3)
        return self._user.host.view_pixels("Fusion")

    def _save(self, name: str, pixels: np.ndarray) -> None:
        # A palette makes half of the file; settled like this it keeps the few pixels of a verdict's colour.
        image = Image.fromarray(pixels).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
        path = self._folder / f"{name}.png"
        image.save(path, optimize=True)
        print(f"{path} {path.stat().st_size // 1024} kB")

    def row(self, name: str, pictures: list[np.ndarray]) -> None:
        """Pictures side by side, half as large."""
        self._save(name, np.hstack([picture[::2, ::2] for picture in pictures]))


def draw_demo(user, album: Album) -> None:
    """The demo case from an empty scene to a verdict."""
    from SOPIRegistrationLib.panel.choices import OVERLAY_MODES
    from SOPIRegistrationLib.scene.nodes import remove_node
    from SOPIRegistrationLib.simulation.demo import demo_case
    from test_fusion_view import Mouse, centre_seen

    album.window("empty")
    case = demo_case(1)
    user.take_demo(case)
    album.window("inputs_chosen")
    user.show_views()
    user.click("registerButton")
    moved = lambda: not np.allclose(user.session.pose, user.session.case.frame.T_nominal)  # noqa: E731
    user.host.process(60, until=moved)
    album.window("running")
    user.wait()
    album.window("module")
    pictures = []
    for mode in OVERLAY_MODES:
        user.ui.overlayModeCombo.setCurrentText(mode)
        user.wait()
        pictures.append(album.fusion(mode))
    album.row("fusion_modes", pictures)
    user.ui.overlayModeCombo.setCurrentText("DRR edges on the X-ray")
    carried = add_carried(user, case)
    user.ui.useSection.collapsed = False
    user.wait()
    album.window("drawn_on_xray")
    user.ui.useSection.collapsed = True
    for node in carried:
        remove_node(node)
    user.ui.adjustCheckBox.checked = True
    user.ui.handlesCheckBox.checked = True
    user.wait()
    mouse = Mouse(user)
    start = mouse.xy(centre_seen(user))
    mouse.drag(start, (start[0] + 40, start[1] + 20))
    user.wait()
    album.window("adjusting_by_hand")
    user.ui.handlesCheckBox.checked = user.ui.adjustCheckBox.checked = False
    user.ui.landmarksSection.collapsed = False
    user.wait()
    pick_landmarks(user, case)
    user.click("solveButton")
    user.wait()
    album.window("landmarks")
    user.click("clearLandmarksButton")
    user.ui.landmarksSection.collapsed = True
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.ui.tzSlider.value = -120.0
    user.ui.rySlider.value = 35.0
    user.wait()
    user.click("initialiseButton")
    user.wait()
    album.window("rejected")


def pick_landmarks(user, case) -> None:
    """Five points about the spine, in the CT and, to a pixel, in the X-ray."""
    from SOPIRegistrationLib.scene import RAS_FROM_LPS, ras_from_pixels

    prepared, parameters = user.session.case, user.parameters
    for offset_mm in ((0, -40, 0), (25, 0, 35), (-25, 0, 35), (25, 10, -35), (-25, 10, -35)):
        point = prepared.frame.centre_lps_mm + np.array(offset_mm, dtype=float)
        parameters.ctLandmarks.AddControlPoint(*(RAS_FROM_LPS[:3, :3] @ point))
        pixel = case.camera.project(case.T_true[:3, :3] @ point + case.T_true[:3, 3])
        ras = ras_from_pixels(pixel.round(), prepared.xray.camera, prepared.frame)
        parameters.xrayLandmarks.AddControlPoint(*ras)


def add_carried(user, case) -> list:
    """A line, a point and a segment planned on the CT's middle vertebra: what a person would bring along."""
    import slicer
    from SOPIRegistrationLib.scene import RAS_FROM_LPS, attach

    labels = case.labels
    values = np.unique(labels.array)
    middle = values[len(values) // 2]
    points = labels.points_lps(np.argwhere(labels.array == middle)[:, ::-1]) @ RAS_FROM_LPS[:3, :3]
    low, high = points.min(axis=0), points.max(axis=0)
    line = user.host.scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Screw")
    for share in (0.25, 0.75):
        line.AddControlPoint(*(low + share * (high - low)))
    target = user.host.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Targets")
    target.AddControlPoint(*points.mean(axis=0), "target")
    bone = user.host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Plan")
    bone.CreateDefaultDisplayNodes()
    one = slicer.util.addVolumeFromArray((labels.array == middle).astype(np.uint8), name="one")
    one.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_FROM_LPS @ labels.index_to_lps))
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(one.GetImageData())
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(RAS_FROM_LPS @ labels.index_to_lps))
    user.host.scene.RemoveNode(one)
    bone.AddSegmentFromBinaryLabelmapRepresentation(image, "L3", [0.3, 0.9, 0.4])
    for node in (line, target):
        node.CreateDefaultDisplayNodes()
    attach(user.parameters.transform, line, target, bone)
    return [line, target, bone]


def draw_wrist(user, album: Album, folder: Path) -> None:
    """Two X-rays of a calibrated set, the CT at the gold standard."""
    import json

    user.host.scene.Clear()
    user.take_wrist(folder)
    user.ui.jointCheckBox.checked = True
    user.show_views()
    gold = np.array(json.loads((folder / "gold_0099.json").read_text())["T_radius_lps_to_world"])
    user.session.pose = user.session.case.T_world_to_camera @ gold
    user.session.views.fit()
    user.wait()
    user.ui.inputsSection.collapsed = user.ui.xraysSection.collapsed = False
    album.window("two_xrays")


def draw_bodies(user, album: Album) -> None:
    """Two vertebrae of the demo case as bodies of their own, registered; one of them is moved by hand."""
    from SOPIRegistrationLib.simulation.demo import demo_case
    from test_bodies_section import add, add_segments

    user.host.scene.Clear()
    case = demo_case(1)
    user.take_demo(case)
    add(user, add_segments(user, case))
    user.show_views()
    user.session.pose = case.T_true
    user.wait()
    user.ui.initialiserCombo.setCurrentText("Current pose")
    user.click("registerButton")
    user.wait(300)
    user.ui.inputsSection.collapsed = user.ui.bodiesSection.collapsed = False
    user.ui.xraysSection.collapsed = True
    user.wait()
    album.window("bodies")


def draw_film(user, album: Album) -> None:
    """The demo's X-ray as a film in which the patient moves across it, tracked."""
    import slicer
    from SOPIRegistrationLib.simulation.demo import demo_case

    user.host.scene.Clear()
    case = demo_case(1)
    user.take_demo(case)
    pixels = slicer.util.arrayFromVolume(user.nodes.xray)[0]
    film = np.stack([np.roll(pixels, 4 * number, axis=1) for number in range(6)])
    slicer.util.updateVolumeFromArray(user.nodes.xray, film)
    user.parameters.frame = 1
    user.show_views()
    user.session.pose = case.T_true
    user.wait()
    user.ui.trackingSection.collapsed = False
    user.click("trackButton")
    user.finish_tracking()
    for section in (
        user.ui.inputsSection,
        user.ui.poseSection,
        user.ui.overlaySection,
        user.ui.resultSection,
    ):
        section.collapsed = True
    user.wait()
    album.window("tracked")
    user.ui.trackingSection.collapsed = True


def draw_implants(user, album: Album, folder: Path) -> None:
    """Two implants without a CT in two X-rays of a calibrated set, registered from their rough starts."""
    from test_implants import take_knee

    user.host.scene.Clear()
    take_knee(user, folder)
    user.ui.initialiserCombo.setCurrentText("Current pose")
    album.window("implants_start")
    user.click("registerButton")
    user.host.process(20, until=lambda: "all bodies" in user.ui.stageLabel.text)
    album.window("implants_running")
    user.wait(500)
    user.ui.inputsSection.collapsed = user.ui.bodiesSection.collapsed = False
    user.wait()
    album.window("implants")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TESTING.parent / "Resources" / "Screenshots")
    parser.add_argument("--wrist", type=Path, help="folder of the wrist data")
    parser.add_argument("--knee", type=Path, help="folder of the knee's data")
    parser.add_argument(
        "--only", nargs="+", default=["demo", "bodies", "film", "wrist", "knee"], help="what is drawn"
    )
    options = parser.parse_args()
    from measure_panel import open_panel

    user = open_panel()
    album = Album(user, options.out)
    drawers = {
        "demo": lambda: draw_demo(user, album),
        "bodies": lambda: draw_bodies(user, album),
        "film": lambda: draw_film(user, album),
        "wrist": lambda: options.wrist and draw_wrist(user, album, options.wrist),
        "knee": lambda: options.knee and draw_implants(user, album, options.knee),
    }
    for name in options.only:
        drawers[name]()
