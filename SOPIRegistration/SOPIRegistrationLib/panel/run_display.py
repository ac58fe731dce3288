"""What runs, as the panel shows it: its state, its progress, and an end without a result."""

from __future__ import annotations

from collections.abc import Callable

from SOPIRegistrationLib.panel.live_picture import LivePicture
from SOPIRegistrationLib.panel.messages import show_error
from SOPIRegistrationLib.panel.pose_section import PoseSection
from SOPIRegistrationLib.panel.result_section import ResultSection
from SOPIRegistrationLib.panel.shown_pose import ShownPose
from SOPIRegistrationLib.panel.strip_section import StripSection
from SOPIRegistrationLib.panel.timers import timer
from SOPIRegistrationLib.registration.logic import LiveView, RegistrationLogic, State

# Between two looks at the events the computation gets this long; nobody sees a delay of that length.
_POLL_MS, _WORK_S = 2, 0.03
# What is told before the computation has said a word.
_FIRST_STAGE = {State.PREPARING: "Preparing…", State.REGISTERING: "Starting…"}


class RunDisplay:
    """Gives a RegistrationLogic its time, and shows what it tells of, except for what it leads to.

    Args:
        logic: what is shown.
        strip: where stage and progress are shown.
        pose: goes where a registration is.
        pose_section: its handles are out of reach meanwhile.
        picture: draws the DRR.
        result: shown again where nothing came of a run.
        on_changed: called when other controls can be used than before.
    """

    def __init__(
        self,
        logic: RegistrationLogic,
        strip: StripSection,
        pose: ShownPose,
        pose_section: PoseSection,
        picture: LivePicture,
        result: ResultSection,
        on_changed: Callable[[], None],
    ):
        self._logic, self._strip, self._pose, self._pose_section = logic, strip, pose, pose_section
        self._picture, self._result, self._on_changed = picture, result, on_changed
        self._poll = timer(_POLL_MS, self._on_poll, repeats=True)
        logic.state_changed.connect(self._on_state)
        logic.progressed.connect(self._on_progress)
        logic.stopped.connect(self._on_stopped)
        logic.failed.connect(self._on_failed)

    def stop(self) -> None:
        """Give it no more time."""
        self._poll.stop()

    def _on_poll(self) -> None:
        try:
            self._logic.poll(_WORK_S)
        except Exception as error:
            show_error(error)
            self._on_changed()

    def _on_state(self, state: State) -> None:
        if state is State.IDLE:
            self._poll.stop()
            self._strip.show_stage("")
            self._pose_section.unlock_handles()
        elif state is State.STOPPING:
            self._strip.show_stage("Stopping…", busy=True)
        else:
            if state is State.REGISTERING:
                self._pose_section.lock_handles()
                self._strip.show_note("Registering…")
            else:
                self._strip.show_readiness("Preparing…")
            self._strip.show_stage(_FIRST_STAGE[state], busy=True)
            self._poll.start()
        self._on_changed()

    def _on_progress(self, live: LiveView) -> None:
        if self._logic.state is not State.STOPPING:
            self._strip.show_stage(live.stage or "Starting…", fraction=live.fraction)
        if live.placement is not None:
            self._pose.go(live.placement)
        if live.drr is not None:
            self._picture.show(live.drr, live.alone)

    def _on_stopped(self, why: str) -> None:
        self._strip.show_note(why)
        self._picture.draw()
        self._on_changed()

    def _on_failed(self, error: Exception) -> None:
        show_error(error)
        self._result.show()
        self._on_changed()
