"""The test host with the real module in it."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
# Where the panel keeps models: not those of whoever runs the tests.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="sopi-test-")
HERE = Path(__file__).resolve().parent
MODULE_PATH = HERE.parents[1] / "SOPIRegistration" / "SOPIRegistration.py"
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session", autouse=True)
def qt_and_mrml():
    """What the host is made of; Qt needs a few system libraries that a bare Debian lacks."""
    pytest.importorskip(
        "PySide6.QtWidgets",
        reason="the panel's tests need Qt: pip install PySide6_Essentials, apt-get install libegl1 libgl1 "
        "libxkbcommon0 libfontconfig1 libdbus-1-3 libglib2.0-0",
        exc_type=ImportError,
    )
    pytest.importorskip("slicer", reason="the panel's tests need slicer-core", exc_type=ImportError)


@pytest.fixture(scope="session")
def host(qt_and_mrml):
    """The stand-in application, one for all tests."""
    from host import Host

    return Host()


def load_module():
    """The module's file, loaded as the application loads it."""
    spec = importlib.util.spec_from_file_location("SOPIRegistration", MODULE_PATH)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["SOPIRegistration"] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="session")
def module(host):
    """The module, loaded once."""
    return load_module()


@contextmanager
def opened(host, module, widget_class: type | None = None):
    """The module's panel, or another one, on an empty scene."""
    host.scene.Clear()
    for record in (host.messages, host.answers, host.exceptions, host.dicom_files):
        record.clear()
    widget = host.open_module(module, str(MODULE_PATH), widget_class)
    yield widget
    host.close_module(widget)
    host.scene.Clear()
    if host.exceptions:
        raise host.exceptions[0]


@pytest.fixture
def widget(host, module):
    """The module's panel on an empty scene."""
    with opened(host, module) as widget:
        yield widget


@pytest.fixture
def open_with(host, module):
    """Opens the panel with other parts than its own: those that ``RegistrationPanel`` is given, by name."""
    with ExitStack() as opened_ones:

        def open_panel(**parts) -> User:
            def make_panel(widget):
                from SOPIRegistrationLib.panel.registration_panel import RegistrationPanel

                return RegistrationPanel(widget.ui, **{"ensure_torch": lambda: True, **parts})

            widget_class = widget_with(module, makePanel=make_panel)
            return User(host, opened_ones.enter_context(opened(host, module, widget_class)))

        yield open_panel


def widget_with(module, **methods) -> type:
    """The module's widget with other methods; the application knows it by its name."""
    return type("SOPIRegistrationWidget", (module.SOPIRegistrationWidget,), methods)


@pytest.fixture
def user(host, widget):
    """Somebody before the panel, with an empty scene."""
    return User(host, widget)


@pytest.fixture(scope="session")
def side_xray(demo_case):
    """What :func:`side_view` gives of the demo case."""
    return side_view(demo_case)


def side_view(demo_case):
    """(camera, picture) of a second C-arm 60 deg beside that of the demo case, whose world is its camera."""
    from SOPIRegistrationLib.geometry import se3
    from SOPIRegistrationLib.images.ct_preparation import prepare_ct
    from SOPIRegistrationLib.projector import project
    from SOPIRegistrationLib.subject import Subject

    subject = Subject(prepare_ct(demo_case.ct))
    centre = (demo_case.T_true @ [*subject.ct.rotation_centre_lps_mm, 1.0])[:3]
    about = np.eye(4)
    about[:3, 3] = centre
    turn = about @ se3.exp_se3(np.array([0, np.deg2rad(60), 0, 0, 0, 0])) @ se3.invert_rigid(about)
    camera = replace(demo_case.camera, name="side", T_world_to_camera=turn)
    return camera, 6e4 * np.exp(-project(subject.body.level(1), camera, demo_case.T_true))


class User:
    """What a person does with the panel, and what they can see."""

    def __init__(self, host, widget):
        self.host, self.widget = host, widget

    @property
    def ui(self):
        return self.widget.ui

    @property
    def panel(self):
        return self.widget.panel

    @property
    def parameters(self):
        return self.widget.logic.getParameterNode()

    @property
    def session(self):
        return self.panel.session

    def wait(self, seconds: float = 120.0) -> None:
        """Until the panel is at rest: nothing runs and the last DRR is drawn."""
        panel = self.panel

        def at_rest():
            return not panel.is_busy

        assert self.host.process(seconds, until=at_rest), "the panel did not come to rest"

    def finish_tracking(self) -> None:
        """Until a tracking under way is done, without a message."""
        tracking = self.panel.tracking
        assert self.host.process(300.0, until=lambda: not tracking.is_running)
        self.wait()
        assert self.host.messages == []

    def click(self, button: str) -> None:
        """Click a button, which must be enabled."""
        widget = getattr(self.ui, button)
        assert widget.enabled, f"{button} is disabled: {widget.toolTip}"
        widget.click()

    def take_demo(self, case) -> None:
        """The demo case in the scene and chosen, without making it anew."""
        from SOPIRegistrationLib.scene import load_demo_case

        nodes = load_demo_case(self.host.scene, case=case)
        self.choose(nodes.ct, nodes.xray)
        self.session.state.geometry = nodes.geometry
        self.nodes = nodes

    def take_wrist(self, folder: Path) -> list:
        """The sample data's radius, both X-rays of it and the set's cameras. Returns the X-rays' nodes."""
        import slicer

        ct = slicer.util.loadVolume(str(folder / "radius.nii.gz"))
        xrays = [
            slicer.util.loadVolume(str(folder / f"frame_0099_{camera}.png")) for camera in ("cam01", "cam02")
        ]
        self.choose(ct, xrays[0])
        self.host.answers.append(str(folder / "cameras.json"))
        self.click("loadGeometryButton")
        self.click("addXrayButton")
        self.choose(xray=xrays[1])
        self.click("addXrayButton")
        return xrays

    def choose(self, ct=None, xray=None, mask=None) -> None:
        """Choose input nodes in the selectors."""
        for selector, node in (
            (self.ui.ctSelector, ct),
            (self.ui.xraySelector, xray),
            (self.ui.maskSelector, mask),
        ):
            if node is not None:
                selector.setCurrentNode(node)

    def show_views(self) -> None:
        self.click("showViewsButton")
        self.wait()

    def error_mm(self, case, T_ct_to_patient=None) -> float:
        """Mean target registration error of the pose in the scene over the case's bones, mm."""
        k, j, i = np.nonzero(case.labels.array)
        points = case.labels.points_lps(np.stack([i, j, k], axis=-1)[::97])
        T = self.session.pose if T_ct_to_patient is None else self.session.pose @ T_ct_to_patient
        difference = (T - case.T_true)[:3]
        return float(np.linalg.norm(points @ difference[:, :3].T + difference[:, 3], axis=1).mean())

    def drr(self) -> np.ndarray:
        """The DRR as the scene has it."""
        import slicer

        return slicer.util.arrayFromVolume(self.parameters.drr)[0].copy()

    def picture(self) -> np.ndarray:
        """The fused picture as the scene has it."""
        import slicer

        return slicer.util.arrayFromVolume(self.session.overlay.node)[0].copy()

    def last_message(self) -> str:
        return self.host.messages[-1][1]
