"""The panel: its sections, and the one RegistrationLogic whose state they show."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from SOPIRegistrationLib.installed import PATIENT
from SOPIRegistrationLib.methods import LEARNED_REFINEMENT
from SOPIRegistrationLib.panel.bodies_section import BodiesSection
from SOPIRegistrationLib.panel.choices import CURRENT_POSE
from SOPIRegistrationLib.panel.fusion_control import FusionControl
from SOPIRegistrationLib.panel.geometry_section import GeometrySection
from SOPIRegistrationLib.panel.image_watch import ImageWatch
from SOPIRegistrationLib.panel.kernel_loading import KernelLoading
from SOPIRegistrationLib.panel.landmark_section import LandmarkSection
from SOPIRegistrationLib.panel.live_picture import LivePicture
from SOPIRegistrationLib.panel.messages import errors_shown, show_notes
from SOPIRegistrationLib.panel.method_section import MethodSection
from SOPIRegistrationLib.panel.overlay_section import OverlaySection
from SOPIRegistrationLib.panel.pose_section import PoseSection
from SOPIRegistrationLib.panel.pose_undo import Step
from SOPIRegistrationLib.panel.readiness import Readiness
from SOPIRegistrationLib.panel.result_section import ResultSection
from SOPIRegistrationLib.panel.run_display import RunDisplay
from SOPIRegistrationLib.panel.session import Session
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.strip_section import StripSection
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.panel.tracking_section import TrackingSection
from SOPIRegistrationLib.panel.training_process import start_training
from SOPIRegistrationLib.panel.training_section import TrainingSection
from SOPIRegistrationLib.panel.use_section import UseSection
from SOPIRegistrationLib.panel.xray_facts import ChosenXray
from SOPIRegistrationLib.panel.xrays_section import XraysSection
from SOPIRegistrationLib.registration.logic import RegistrationLogic, State
from SOPIRegistrationLib.registration.prepared import PreparedCase
from SOPIRegistrationLib.simulation.demo import DemoCase, demo_case

# Inputs that change several times in a row are prepared once.
_AGAIN_MS = 250
# The parameter node's wrapper reads its values when the node is modified: the panel looks after it.
_AFTER_WRAPPER = -1.0


class RegistrationPanel(slicer.util.VTKObservationMixin):
    """Reads nodes before, and writes them after, what its RegistrationLogic computes; sections show the rest.

    Args:
        ui: the panel's widgets by name.
        ensure_torch: makes sure that PyTorch is installed, asking first; answers whether it is, and raises
            InputError where installing fails.
        logic: prepares and registers.
        make_demo: makes a demo case of a seed; any thread.
        start_training: as ``training_process.start_training``.

    Attributes:
        training: the section that trains a network for this patient.
        tracking: the section that follows a sequence.
    """

    def __init__(
        self,
        ui,
        ensure_torch: Callable[[], bool],
        logic: RegistrationLogic | None = None,
        make_demo: Callable[[int], DemoCase] = demo_case,
        start_training: Callable = start_training,
    ):
        super().__init__()
        self._ui = ui
        self._session: Session | None = None
        self._logic = logic or RegistrationLogic()
        self._make_demo = make_demo
        self._readiness = Readiness(ui, lambda: self.is_running)
        self._pose = ShownPose(self._on_moved, self._on_settled)
        self._picture = LivePicture(self._pose, lambda: self._logic.is_idle, self._on_rest)
        self._strip = StripSection(ui)
        self._methods = MethodSection(ui, ensure_torch, self._strip.show_stage)
        self._geometry = GeometrySection(ui, self._on_geometry)
        self._xray = ChosenXray(self._geometry.set_xray)
        self._xrays = XraysSection(ui, self._geometry, self._prepare, self._on_table)
        self._bodies = BodiesSection(ui, self._on_table)
        self._pose_section = PoseSection(ui, self._pose, self._when_ready, self._go_back)
        self._landmarks = LandmarkSection(ui, self._update, self._when_ready)
        self._result = ResultSection(ui, self._pose, self._strip, self._when_ready)
        self._overlay = OverlaySection(ui)
        self._fusion = FusionControl(self._pose, self._overlay, self._may_move)
        self.use_of_result = UseSection(ui, self._pose, self._update)
        self.training = TrainingSection(ui, self._update, start_training)
        self.tracking = TrackingSection(ui, self._pose, self._when_ready, lambda: self._session)
        self._display = RunDisplay(
            *(self._logic, self._strip, self._pose, self._pose_section),
            *(self._picture, self._result, self._update),
        )
        self._images = ImageWatch(self._on_images)
        self._again = timer(_AGAIN_MS, self._prepare)
        self.kernels = KernelLoading()
        self._connect()
        self._strip.show_stage("")
        self._update()

    def _connect(self) -> None:
        self._logic.prepared.connect(self._on_prepared)
        self._logic.finished.connect(self._on_finished)
        ui = self._ui
        for button, action in (
            (ui.demoButton, lambda: self._logic.compute(lambda: self._make_demo(1), self._on_demo)),
            (ui.showViewsButton, lambda: self._when_ready(lambda: self._session.show_views())),
            (ui.solveButton, lambda: self._when_ready(lambda: self._pose.adjust(self._landmarks.solve()))),
            (ui.registerButton, lambda: self._start(None, None)),
            (ui.initialiseButton, lambda: self._start(None, "none")),
            (ui.refineButton, lambda: self._start(CURRENT_POSE, LEARNED_REFINEMENT)),
            (ui.optimiseButton, lambda: self._start(CURRENT_POSE, "opt")),
            (ui.cancelButton, self.cancel),
            (ui.trainButton, self._on_train),
        ):
            button.connect("clicked(bool)", action)
        ui.adjustCheckBox.connect("toggled(bool)", self._on_adjust)
        ui.copySelector.connect("currentNodeChanged(vtkMRMLNode*)", self._update)

    @property
    def session(self) -> Session | None:
        """The case in the scene; None while there is no scene to work on."""
        return self._session

    @property
    def is_busy(self) -> bool:
        """Whether something runs, or is still to be drawn."""
        waiting = (self._picture, self._pose, self.use_of_result, self._images, self._overlay)
        return self.is_running or self._again.active or any(one.is_pending for one in waiting)

    @property
    def is_running(self) -> bool:
        """Whether something is computed that the user waits for."""
        return not self._logic.is_idle

    # Following the scene

    def use(self, parameters) -> None:
        """Work on a wrapped parameter node from now on; None while there is none."""
        self.abandon()
        self.tracking.close()
        self.removeObservers()
        self._use_case(None)
        if self._session is not None:
            self._session.close()
        self._session = None
        self._pose.steps.clear()
        for section in (self._result, self._methods, self._pose_section):
            section.use(None)
        self._geometry.show(None)
        self._xray.forget()
        self._xrays.show(None)
        self._bodies.show(None)
        if parameters is not None:
            with errors_shown():
                self._open(parameters)
        self._result.show()
        self._on_parameters()

    def _open(self, parameters) -> None:
        session = Session(slicer.mrmlScene, parameters, slicer.app.layoutManager())
        self._geometry.show(session.state.geometry, session.state.calibrated_set)
        self._session = session
        self._result.use(session)
        self._methods.use(parameters)
        self._pose_section.use(session)
        node, scene = parameters.parameterNode, session.scene
        self.addObserver(node, "ModifiedEvent", self._on_parameters, priority=_AFTER_WRAPPER)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node_removed)

    def restore(self) -> None:
        """Show again what a scene was saved with, or left with: prepare its case, when it had one."""
        if self._session is not None and self._session.state.pose_frame is not None and not self._missing():
            self._prepare()

    def cancel(self) -> None:
        """Stop the running work; the pose it had reached is kept."""
        self._logic.stop()

    def abandon(self) -> None:
        """Forget the running work and what it would have led to."""
        for pending in (
            *(self._display, self._again, self._picture),
            *(self._pose, self.use_of_result, self._images),
        ):
            pending.stop()
        self._logic.abandon()

    def close(self) -> None:
        """Leave nothing behind that would be called later."""
        self.use(None)
        self.kernels.stop()
        self.training.close()

    def _on_parameters(self, *_) -> None:
        self._methods.show()
        if self._session is None:
            self._update()
            return
        session, p, state = self._session, self._session.parameters, self._session.state
        if not self._geometry.shows(state.geometry):
            # A script has put it into the scene, or a registration has found it.
            self._geometry.show(state.geometry, state.calibrated_set)
        self._xray.follow(p)
        self._pose.follow()
        self._follow_changes()
        if not self._result.shows(state):
            self._result.show()
        self._xrays.show(session)
        self._bodies.show(session)
        self._pose_section.show()
        self._overlay.apply(p)
        self.use_of_result.apply(p)
        session.show_carm()
        self._update()

    def _follow_changes(self) -> None:
        """Prepare again where the nodes stayed and something else of the inputs changed."""
        session, free = self._session, self._logic.is_idle and not self._missing()
        if free and session.reader.has_same_nodes(session.case) and not session.is_current:
            self._again.start()

    def _on_node_removed(self, *_) -> None:
        session = self._session
        session.forget_removed_nodes()
        p = session.parameters
        body = "CT" if session.case is None or session.case.inputs.ct is not None else "body"
        lacks_ct, has_case = session.reader.needs_ct and p.ct is None, session.case is not None
        gone = [
            what
            for what, is_gone in (
                (body, lacks_ct),
                ("X-ray", p.xray is None),
                ("transform", has_case and p.transform is None),
            )
            if is_gone
        ]
        if has_case and gone:
            self.abandon()
            session.case = None
            self._use_case(None)
            self._strip.show_note(f"The {' and the '.join(gone)} was removed from the scene.")
        elif self.is_running and gone:
            self.abandon()
        elif session.case is not None and not session.has_all_pictures:
            # Somebody cleaned up a picture or a DRR: the next drawing makes them anew.
            self._picture.rests()
        self._on_table()

    def _on_geometry(self, geometry) -> None:
        if self._session is not None:
            self._session.state.set_geometry(geometry, self._geometry.calibrated_set)
        self._update()

    def _on_images(self) -> None:
        """Pixels of the case's images are other ones: the pictures show them, and they are prepared soon."""
        self._xray.follow(self._session.parameters)
        self._picture.moves()
        self._picture.rests()
        self._follow_changes()
        self._update()

    def _on_table(self) -> None:
        """The table of X-rays, or that of bodies, changed, or what is in them has left the scene."""
        self._bodies.show(self._session)
        self._follow_changes()
        self._update()

    # The pose

    def _may_move(self) -> bool:
        """Whether a hand may move the CT in the fusion view."""
        return self._ui.adjustCheckBox.checked and self._logic.is_idle

    def _on_moved(self, by_hand: bool) -> None:
        """The pose is another one, whoever changed it."""
        self._pose_section.show()
        self.use_of_result.moves()
        self.tracking.moves()
        if self._pose.steps.is_held:
            self._picture.moves()
            return
        self._mark_changed()
        if by_hand and self._logic.moves_ct:
            # Somebody moved the CT during a registration: theirs is the pose from now on.
            self._logic.stop(discard="Stopped: the CT was moved by hand, its pose is kept.")
            self._strip.show_stage("Stopping: the CT was moved by hand…", busy=True)
        if self._logic.is_idle:
            self._picture.moves()
            self._picture.rests()
            self._readiness.apply(self._pose_section.wants(self._missing()))

    def _on_settled(self) -> None:
        """A gesture has ended."""
        self._mark_changed()
        self._picture.rests()
        self._readiness.apply(self._pose_section.wants(self._missing()))

    def _mark_changed(self) -> None:
        """Say, in the strip and in the fusion view, whether the result shown is of what is there now."""
        self._result.mark_changed()
        self._fusion.write_label(*self._strip.headline)

    def _on_rest(self) -> None:
        self.use_of_result.rests()
        self._session.views.follow_body()
        self._overlay.apply(self._session.parameters)

    def _go_back(self, step: Step) -> None:
        """Go where a step back or forth leads."""
        if step.geometry is not None:
            self._session.state.set_geometry(step.geometry, self._session.state.calibrated_set)
        self._when_ready(lambda: self._pose.go(step.placement))

    def _on_adjust(self, _on: bool) -> None:
        self._prepare()
        self._fusion.follow_permission()

    # What runs

    def _prepare(self) -> None:
        self._when_ready(lambda: None)

    def _when_ready(self, action: Callable[[], None]) -> None:
        """Do something once the case is prepared, preparing it first where needed."""
        if self._session is None or self.is_running:
            return
        with errors_shown():
            if self._session.is_current:
                action()
            else:
                inputs = self._session.reader.read()
                self._fusion.end_gesture()
                self._logic.prepare(inputs, self._session.case, lambda: self._do(action))
        self._update()

    def _do(self, action: Callable[[], None]) -> None:
        with errors_shown():
            action()
        self._update()

    def _on_prepared(self, case: PreparedCase) -> None:
        session, known = self._session, self._session.case
        is_first = session.state.pose_frame is None
        with self._pose.rearranged():
            session.accept(case)
        if known is not None and known.xray.camera.name != case.xray.camera.name:
            # Poses to take back are those in the camera before.
            self._pose.steps.clear()
        self._use_case(session)
        self._overlay.apply(session.parameters)
        if is_first:
            # What is complete folds once; who opens it again has it open.
            for section in (self._ui.inputsSection, self._ui.geometrySection):
                section.collapsed = True
        if known is None:
            self._result.show()
        self._landmarks.lay_out()
        show_notes(note for note in case.notes if known is None or note not in known.notes)
        self._update()

    def _use_case(self, session: Session | None) -> None:
        """Let the sections work on the session's prepared case; None: on none."""
        case = None if session is None else session.case
        for section in (
            *(self._pose, self._picture, self._landmarks),
            *(self._fusion, self.use_of_result, self._images),
        ):
            section.use(session)
        self._overlay.use(None if session is None else session.overlay, case)
        self.training.use(case)
        self.tracking.use(case)

    def _start(self, initialiser: str | None, refinement: str | None) -> None:
        """Register; None leaves a choice to the panel."""
        p = self._session.parameters
        init, refine = initialiser or p.initialiser, refinement or p.method
        if not self._methods.can_use(init, refine):
            return

        def start():
            self._fusion.end_gesture()
            task = self._session.task(init, refine, p.content, self.training.weights(init))
            self._pose.steps.changed(self._pose.placement)
            self._logic.register(task)

        self._when_ready(start)

    def _on_train(self) -> None:
        if self._methods.can_use(PATIENT):
            self._when_ready(lambda: self.training.start(self._pose.placement.T_lps_to_camera))

    def _on_demo(self, case: DemoCase) -> None:
        self._session.take_demo(case)
        self._prepare()

    def _on_finished(self, result) -> None:
        session = self._session
        geometry = session.state.geometry
        with self._pose.rearranged():
            is_whole = session.record(result)
        if not self._geometry.shows(geometry):
            self._pose.steps.changed_geometry(geometry)
        self._use_case(session)
        self._pose.steps.settle(self._pose.placement)
        if is_whole:
            self._result.show()
        else:
            self._strip.show_note("Stopped. The pose reached so far is kept.")
        self._update()

    # What can be done now

    def _missing(self) -> str:
        return self._readiness.missing(self._session, self._geometry.missing())

    def _update(self, *_) -> None:
        """Enable what can work, and say in the tooltip of the rest what is missing."""
        missing, session = self._missing(), self._session
        special = {
            "refine": self._methods.missing_for_refining(),
            "train": self.training.missing(),
            "solve": self._landmarks.missing(),
            "addXray": self._readiness.missing_of_xray(session, self._geometry.missing()),
        }
        stoppable = self.is_running and self._logic.state is not State.STOPPING
        for wants in (
            self._readiness.wants(session, missing, special, stoppable),
            self._methods.wants(),
            self._geometry.wants(session is not None and session.parameters.xray is not None),
            self._pose_section.wants(missing),
            self._result.wants(),
            self.use_of_result.wants(),
        ):
            self._readiness.apply(wants)
        self._fusion.follow_permission()
        if self._logic.is_idle:
            self._pose_section.follow_handles()
            ready = self._geometry.problem or "Ready to register."
            self._strip.show_readiness(f"Needed: {missing}." if missing else ready)
        self._mark_changed()
