"""The task of learning from X-rays of many patients: of RTPI and of the fine registration's networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.training.pairs import Pairs, draw_pairs
from SOPIRegistrationLib.training.patients import TRAINING_SEEDS, VALIDATION_SEEDS, PatientPool
from SOPIRegistrationLib.training.placement import Placement
from SOPIRegistrationLib.training.pose_loss import pose_errors
from SOPIRegistrationLib.training.rtpi import Stopwatch
from SOPIRegistrationLib.training.settings import PairOptions, PairSettings, PatientMix

_VALIDATION_GROUP = 16


class PairTask(Protocol):
    """What is learned from pairs.

    Attributes:
        config: of its network.
        pixels: width and height of the images.
        options: what its poses depend on besides the network.
    """

    config: Any
    pixels: int
    options: tuple

    def network(self) -> nn.Module:
        """A network to be trained."""

    def losses(self, network: nn.Module, pairs: Pairs, rendering: Stopwatch) -> Iterator[torch.Tensor]:
        """Losses of a batch; the weights change after each."""

    def held_out(self, options: PairOptions) -> tuple[int, PairOptions]:
        """Pixels and kind of the X-rays of the validation, where those of ``options`` are learned from."""

    def poses(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera that the network finds."""

    def score(self, row: Mapping[str, float]) -> float:
        """How bad the errors in a row of the log are."""


class PairTraining:
    """A task (``trainer.Task``) whose batches are X-rays of patients at known poses.

    Args:
        task: what is learned from them.
        settings: how.
        cts: real CTs to train on besides the phantoms.
        folder: where phantoms are kept between runs.
    """

    columns, counter = ("pairs_per_second", "rendering_share"), "pairs"

    def __init__(self, task: PairTask, settings: PairSettings, cts: Sequence[Path], folder: Path):
        self.config, self.count = task.config, 0
        self._pool: PatientPool | None = None
        self._task, self._settings, self._cts, self._folder = task, settings, cts, folder
        self._options = settings.part(PairOptions)

    @property
    def measured_on(self) -> Mapping[str, Any]:
        """What X-rays, of whom, and how the task finds poses."""
        pixels, options = self._task.held_out(self._options)
        drawn = asdict(options) | asdict(self._validation_mix)
        return drawn | {"pixels": pixels, "task": self._task.options}

    def prepare(self, placement: Placement, step: int, say: Callable[[str], None]) -> None:
        """Make the patients; what was drawn before ``step`` does not come again."""
        settings, rank = self._settings, placement.global_rank
        self._device, self._processes = placement.device, placement.world_size
        self._rng = np.random.default_rng([settings.seed, rank, step] if step else [settings.seed, rank])
        self._pool = PatientPool(
            settings.pool,
            settings.phantoms,
            self._cts,
            settings.part(PatientMix),
            first_seed=TRAINING_SEEDS,
            folder=self._folder,
            seed=[settings.seed, rank + 1, step],
        )
        self._pool.fill(lambda made: say(f"patient {made} of {settings.pool} made"))
        self._validation = self._validation_pairs() if placement.is_global_zero else []
        self._drawn = 0
        self._begin_interval()

    def losses(self, network: nn.Module) -> Iterator[torch.Tensor]:
        """Losses of X-rays of some of the patients at hand."""
        settings = self._settings
        if self._drawn and self._drawn % settings.renew_every == 0:
            self._pool.renew()
        self._drawn += 1
        chosen = self._rng.choice(len(self._pool.patients), settings.patients, replace=False)
        patients = [self._pool.patients[index] for index in chosen]
        with self._rendering.running():
            pairs = draw_pairs(
                patients, settings.group, self._task.pixels, self._options, self._rng, self._device
            )
        yield from self._task.losses(network, pairs, self._rendering)
        batch = settings.patients * settings.group * self._processes
        self.count += batch
        self._since += batch

    def figures(self) -> dict[str, float]:
        """X-rays a second, and the share of the time that rendering took."""
        seconds = time.monotonic() - self._began
        return {
            "pairs_per_second": self._since / seconds,
            "rendering_share": self._rendering.seconds / seconds,
        }

    def errors(self, network: nn.Module) -> np.ndarray:
        """Errors on patients never trained on."""
        errors = []
        for pairs in self._validation:
            T = self._task.poses(network, pairs)
            errors.append(pose_errors(T, pairs.T_true, pairs.centre_lps_mm).cpu().numpy())
        self._begin_interval()
        return np.concatenate(errors)

    def score(self, row: Mapping[str, float]) -> float:
        """As the task sees it."""
        return self._task.score(row)

    def refusal(self, different: Sequence[str]) -> str:
        """A network of other sizes."""
        return "of another network: give another --out, or the same --network"

    def close(self) -> None:
        """End the making of patients."""
        if self._pool is not None:
            self._pool.close()

    def _begin_interval(self) -> None:
        self._rendering, self._since, self._began = Stopwatch(), 0, time.monotonic()

    @property
    def _validation_mix(self) -> PatientMix:
        """Random structures tell nothing of how patients fare."""
        return replace(self._settings.part(PatientMix), real=0.0, structures=0.0)

    def _validation_pairs(self) -> list[Pairs]:
        """X-rays of phantoms whose seeds training does not use, the same in every run."""
        count = self._settings.validation_patients
        pool = PatientPool(
            count,
            count,
            mix=self._validation_mix,
            first_seed=VALIDATION_SEEDS,
            folder=self._folder,
            seed=1,
        )
        pool.fill()
        rng = np.random.default_rng(2)
        pixels, options = self._task.held_out(self._options)
        return [
            draw_pairs([patient], _VALIDATION_GROUP, pixels, options, rng, self._device)
            for patient in pool.patients
        ]
