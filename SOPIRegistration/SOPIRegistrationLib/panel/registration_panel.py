"""The panel: what its buttons do, when they can, and what runs behind them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import qt
import slicer

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import PATIENT
from SOPIRegistrationLib.methods import LEARNED_REFINEMENT
from SOPIRegistrationLib.panel.choice_box import ChoiceBox
from SOPIRegistrationLib.panel.choices import (
    CURRENT_POSE,
    INITIALISERS,
    METHODS,
    NEEDS_TORCH,
    OFFERED,
    OVERLAY_MODES,
    label_of,
)
from SOPIRegistrationLib.panel.geometry_section import GeometrySection, XrayFacts
from SOPIRegistrationLib.panel.hand_adjustment import HandAdjustment
from SOPIRegistrationLib.panel.landmark_section import LandmarkSection
from SOPIRegistrationLib.panel.live_size import LiveSize
from SOPIRegistrationLib.panel.messages import errors_shown, show_error, show_notes
from SOPIRegistrationLib.panel.overlay_section import OverlaySection
from SOPIRegistrationLib.panel.pose_section import PoseSection
from SOPIRegistrationLib.panel.pose_undo import PoseUndo
from SOPIRegistrationLib.panel.result_section import ResultSection
from SOPIRegistrationLib.panel.session import REST_PIXELS, Session
from SOPIRegistrationLib.panel.tracking_section import TrackingSection
from SOPIRegistrationLib.panel.training_section import TrainingSection
from SOPIRegistrationLib.panel.xrays_section import XraysSection
from SOPIRegistrationLib.registration.logic import PreparedCase, RegistrationLogic, Signal, State
from SOPIRegistrationLib.simulation.demo import DemoCase, demo_case

# Between two looks at the events the computation gets this long; nobody sees a delay of that length.
_POLL_MS, _WORK_S = 2, 0.03
# Moves that follow each other faster than this are drawn once.
_LIVE_DELAY_MS = 5
_REST_DELAY_MS = 250
# While a hand moves the CT, the picture shows the pose; the scene, slow to answer, follows this often.
_FOLLOW_MS = 500
# A wheel or key that rests for this long has ended its gesture.
_GESTURE_MS = 400
# What is told before the computation has said a word.
_FIRST_STAGE = {State.PREPARING: "Preparing…", State.REGISTERING: "Starting…"}
_NO_WEIGHTS = "weights of the learned refinement (none are installed)"


class RegistrationPanel(slicer.util.VTKObservationMixin):
    """Connects the sections to a session and runs the long work.

    Args:
        ui: the panel's widgets by name.
        ensure_torch: makes sure that PyTorch is installed, asking first; answers whether it is, and raises
            InputError where installing fails.
    """

    def __init__(self, ui, ensure_torch: Callable[[], bool]):
        super().__init__()
        self._ui = ui
        self._ensure_torch = ensure_torch
        self._session: Session | None = None
        self._logic = RegistrationLogic()
        # What is to be done with the case that is being prepared.
        self._then: Callable[[], None] = _nothing
        self._undo = PoseUndo()
        self._live_size = LiveSize()
        self._folded: set[str] = set()
        self._fusion_view: bridge.FusionView | None = None
        self._hand = HandAdjustment(lambda: self._shown_pose, self._on_hand)
        self._shown_pose: np.ndarray | None = None
        self._result_T_lps_to_world: np.ndarray | None = None
        self._follows_program = False
        self._initialiser = next(iter(INITIALISERS.values()))
        self._choices = [
            ChoiceBox(getattr(ui, f"{name}Combo"), offered, name) for name, offered in OFFERED.items()
        ]
        self._tips: dict[str, str] = {}
        self._geometry = GeometrySection(ui, self._on_geometry)
        self._xrays = XraysSection(ui, self._look_at, self._on_xrays)
        self._pose = PoseSection(ui, self._on_theta)
        self._landmarks = LandmarkSection(ui, self._update)
        self._result = ResultSection(ui, self._on_history)
        self._overlay = OverlaySection(ui)
        self._training = TrainingSection(ui, self._update)
        self._tracking = TrackingSection(ui, self._when_ready, lambda: self._session)
        self._poll = _timer(_POLL_MS, self._on_poll, repeats=True)
        self._made_demo: Signal[DemoCase] = Signal()
        for signal, receiver in (
            (self._logic.state_changed, self._on_state),
            (self._logic.progressed, self._show_progress),
            (self._logic.prepared, self._on_prepared),
            (self._logic.finished, self._on_finished),
            (self._logic.stopped, self._on_stopped),
            (self._logic.failed, self._on_failed),
            (self._made_demo, self._on_made_demo),
        ):
            signal.connect(receiver)
        self._live = _timer(_LIVE_DELAY_MS, self._draw_live)
        self._rest = _timer(_REST_DELAY_MS, self._draw_at_rest)
        self._follow = _timer(_FOLLOW_MS, self._move_transform)
        self._gesture = _timer(_GESTURE_MS, self._end_gesture)
        self._again = _timer(_REST_DELAY_MS, lambda: self._when_ready(lambda: None))
        for name, action in (
            ("demo", self._on_demo),
            ("showViews", lambda: self._when_ready(lambda: None)),
            ("nominal", lambda: self._move(lambda: self._session.case.frame.T_nominal)),
            ("reset", lambda: self._move(lambda: self._undo.settled)),
            ("undo", lambda: self._step_back(self._undo.undo(self._session.pose))),
            ("redo", lambda: self._step_back(self._undo.redo(self._session.pose))),
            ("copy", self._on_copy),
            ("addXray", self._on_add_xray),
            ("solve", lambda: self._move(self._landmarks.solve)),
            ("register", lambda: self._start(None, None)),
            ("initialise", lambda: self._start(None, "none")),
            ("refine", lambda: self._start(CURRENT_POSE, LEARNED_REFINEMENT)),
            ("optimise", lambda: self._start(CURRENT_POSE, "opt")),
            ("cancel", self.cancel),
            ("train", self._on_train),
            ("exportResult", self._on_export_result),
            ("exportTransform", self._on_export_transform),
            ("exportPicture", self._on_export_picture),
        ):
            getattr(ui, name + "Button").connect("clicked(bool)", action)
        ui.handlesCheckBox.connect("toggled(bool)", self._on_handles)
        ui.adjustCheckBox.connect("toggled(bool)", self._on_adjust)
        ui.initialiserCombo.connect("activated(int)", self._on_initialiser)
        ui.copySelector.connect("currentNodeChanged(vtkMRMLNode*)", self._update)
        ui.landmarksSection.connect("contentsCollapsed(bool)", self._on_landmarks_collapsed)
        self._show_stage("")
        self._update()

    @property
    def session(self) -> Session | None:
        """The case in the scene; None while there is no scene to work on."""
        return self._session

    @property
    def is_busy(self) -> bool:
        """Whether something runs, or is still to be drawn."""
        drawing = (self._live, self._rest, self._follow, self._gesture, self._again)
        return self.is_running or any(timer.active for timer in drawing)

    @property
    def is_running(self) -> bool:
        """Whether something is computed that the user waits for."""
        return not self._logic.is_idle

    # Following the scene

    def use(self, parameters) -> None:
        """Work on a wrapped parameter node from now on; None while there is none."""
        self.abandon()
        self._tracking.close()
        self.removeObservers()
        self._close_fusion_view()
        if self._session is not None:
            self._session.close()
        self._session, self._shown_pose = None, None
        self._undo.clear()
        self._folded.clear()
        self._pose.clear()
        self._geometry.show(None)
        self._xrays.show(None)
        if parameters is not None:
            with errors_shown():
                self._open(parameters)
        self._use_case(None)
        self._on_parameters()

    def _open(self, parameters) -> None:
        session = Session(slicer.mrmlScene, parameters, slicer.app.layoutManager())
        self._geometry.show(session.state.geometry, session.state.calibrated_set)
        self._session, self._xray_seen = session, None
        self._initialiser = parameters.initialiser
        self._show_stored()
        self.addObserver(parameters.parameterNode, "ModifiedEvent", self._on_parameters)
        self.addObserver(session.scene, session.scene.NodeRemovedEvent, self._on_node_removed)

    def restore(self) -> None:
        """Show again what a scene was saved with, or left with: prepare its case, when it had one."""
        if self._session is not None and self._session.state.pose_frame is not None and not self._missing():
            self._when_ready(lambda: None)

    def cancel(self) -> None:
        """Stop the running work; the pose it had reached is kept."""
        self._logic.stop()

    def abandon(self) -> None:
        """Forget the running work and what it would have led to."""
        for timer in (self._poll, self._live, self._rest, self._follow, self._gesture, self._again):
            timer.stop()
        self._undo.release()
        self._then = _nothing
        self._logic.abandon()

    def close(self) -> None:
        """Leave nothing behind that would be called later."""
        self.use(None)
        self._training.close()

    def _on_parameters(self, *_) -> None:
        for choice in self._choices:
            choice.show(self._session and self._session.parameters)
        if self._session is None:
            self._update()
            return
        p = self._session.parameters
        self._follow_geometry()
        self._follow_xray()
        if self._session.case is not None and p.transform is not None:
            self._follow_transform(p.transform)
        self._follow_changes()
        if p.lastResult != self._result_seen:
            self._show_stored()
        self._xrays.show(self._session)
        self._overlay.apply(p)
        if self._session.case is not None and self._session.carm.visible != p.carmVisible:
            self._session.carm.visible = p.carmVisible
        self._update()

    def _follow_geometry(self) -> None:
        """Show a geometry that a script has put into the scene."""
        state = self._session.state
        if not self._geometry.shows(state.geometry):
            self._geometry.show(state.geometry, state.calibrated_set)

    def _follow_xray(self) -> None:
        p = self._session.parameters
        seen = (p.xray.GetID(), p.frame) if p.xray is not None else None
        before, self._xray_seen = self._xray_seen, seen
        if seen == before:
            return
        facts = None
        if p.xray is not None:
            name = p.xray.GetName()
            try:
                radiograph = bridge.radiograph_from_node(p.xray, p.frame or None)
                facts = XrayFacts(name, radiograph.pixels.shape, radiograph.metadata or {})
            except InputError as error:
                # A choice alone is no mistake yet: no message box before a button is pressed.
                facts = XrayFacts(name, problem=str(error))
        is_another = before is not None and seen is not None and before[0] != seen[0]
        self._geometry.set_xray(facts, is_another)

    def _follow_changes(self) -> None:
        """Prepare again where the nodes stayed and something else of the inputs changed."""
        session, free = self._session, self._logic.is_idle and not self._missing()
        if free and session.case is not None and session.has_same_nodes and not session.is_current:
            self._again.start()

    def _follow_transform(self, transform) -> None:
        if self.hasObserver(transform, transform.TransformModifiedEvent, self._on_moved):
            return
        before = self.observer(transform.TransformModifiedEvent, self._on_moved)
        if before is not None:
            self.removeObserver(before, before.TransformModifiedEvent, self._on_moved)
        self.addObserver(transform, transform.TransformModifiedEvent, self._on_moved)
        bridge.attach(transform, *self._session.moving_nodes())
        self._follow_handles()
        self._on_moved()

    def _on_node_removed(self, *_) -> None:
        if self._session is None:
            return
        p = self._session.parameters
        self._session.forget_removed_nodes()
        gone = [what for what, node in (("CT", p.ct), ("X-ray", p.xray)) if node is None]
        if self._session.case is not None and (gone or p.transform is None):
            self.abandon()
            self._session.case = None
            self._use_case(None)
            if gone:
                self._result.show_note(f"The {' and the '.join(gone)} was removed from the scene.")
        elif self.is_running and gone:
            self.abandon()
        elif self._session.case is not None and not self._session.overlay.is_complete:
            # Somebody cleaned up the picture or the DRR: the next drawing makes them anew.
            self._rest.start()
        self._update()

    def _on_add_xray(self) -> None:
        with errors_shown():
            self._xrays.add()

    def _on_xrays(self) -> None:
        """The table of X-rays changed."""
        self._follow_changes()
        self._update()

    def _look_at(self, entry: bridge.XrayEntry) -> None:
        """Go on with another X-ray of the table; the CT stays where it is in the world of the set."""
        if self._session is None or self.is_running:
            return
        p = self._session.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.xray, p.frame = entry.node, entry.frame
        self._geometry.choose_camera(entry.camera)
        self._xrays.show(self._session)
        self._when_ready(lambda: None)

    def _on_geometry(self, geometry) -> None:
        if self._session is not None:
            self._session.state.set_geometry(geometry, self._geometry.calibrated_set)
            self._follow_changes()
        self._update()

    def _show_stored(self) -> None:
        p = self._session.parameters
        self._result_seen = p.lastResult
        result = json.loads(p.lastResult) if p.lastResult else None
        self._result_T_lps_to_world = np.array(result["pose"]["T_lps_to_world"]) if result else None
        self._result.show_result(result)
        self._result.show_history(self._session.state.history)
        self._mark_moved()

    # The pose

    def _on_theta(self, theta: np.ndarray) -> None:
        self._move(lambda: self._session.case.frame.T_from_theta(theta))

    def _move(self, pose: Callable[[], np.ndarray]) -> None:
        """Go to a pose by hand; it is computed when the case is prepared."""

        def go():
            self._session.pose = pose()

        self._when_ready(go)

    def _step_back(self, pose: np.ndarray) -> None:
        self._set_pose(pose)
        self._update()

    def _set_pose(self, pose: np.ndarray) -> None:
        """Move the CT without noting it as an adjustment by hand."""
        with self._by_program():
            self._session.pose = pose

    @contextmanager
    def _by_program(self) -> Iterator[None]:
        """What moves the CT inside is not somebody's hand."""
        self._follows_program = True
        try:
            yield
        finally:
            self._follows_program = False

    def _on_moved(self, *_) -> None:
        """The transform has changed, whoever changed it."""
        session = self._session
        if session is None or session.case is None:
            return
        try:
            pose = session.pose
        except InputError:
            return
        if self._shown_pose is not None and np.allclose(pose, self._shown_pose, atol=1e-6):
            return
        if self._shown_pose is not None and not self._follows_program:
            self._undo.changed(self._shown_pose)
        self._shown_pose = pose
        self._pose.show(session.case.frame.theta_from_T(pose))
        self._mark_moved()
        if self._logic.moves_ct and not self._follows_program:
            # Somebody moved the CT during a registration: theirs is the pose from now on.
            self._logic.stop(discard="Stopped: the CT was moved by hand, its pose is kept.")
            self._show_stage("Stopping: the CT was moved by hand…", busy=True)
        if self._logic.is_idle:
            if not self._live.active:
                self._live.start()
            self._rest.start()
            self._update_pose_buttons()

    def _mark_moved(self) -> None:
        """Whether the result shown is that of the pose as it is."""
        pose, T_lps_to_world = self._shown_pose, self._result_T_lps_to_world
        if pose is not None and T_lps_to_world is not None and self._session.case is not None:
            of_result = self._session.case.T_world_to_camera @ T_lps_to_world
            self._result.mark_moved(not np.allclose(pose, of_result, atol=1e-4))
            self._write_label()

    def _draw_live(self) -> None:
        began = time.perf_counter()
        if self._draw(self._live_size.pixels, live=True):
            self._live_size.took(time.perf_counter() - began)

    def _draw_at_rest(self) -> None:
        if self._draw(REST_PIXELS):
            self._overlay.apply(self._session.parameters)

    def _draw(self, pixels: int, live: bool = False) -> bool:
        """Draw the DRR at the pose shown; False where there is none to draw."""
        session = self._session
        if session is None or session.case is None or self.is_running or self._shown_pose is None:
            return False
        session.show_drr(session.render(self._shown_pose, pixels), live)
        return True

    # The mouse and keys in the fusion view

    def _open_fusion_view(self) -> None:
        """Follow the fusion view; the same one as long as the application keeps it."""
        view = self._session.views.fusion_view
        if view is None or self._fusion_view is not None:
            return
        listener = bridge.FusionListener(
            on_drag=self._hand.drag,
            on_drag_end=self._end_gesture,
            on_wheel=lambda turns, large: self._by_steps(lambda: self._hand.wheel(turns, large)),
            on_arrow=lambda way, large: self._by_steps(lambda: self._hand.arrow(way, large)),
            on_point=self._overlay.follow,
            on_digit=self._on_digit,
            on_space=self._overlay.hold_xray,
        )
        self._fusion_view = bridge.FusionView(self._session.scene, view, listener)
        self._fusion_view.moves_ct = self._ui.adjustCheckBox.checked

    def _close_fusion_view(self) -> None:
        if self._fusion_view is not None:
            self._fusion_view.close()
            self._fusion_view = None

    def _on_adjust(self, on: bool) -> None:
        self._when_ready(lambda: None)
        if self._fusion_view is not None:
            self._fusion_view.moves_ct = on and self._logic.is_idle

    def _on_digit(self, digit: int) -> None:
        self._session.parameters.overlayMode = list(OVERLAY_MODES.values())[digit - 1]

    def _by_steps(self, step: Callable[[], None]) -> None:
        """Turns of the wheel or keys that follow each other are one gesture."""
        step()
        self._gesture.start()

    def _on_hand(self, pose: np.ndarray) -> None:
        """A new pose under the hand: the picture at once, what else shows it soon."""
        if self.is_running:
            return
        if not self._undo.is_held:
            self._undo.hold(self._shown_pose)
        self._shown_pose = pose
        self._pose.show(self._session.case.frame.theta_from_T(pose))
        for timer in (self._live, self._follow):
            if not timer.active:
                timer.start()

    def _move_transform(self) -> None:
        """Let the scene follow the hand."""
        if self._session is not None and self._session.case is not None and self._logic.is_idle:
            self._set_pose(self._shown_pose)

    def _end_gesture(self) -> None:
        self._hand.end_drag()
        for timer in (self._follow, self._gesture):
            timer.stop()
        if self._undo.is_held:
            self._move_transform()
            self._undo.release()
            self._mark_moved()
            self._rest.start()
            self._update_pose_buttons()

    def _on_copy(self) -> None:
        node = self._ui.copySelector.currentNode()
        self._move(lambda: bridge.pose_of(node, self._session.case.frame))

    def _on_handles(self, shown: bool) -> None:
        def show():
            self._session.show_handles(shown)
            self._follow_handles()

        self._when_ready(show)
        if self._logic.is_idle:
            self._follow_handles()

    def _follow_handles(self) -> None:
        """Show whether the scene has handles, as a loaded one may."""
        box = self._ui.handlesCheckBox
        blocked = box.blockSignals(True)
        box.checked = self._session.case is not None and self._session.handles_shown
        box.blockSignals(blocked)

    def _lock_handles(self) -> None:
        """Take the handles away while a registration moves the CT under the mouse."""
        if self._session.handles_shown:
            self._session.show_handles(False)

    def _unlock_handles(self) -> None:
        """Give back what :meth:`_lock_handles` took."""
        session, wanted = self._session, self._ui.handlesCheckBox.checked
        if session is None or session.case is None or session.parameters.transform is None:
            return
        if session.handles_shown != wanted:
            session.show_handles(wanted)

    def _on_landmarks_collapsed(self, collapsed: bool) -> None:
        if self._session is None or self._missing():
            return
        if not collapsed:
            self._when_ready(self._open_landmarks)
        elif self._session.case is not None:
            self._session.views.lay_out(bridge.LAYOUT_ID)

    def _open_landmarks(self) -> None:
        self._landmarks.ensure_nodes()
        self._session.views.lay_out(bridge.LANDMARK_LAYOUT_ID)

    # Long work

    def _when_ready(self, action: Callable[[], None]) -> None:
        """Do something once the case is prepared, preparing it first where needed."""
        if self._session is None or self.is_running:
            return
        with errors_shown():
            if self._session.is_current:
                action()
            else:
                inputs = self._session.read_inputs()
                self._end_gesture()
                self._then = action
                self._logic.prepare(inputs, self._session.case)
        self._update()

    def _on_prepared(self, case: PreparedCase) -> None:
        session, then = self._session, self._then
        self._then = _nothing
        known = session.case
        with self._by_program():
            session.accept(case)
        if known is not None and known.xray.camera.name != case.xray.camera.name:
            # Poses to take back are those in the camera before.
            self._undo.clear()
        self._shown_pose = None
        self._follow_transform(session.parameters.transform)
        self._on_moved()
        self._use_case(case)
        self._overlay.apply(session.parameters)
        self._fold_once("inputs", "geometry")
        if known is None:
            self._show_stored()
        if not self._ui.landmarksSection.collapsed:
            self._open_landmarks()
        if known is None or known.ct is not case.ct:
            show_notes(case.ct.notes)
        then()
        self._update()

    def _use_case(self, case: PreparedCase | None) -> None:
        """Let the sections work on a prepared case; None: on none."""
        session = self._session
        self._landmarks.use(session if case is not None else None)
        self._overlay.use(session.overlay if case is not None else None, case)
        self._training.use(case)
        self._tracking.use(case)
        self._hand.use(case)
        if case is not None:
            self._open_fusion_view()

    def _fold_once(self, *names: str) -> None:
        """Fold sections that are complete; who opens one again has it open."""
        for name in names:
            if name not in self._folded:
                self._folded.add(name)
                getattr(self._ui, name + "Section").collapsed = True

    def _start(self, initialiser: str | None, refinement: str | None) -> None:
        """Register; None leaves a choice to the panel."""
        p = self._session.parameters
        init = initialiser or p.initialiser
        refine = refinement or p.method
        if not (self._can_use(init) and self._can_use(refine)):
            self._show_stage("This method needs PyTorch, which is not installed: nothing was started.")
            return

        def start():
            session = self._session
            weights = self._weights_of_patient(init)
            self._end_gesture()
            task = session.task(init, refine, p.content, weights)
            self._undo.changed(session.pose)
            self._logic.register(task)

        self._when_ready(start)

    def _weights_of_patient(self, init) -> dict[str, Path]:
        """Weights of the network trained for this CT, where the start asks for it or is left to the program.

        Raises:
            InputError: it was chosen, and there is none.
        """
        model = self._training.model
        if init == PATIENT and model is None:
            raise InputError(
                "no network was trained for this CT yet: press Train under “Train for this patient”, or "
                "choose another start"
            )
        if model is None or init not in ("auto", PATIENT) or not find_spec("torch"):
            return {}
        return {PATIENT: model.weights}

    def _on_train(self) -> None:
        if not self._can_use(PATIENT):
            self._show_stage("Training needs PyTorch, which is not installed: nothing was started.")
            return

        def train():
            with errors_shown():
                self._training.start(self._session.pose)
            self._update()

        self._when_ready(train)

    def _can_use(self, method: str) -> bool:
        """Whether what a method needs is installed, or could be; asks before it installs anything."""
        if method not in NEEDS_TORCH:
            return True
        with errors_shown():
            return self._ensure_torch()
        return False

    def _on_initialiser(self, _index: int) -> None:
        """Somebody chose another initialiser: without what it needs, the choice goes back."""
        if self._session is None:
            return
        p = self._session.parameters
        chosen, before = p.initialiser, self._initialiser
        if self._can_use(chosen):
            self._initialiser = chosen
            self._show_stage("")
            return
        # What a scene was saved with may need the same.
        back = next(iter(INITIALISERS.values())) if before in NEEDS_TORCH else before
        p.initialiser = self._initialiser = back
        chosen, back = (label_of(INITIALISERS, name) for name in (chosen, back))
        self._show_stage(f"“{chosen}” needs PyTorch, which is not installed: back to “{back}”.")

    def _on_demo(self) -> None:
        self._end_gesture()
        self._logic.compute(lambda: demo_case(1), self._made_demo)

    def _on_made_demo(self, case: DemoCase) -> None:
        session = self._session
        nodes = bridge.load_demo_case(session.scene, case=case)
        p = session.parameters
        p.ct, p.xray, p.mask = nodes.ct, nodes.xray, None
        self._geometry.show(nodes.geometry)
        self._on_geometry(nodes.geometry)
        self._when_ready(lambda: None)

    def _on_poll(self) -> None:
        try:
            self._logic.poll(_WORK_S)
        except Exception as error:
            show_error(error)
            self._update()

    def _on_state(self, state: State) -> None:
        """Show what the registration is at."""
        if state is State.IDLE:
            self._poll.stop()
            self._show_stage("")
            self._unlock_handles()
        elif state is State.STOPPING:
            self._show_stage("Stopping…", busy=True)
        else:
            if state is State.REGISTERING:
                self._lock_handles()
                self._result.show_note("Registering…")
            self._show_stage(_FIRST_STAGE[state], busy=True)
            self._poll.start()
        self._update()

    def _on_finished(self, result) -> None:
        with self._by_program():
            self._session.record(result)
        self._undo.settle(self._session.pose)
        if result.stopped:
            self._result.show_note("Stopped. The pose reached so far is kept.")
        else:
            self._show_stored()
        self._update()

    def _on_stopped(self, why: str) -> None:
        self._then = _nothing
        self._result.show_note(why)
        self._draw_at_rest()
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self._then = _nothing
        show_error(error)
        if self._session is not None:
            self._show_stored()
        self._update()

    def _show_progress(self, live) -> None:
        if self._logic.state is not State.STOPPING:
            self._show_stage(live.stage or "Starting…", fraction=live.fraction)
        if live.T_lps_to_camera is not None:
            self._set_pose(live.T_lps_to_camera)
        if live.drr is not None:
            self._session.show_drr(live.drr, live=True)

    def _show_stage(self, stage: str, fraction: float = 0.0, busy: bool = False) -> None:
        self._ui.stageLabel.text = stage
        self._ui.progressBar.setRange(0, 0 if busy else 100)
        self._ui.progressBar.value = round(100 * fraction)
        self._ui.progressBar.format = "%p%" if stage else ""

    # Results

    def _on_history(self, row: int) -> None:
        entry = self._session.state.history[row]

        def go_back():
            self._session.restore(entry)
            self._undo.settle(self._session.pose)
            self._ui.historyTable.selectRow(row)

        self._when_ready(go_back)

    def _on_export_result(self) -> None:
        self._export(
            "result.json",
            "Result (*.json)",
            lambda path: path.write_text(self._session.parameters.lastResult, encoding="utf-8"),
        )

    def _on_export_transform(self) -> None:
        self._export("ct_to_carm.tfm", "Transform (*.tfm)", self._session.write_transform)

    def _on_export_picture(self) -> None:
        self._export("overlay.png", "Picture (*.png)", self._session.write_picture)

    def _export(self, name: str, kinds: str, write: Callable[[Path], None]) -> None:
        path = qt.QFileDialog.getSaveFileName(None, f"Export {name}", name, kinds)
        if not path:
            return
        try:
            write(Path(path))
        except (OSError, RuntimeError) as error:
            # SimpleITK tells of files that it cannot write by RuntimeError, in many lines.
            reason = getattr(error, "strerror", None) or "check the folder and the file's ending"
            slicer.util.errorDisplay(f"Cannot write {path}: {reason}")

    # What can be done now

    def _missing(self) -> str:
        """What inputs lack, in words; empty where nothing does."""
        if self._session is None:
            return "a scene"
        p = self._session.parameters
        wanted = [
            *(["a CT"] if p.ct is None else []),
            *(["an X-ray"] if p.xray is None else []),
            *([missing] if (missing := self._geometry.missing()) else []),
        ]
        return " and ".join(wanted)

    def _update(self, *_) -> None:
        """Enable what can work, and say in the tooltip of the rest what is missing."""
        missing, busy = self._missing(), self.is_running
        ui = self._ui
        for name, extra in (
            ("showViewsButton", ""),
            ("registerButton", ""),
            ("initialiseButton", ""),
            ("refineButton", "" if LEARNED_REFINEMENT in METHODS.values() else _NO_WEIGHTS),
            ("optimiseButton", ""),
            ("trainButton", "the end of the training that runs" if self._training.is_running else ""),
            ("addXrayButton", ""),
            ("nominalButton", ""),
            ("copyButton", "" if ui.copySelector.currentNode() else "a transform to copy from"),
            ("solveButton", self._landmarks.missing()),
        ):
            self._allow(getattr(ui, name), missing or extra, busy)
        self._allow(ui.demoButton, "" if self._session is not None else "a scene", busy)
        for slider in (*self._pose.sliders, ui.handlesCheckBox, ui.adjustCheckBox):
            self._allow(slider, missing, busy)
        no_xray = self._session is None or self._session.parameters.xray is None
        for control in (ui.loadGeometryButton, ui.presetCombo):
            self._allow(control, "the X-ray, whose number of pixels belongs to it" if no_xray else "", busy)
        self._allow(ui.saveGeometryButton, "" if self._geometry.geometry else "a geometry to save", busy)
        for control in (
            *(ui.inputsSection, ui.geometrySection),
            *(ui.initialiserCombo, ui.methodCombo, ui.contentCombo),
        ):
            control.enabled = not busy
        self._allow(
            ui.cancelButton, "" if busy else "a running computation", self._logic.state is State.STOPPING
        )
        result = self._session is not None and bool(self._session.parameters.lastResult)
        self._allow(ui.exportResultButton, "" if result else "a registration", busy)
        prepared = self._session is not None and self._session.case is not None
        for name in ("exportTransformButton", "exportPictureButton"):
            self._allow(getattr(ui, name), "" if prepared else "a pose: press Show views or Register", busy)
        self._allow(ui.drrWindowRange, "" if prepared else "a DRR: press Show views or Register", False)
        ui.historyTable.enabled = not busy
        if self._fusion_view is not None:
            self._fusion_view.moves_ct = ui.adjustCheckBox.checked and not busy
        if not busy:
            self._result.show_readiness(f"Needed: {missing}." if missing else "Ready to register.")
        self._write_label()
        self._update_pose_buttons()

    def _write_label(self) -> None:
        """Verdict, view and mode in the corner of the fusion view."""
        session = self._session
        if session is None or session.case is None:
            return
        words, colour = self._result.headline
        geometry = session.case.inputs.geometry
        mode = label_of(OVERLAY_MODES, session.parameters.overlayMode)
        about = [words, geometry.camera.name, geometry.view, mode]
        rgb = tuple(int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
        # Words on a picture are read where they are light.
        rgb = tuple(0.45 + 0.55 * value for value in rgb) if words else (1.0, 1.0, 1.0)
        session.views.write_label("\n".join(word for word in about if word), rgb)

    def _update_pose_buttons(self) -> None:
        busy = self.is_running or self._session is None or self._session.case is None
        undo = "" if self._undo.can_undo else "an adjustment to take back"
        redo = "" if self._undo.can_redo else "an adjustment to repeat"
        settled, pose = self._undo.settled, self._shown_pose
        moved = settled is not None and pose is not None and not np.allclose(settled, pose, atol=1e-6)
        reset = "" if moved else "an adjustment to take back"
        for button, missing in (("undo", undo), ("reset", reset), ("redo", redo)):
            self._allow(getattr(self._ui, button + "Button"), missing, busy)

    def _allow(self, button, missing: str, busy: bool) -> None:
        tip = self._tips.setdefault(button.name, button.toolTip)
        button.enabled = not missing and not busy
        button.toolTip = f"{tip}\nMissing: {missing}." if missing else tip


def _nothing() -> None:
    """What follows when nothing is to follow."""


def _timer(milliseconds: int, action: Callable, repeats: bool = False):
    timer = qt.QTimer()
    timer.setInterval(milliseconds)
    timer.setSingleShot(not repeats)
    timer.connect("timeout()", action)
    return timer
