"""The training loop, whatever is trained: one process or several, by steps or for a time.

It leaves checkpoints that it goes on from, and a log a person can plot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from SOPIRegistrationLib.training.muon import Muon
from SOPIRegistrationLib.training.placement import Placement
from SOPIRegistrationLib.training.records import ERROR_COLUMNS, Records, cosine_rate, error_figures
from SOPIRegistrationLib.training.settings import LoopSettings

_REPORT_EVERY = 50


class Task(Protocol):
    """What is trained, and on what.

    Attributes:
        config: of the network, a dataclass; a checkpoint of another one is not gone on with.
        columns: of the log, besides those of every training.
        counter: what it counts, a column of the log.
        count: how many of these were seen in this run.
        measured_on: what the errors of the validation depend on besides the weights.
    """

    config: Any
    columns: tuple[str, ...]
    counter: str
    count: int
    measured_on: Mapping[str, Any]

    def prepare(self, placement: Placement, step: int, say: Callable[[str], None]) -> None:
        """Make what is learned from and validated on, ``step`` batches on; ``say`` tells what is done."""

    def losses(self, network: nn.Module) -> Iterator[torch.Tensor]:
        """Losses of the next batch; the weights change after each."""

    def figures(self) -> dict[str, float]:
        """Its own columns of the log, since the last validation."""

    def errors(self, network: nn.Module) -> np.ndarray:
        """(n, 3) of ``pose_loss.pose_errors`` on the validation."""

    def score(self, row: Mapping[str, float]) -> float:
        """How bad the errors in a row of the log are: the least is kept."""

    def refusal(self, different: Sequence[str]) -> str:
        """What a checkpoint is whose network differs in these fields of its config, and what to do."""

    def close(self) -> None:
        """End what runs beside the training."""


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        fraction: of it that is over.
        step: batches so far.
        seconds_left: of the budget; None without one.
        row: of the log, where the validation was just looked at; else None.
        said: a line about it, now and then; else None.
    """

    fraction: float
    step: int
    seconds_left: float | None
    row: dict[str, float] | None
    said: str | None


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        network: the averaged weights at the step that did best on the validation.
        steps: batches.
        seconds: of training, with its validations.
        count: of what the task counts.
        log: rows.
        best: the row of ``network``.
        stopped: whether it was stopped before its end.
    """

    network: nn.Module
    steps: int
    seconds: float
    count: int
    log: list[dict[str, float]]
    best: dict[str, float]
    stopped: bool


class Trainer:
    """Trains a network on a task.

    Args:
        placement: where it runs, and with how many digits.
        out: folder of checkpoint and log; training goes on from a checkpoint there.
        task: what is trained.
        network: its network, to begin with; alike in all processes.
        settings: how.
        report: told after every step, and of what is done before, in the first process only; a true answer
            ends the training, which keeps the best so far.

    Raises:
        InputError: the checkpoint is of another network.
    """

    def __init__(
        self,
        placement: Placement,
        out: Path,
        task: Task,
        network: nn.Module,
        settings: LoopSettings,
        report: Callable[[Progress], bool | None],
    ):
        self._placement, self._task, self._settings = placement, task, settings
        self._report = report
        self._average = AveragedModel(
            network, placement.device, multi_avg_fn=_moving_average(settings.averaging), use_buffers=True
        )
        optimizer = Muon(
            network,
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            precision=torch.bfloat16 if placement.is_half else torch.float32,
        )
        self._network, self._optimizer = placement.setup(network, optimizer)
        self._state = {"step": 0, "seconds": 0.0, task.counter: 0, "best": float("inf"), "best_step": 0}
        self._state["measured_on"] = dict(task.measured_on)
        parts = {"network": self._network.module, "average": self._average, "optimizer": self._optimizer}
        columns = ("step", "seconds", task.counter, *task.columns, "learning_rate", "loss", *ERROR_COLUMNS)
        self._records = Records(out, columns, parts, task.config)
        self._resume()

    def run(self) -> Trained:
        """Train to the end, until time is up, or until it is stopped; Ctrl-C ends it as a stop does."""
        began, stopped = time.monotonic() - self._state["seconds"], False
        if self._fraction < 1:
            try:
                self._task.prepare(self._placement, self._state["step"], self._say)
                stopped = self._loop(began)
            except KeyboardInterrupt:
                # What was learned before is worth keeping.
                if not self._records.rows:
                    raise
                stopped = True
            finally:
                self._task.close()
        state, rows = self._state, self._records.rows
        network = self._average.module
        best = self._records.best()
        if best is not None:
            network.load_state_dict(best)
        # Only the first process validates, and has rows. Weights kept since they were measured on others.
        best_row = next((row for row in rows if row["step"] == state["best_step"]), None)
        best_row = best_row or min(rows, key=self._task.score, default={})
        count = state[self._task.counter]
        return Trained(network.cpu().eval(), state["step"], state["seconds"], count, rows, best_row, stopped)

    def _loop(self, began: float) -> bool:
        """Steps until the end; whether it was stopped."""
        settings, state, task = self._settings, self._state, self._task
        losses: list[float] = []
        earlier = state[task.counter]
        started = validated = saved = time.monotonic()
        if settings.validate_first and not state["step"] and self._validate(float("nan")):
            return True
        self._network.train()
        while True:
            losses.append(self._step())
            now = time.monotonic()
            state["step"] += 1
            state.update({"seconds": now - began, task.counter: earlier + task.count})
            stopped = self._tell(None, self._report_line(losses))
            over = stopped or self._fraction >= 1 or _is_up(settings.time_limit, now - started)
            by_clock = _is_up(settings.validate_seconds, now - validated)
            # The first process decides for all.
            over, by_clock, stopped = self._placement.broadcast((over, by_clock, stopped))
            by_step = settings.validate_every is not None and state["step"] % settings.validate_every == 0
            if over or by_clock or by_step:
                stopped |= self._validate(float(np.mean(losses)))
                over |= stopped
                validated, losses = time.monotonic(), []
                state["seconds"] = validated - began
            if over or now - saved > settings.checkpoint_seconds:
                if self._placement.is_global_zero:
                    self._records.save(state)
                saved = time.monotonic()
            if over:
                return stopped and self._fraction < 1

    def _report_line(self, losses: Sequence[float]) -> str | None:
        """What is said of a step, now and then."""
        if self._state["step"] % _REPORT_EVERY:
            return None
        figures = [f"{name} {value:.3g}" for name, value in self._task.figures().items()]
        return ", ".join([self._step_name, f"loss {np.mean(losses[-_REPORT_EVERY:]):.4f}", *figures])

    def _step(self) -> float:
        """Mean loss of a batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate
        values = []
        for loss in self._task.losses(self._network):
            self._placement.backward(loss)
            self._placement.clip_gradients(self._network, self._optimizer, max_norm=1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            values.append(float(loss.detach()))
        self._average.update_parameters(self._network.module)
        return float(np.mean(values))

    def _validate(self, loss: float) -> bool:
        """Errors of the averaged weights; a row of the log; the best are kept. Whether it is to stop."""
        stopped = False
        if self._placement.is_global_zero:
            state, task = self._state, self._task
            own = task.figures()
            network = self._average.module.eval()
            figures = error_figures(task.errors(network))
            row = {name: state[name] for name in ("step", "seconds", task.counter)} | own
            row |= {"learning_rate": self._learning_rate, "loss": loss} | figures
            self._records.rows.append(row)
            if task.score(row) < state["best"]:
                state["best"], state["best_step"] = task.score(row), state["step"]
                self._records.save_best(network)
            medians = (
                "{rotation_deg:.2f} deg, {in_plane_mm:.2f} mm in plane, {depth_mm:.1f} mm in depth, "
                "{failures:.1%} fail"
            )
            stopped = self._tell(row, f"{self._step_name}, validation medians {medians.format(**figures)}")
        return bool(self._placement.broadcast(stopped))

    @property
    def _fraction(self) -> float:
        settings, state = self._settings, self._state
        of_steps = state["step"] / settings.steps if settings.steps else 0.0
        of_budget = state["seconds"] / settings.budget_seconds if settings.budget_seconds else 0.0
        return min(1.0, max(of_steps, of_budget))

    @property
    def _learning_rate(self) -> float:
        settings = self._settings
        return cosine_rate(settings.learning_rate, self._state["step"], settings.warm_up, self._fraction)

    @property
    def _step_name(self) -> str:
        steps = self._settings.steps
        return f"step {self._state['step']}" + (f" of {steps}" if steps else "")

    def _resume(self) -> None:
        restored = self._records.restore(self._placement.device, self._task.refusal)
        if restored is None:
            return
        measured_on = self._state["measured_on"]
        if restored.get("measured_on", measured_on) != measured_on:
            # Harder X-rays have larger errors: the best so far is no measure for them.
            restored |= {"best": float("inf"), "measured_on": measured_on}
        self._state.update(restored)
        self._say(f"resumed at step {self._state['step']}")

    def _say(self, line: str) -> None:
        self._tell(None, line)

    def _tell(self, row: dict[str, float] | None, said: str | None) -> bool:
        """Report; whether it is to stop."""
        if not self._placement.is_global_zero:
            return False
        budget, fraction = self._settings.budget_seconds, self._fraction
        left = None if budget is None else (1 - fraction) * budget
        return bool(self._report(Progress(fraction, self._state["step"], left, row, said)))


def _is_up(limit: float | None, seconds: float) -> bool:
    return limit is not None and seconds > limit


def _moving_average(decay: float) -> Callable:
    """Averaging that forgets the first steps soon: trainings of a few minutes have few."""

    def update(averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for a, b in zip(averaged, current, strict=True):
            if a.is_floating_point():
                a.lerp_(b, share)
            else:
                a.copy_(b)

    return update
