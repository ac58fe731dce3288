"""The training loop: one process or several, checkpoints it goes on from, a log a person can plot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.training.muon import Muon
from SOPIRegistrationLib.training.pairs import PairOptions, Pairs, draw_pairs
from SOPIRegistrationLib.training.patients import (
    BONES,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    PatientMix,
    PatientPool,
)
from SOPIRegistrationLib.training.pose_loss import pose_errors
from SOPIRegistrationLib.training.records import ERROR_COLUMNS, Records, cosine_rate, error_figures, score
from SOPIRegistrationLib.training.rtpi import Stopwatch

LOG_COLUMNS = (
    *("step", "seconds", "pairs", "pairs_per_second", "rendering_share", "learning_rate", "loss"),
    *ERROR_COLUMNS,
)
_VALIDATION_GROUP = 16
_REPORT_EVERY = 50


class Task(Protocol):
    """What is trained."""

    config: object
    pixels: int
    # What its poses depend on besides the network.
    options: tuple

    def network(self) -> nn.Module:
        """A network to be trained."""

    def losses(self, network: nn.Module, pairs: Pairs, rendering: Stopwatch) -> Iterator[torch.Tensor]:
        """Losses of a batch; the weights change after each."""

    def poses(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera that the network finds."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: batches of X-rays; several processes have a batch each.
        patients: different patients of a batch.
        group: X-rays of each of them.
        starts: of each X-ray.
        views: names of the nominal views.
        strength: largest of the X-rays' degradations.
        c_arms: share of patients X-rayed with random C-arms.
        nominal_starts: share of starts at the nominal view.
        start_deviation: of starts about the true pose (see :class:`PairOptions`); None for others.
        misjudged: how far the cameras are not what the network is told.
        elsewhere: share of groups of X-rays that are centred anywhere along the CT's bones.
        rolled: share of groups whose nominal view is turned about the central ray by any angle.
        shifted: share of X-rays whose centre lies anywhere in the image.
        bones: share of patients of whom both CT and X-ray show bones alone.
        parts: share of patients of whose bones the CT shows a single one.
        learning_rate: of :class:`Muon`, the highest, reached after ``warm_up`` steps; falls to a hundredth
            along a cosine.
        warm_up: steps.
        weight_decay: of kernels and matrices.
        averaging: decay of the moving average of the weights that is validated and kept.
        pool: patients at hand in each process.
        phantoms: different phantoms they are varied from.
        ct_share: share of them varied from real CTs.
        structures: share of patients made of random structures, in any orientation.
        regions: share of the others who are of other regions of the body than the trunk.
        renew_every: steps after which one patient is replaced.
        validate_every: steps.
        validation_patients: patients of the validation.
        checkpoint_seconds: how often the state is saved.
        time_limit: seconds after which a run stops before its last step, to be gone on with later; None for
            none.
        seed: of everything random.
    """

    steps: int = 20_000
    patients: int = 8
    group: int = 4
    starts: int = 1
    views: tuple[str, ...] = tuple(NOMINAL_VIEWS)
    strength: float = 1.0
    c_arms: float = 0.5
    nominal_starts: float = 0.7
    start_deviation: tuple[float, ...] | None = None
    misjudged: float = 1.0
    elsewhere: float = 0.0
    rolled: float = 0.0
    shifted: float = 0.0
    bones: float = BONES
    parts: float = 0.0
    learning_rate: float = 0.02
    warm_up: int = 100
    weight_decay: float = 0.01
    averaging: float = 0.995
    pool: int = 48
    phantoms: int = 80
    ct_share: float = 0.2
    structures: float = 0.0
    regions: float = 0.0
    renew_every: int = 5
    validate_every: int = 250
    validation_patients: int = 12
    checkpoint_seconds: float = 120.0
    time_limit: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        network: the averaged weights at the step that did best on the validation patients.
        steps: batches.
        hours: of training, without those of validation and start.
        pairs: X-rays seen.
        log: rows of ``LOG_COLUMNS``.
        best: the row of ``network``.
    """

    network: nn.Module
    steps: int
    hours: float
    pairs: int
    log: list[dict[str, float]]
    best: dict[str, float]


class Trainer:
    """Trains a task's network on simulated pairs.

    Args:
        fabric: where it runs: devices, precision, processes; launched.
        out: folder of checkpoint, log and phantoms.
        cts: real CTs to train on besides the phantoms.
        task: what is trained.
        network: its network, to begin with; alike in all processes.
        settings: how.
        report: called with the fraction done and a line about it, in the first process only.
    """

    def __init__(
        self,
        fabric: Fabric,
        out: Path,
        cts: Sequence[Path],
        task: Task,
        network: nn.Module,
        settings: TrainingSettings,
        report: Callable[[float, str], None],
    ):
        self._fabric, self._out, self._task, self._settings = fabric, out, task, settings
        self._report = report
        self._options = PairOptions(
            task.pixels,
            tuple(settings.views),
            settings.strength,
            settings.c_arms,
            settings.nominal_starts,
            settings.start_deviation,
            settings.misjudged,
            settings.starts,
            settings.elsewhere,
            settings.rolled,
            settings.shifted,
        )
        self._mix = PatientMix(
            settings.ct_share, settings.structures, settings.regions, settings.bones, settings.parts
        )
        rank = fabric.global_rank
        self._rng = np.random.default_rng([settings.seed, rank])
        self._average = AveragedModel(
            network, fabric.device, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging), use_buffers=True
        )
        halved = torch.bfloat16 if fabric.strategy.precision.precision == "bf16-mixed" else torch.float32
        optimizer = Muon(
            network, settings.learning_rate, weight_decay=settings.weight_decay, precision=halved
        )
        self._network, self._optimizer = fabric.setup(network, optimizer)
        self._cts = cts
        # What the errors of the validation depend on, besides the weights.
        measured_on = asdict(self._options) | asdict(self._validation_mix) | {"task": task.options}
        self._state = {
            **{"step": 0, "seconds": 0.0, "pairs": 0, "best": float("inf"), "best_step": 0},
            "measured_on": measured_on,
        }
        parts = {"network": self._network.module, "average": self._average, "optimizer": self._optimizer}
        self._records = Records(out, LOG_COLUMNS, parts, task.config)

    def run(self) -> Trained:
        """Train to the last step or until time is up, from the checkpoint in the folder if there is one.

        Raises:
            InputError: that checkpoint is of another network.
        """
        settings, state = self._settings, self._state
        limit = np.inf if settings.time_limit is None else settings.time_limit
        self._deadline = time.monotonic() + limit
        self._resume()
        if state["step"] < settings.steps:
            self._pool = self._training_patients()
            validation = self._validation_pairs()
            self._loop(validation)
        network = self._task.network()
        network.load_state_dict(self._records.best())
        # Only the first process validates, and has rows.
        rows = self._records.rows
        best = next((row for row in rows if row["step"] == state["best_step"]), {})
        hours = state["seconds"] / 3600
        return Trained(network.eval(), state["step"], hours, state["pairs"], rows, best)

    def _loop(self, validation: list[Pairs]) -> None:
        settings, state = self._settings, self._state
        batch = settings.patients * settings.group * self._fabric.world_size
        rendering, losses = Stopwatch(), []
        saved = began = time.monotonic()
        self._network.train()
        ended = False
        while not ended:
            losses.append(self._step(rendering))
            state["step"] += 1
            step = state["step"]
            if step % settings.renew_every == 0:
                self._pool.renew()
            seconds = time.monotonic() - began
            rate, share = len(losses) * batch / seconds, rendering.seconds / seconds
            ended = step == settings.steps or self._time_is_up()
            if step % settings.validate_every == 0 or ended:
                state["seconds"] += seconds
                state["pairs"] += len(losses) * batch
                self._validate(validation, float(np.mean(losses)), rate, share)
                rendering, losses, began = Stopwatch(), [], time.monotonic()
            elif step % _REPORT_EVERY == 0:
                loss = np.mean(losses[-_REPORT_EVERY:])
                self._say(
                    f"step {step} of {settings.steps}, loss {loss:.4f}, {rate:.0f} pairs/s, "
                    f"rendering {share:.0%} of the time"
                )
            if time.monotonic() - saved > settings.checkpoint_seconds or ended:
                self._save(time.monotonic() - began, len(losses) * batch)
                saved = time.monotonic()

    def _time_is_up(self) -> bool:
        """As the first process sees it: all must stop at the same step."""
        return bool(self._fabric.broadcast(time.monotonic() > self._deadline))

    def _step(self, rendering: Stopwatch) -> float:
        """Mean loss of a batch."""
        settings = self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        chosen = self._rng.choice(len(self._pool.patients), settings.patients, replace=False)
        patients = [self._pool.patients[index] for index in chosen]
        with rendering.running():
            device = self._fabric.device
            pairs = draw_pairs(patients, settings.group, self._options, self._rng, device)
        values = []
        for loss in self._task.losses(self._network, pairs, rendering):
            self._fabric.backward(loss)
            self._fabric.clip_gradients(self._network, self._optimizer, max_norm=1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            values.append(float(loss.detach()))
        self._average.update_parameters(self._network.module)
        return float(np.mean(values))

    def _validate(self, validation: list[Pairs], loss: float, rate: float, rendering: float) -> None:
        """Errors of the averaged weights on patients never trained on; a row of the log; the best is kept."""
        if self._fabric.is_global_zero:
            network = self._average.module.eval()
            errors = []
            for pairs in validation:
                T = self._task.poses(network, pairs)
                errors.append(pose_errors(T, pairs.T_true, pairs.centre_lps_mm).cpu().numpy())
            state, figures = self._state, error_figures(np.concatenate(errors))
            known = (state["step"], state["seconds"], state["pairs"], rate, rendering, self._learning_rate())
            row = dict(zip(LOG_COLUMNS, (*known, loss, *figures.values()), strict=True))
            self._records.rows.append(row)
            if score(row) < state["best"]:
                state["best"], state["best_step"] = score(row), state["step"]
                self._records.save_best(network)
            text = "{rotation_deg:.2f} deg, {in_plane_mm:.2f} mm in plane, {depth_mm:.1f} mm in depth".format(
                **figures
            )
            self._say(f"step {state['step']} of {self._settings.steps}, validation medians {text}")
        self._fabric.barrier()

    def _training_patients(self) -> PatientPool:
        settings = self._settings
        pool = PatientPool(
            settings.pool,
            settings.phantoms,
            self._cts,
            self._mix,
            first_seed=TRAINING_SEEDS,
            folder=self._out / "phantoms",
            seed=[settings.seed, self._fabric.global_rank + 1, self._state["step"]],
        )
        pool.fill(lambda made: self._say(f"patient {made} of {settings.pool} made"))
        return pool

    @property
    def _validation_mix(self) -> PatientMix:
        """Random structures tell nothing of how patients fare."""
        return replace(self._mix, real=0.0, structures=0.0)

    def _validation_pairs(self) -> list[Pairs]:
        """X-rays of phantoms whose seeds training does not use, the same in every run."""
        if not self._fabric.is_global_zero:
            return []
        count = self._settings.validation_patients
        pool = PatientPool(
            count,
            count,
            mix=self._validation_mix,
            first_seed=VALIDATION_SEEDS,
            folder=self._out / "phantoms",
            seed=1,
        )
        pool.fill()
        rng = np.random.default_rng(2)
        options = replace(self._options, starts=1)
        device = self._fabric.device
        return [draw_pairs([patient], _VALIDATION_GROUP, options, rng, device) for patient in pool.patients]

    def _learning_rate(self) -> float:
        settings, step = self._settings, self._state["step"]
        return cosine_rate(settings.learning_rate, step, settings.warm_up, step / settings.steps)

    def _save(self, seconds: float, pairs: int) -> None:
        """Leave a checkpoint, so many seconds and pairs after the last validation."""
        if self._fabric.is_global_zero:
            state = self._state
            since = {"seconds": state["seconds"] + seconds, "pairs": state["pairs"] + pairs}
            self._records.save(state | since)

    def _resume(self) -> None:
        refusal = "of another network: give another --out, or the same --network"
        restored = self._records.restore(self._fabric.device, lambda different: refusal)
        if restored is None:
            return
        measured_on = self._state["measured_on"]
        if restored["measured_on"] != measured_on:
            # Harder X-rays have larger errors: the best so far is no measure for them.
            restored |= {"best": float("inf"), "measured_on": measured_on}
        self._state.update(restored)
        # What was drawn before does not come again.
        self._rng = np.random.default_rng(
            [self._settings.seed, self._fabric.global_rank, self._state["step"]]
        )
        self._say(f"resumed at step {self._state['step']}")

    def _say(self, line: str) -> None:
        if self._fabric.is_global_zero:
            self._report(self._state["step"] / self._settings.steps, line)
