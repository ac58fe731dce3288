"""What every training keeps: checkpoint, best weights, log; how errors are scored; how the rate falls."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.whole_files import written_aside

CHECKPOINT, BEST, LOG = "last.pt", "best.pt", "log.csv"
# Of a row of a log: medians and 90th percentiles of ``pose_loss.pose_errors`` over the validation, and the
# share of failures.
ERROR_COLUMNS = (
    *("rotation_deg", "in_plane_mm", "depth_mm"),
    *("rotation_p90_deg", "in_plane_p90_mm", "depth_p90_mm", "failures"),
)
# Of a pose that fails: the registration after it does not mend it, in the plane or in rotation.
_FAILED_DEG, _FAILED_MM = 3.0, 3.0


def error_figures(errors: np.ndarray) -> dict[str, float]:
    """``ERROR_COLUMNS`` of errors (n, 3)."""
    figures = np.concatenate([np.median(errors, axis=0), np.percentile(errors, 90, axis=0)])
    failed = (errors[:, 0] > _FAILED_DEG) | (errors[:, 1] > _FAILED_MM)
    return dict(zip(ERROR_COLUMNS, map(float, (*figures, failed.mean())), strict=True))


def score(row: Mapping[str, float]) -> float:
    """One figure for how bad a row's errors are; depth weighs little for what follows."""
    return row["rotation_deg"] + row["in_plane_mm"] + 0.2 * row["depth_mm"]


def score_of_use(row: Mapping[str, float]) -> float:
    """The same of poses that are refined to the end: failures, and the errors of the others where they are as
    many."""
    # Losses and medians get better while more is lost.
    return row["failures"] + 1e-3 * score(row)


def cosine_rate(highest: float, step: int, warm_up: int, fraction: float) -> float:
    """Learning rate: rises over the first ``warm_up`` steps, falls to a hundredth along a cosine."""
    falling = 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, fraction))))
    return highest * min(1.0, (step + 1) / warm_up) * falling


class Records:
    """A training's folder.

    Args:
        folder: of checkpoint, best weights and log.
        columns: of the log.
        parts: what a checkpoint restores, by name: network, its average, optimiser.
        config: of the network, a dataclass.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        parts: Mapping[str, nn.Module | torch.optim.Optimizer],
        config: Any,
    ):
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._columns, self._parts, self._config = columns, parts, asdict(config)

    def save(self, state: Mapping[str, Any]) -> None:
        """Leave checkpoint and log, each whole or not at all."""
        checkpoint = {name: part.state_dict() for name, part in self._parts.items()}
        checkpoint |= {"config": self._config, "state": dict(state), "rows": self.rows}
        _write(self.folder / CHECKPOINT, checkpoint)
        with written_aside(self.folder / LOG) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def restore(self, device: torch.device, refusal: Callable[[Sequence[str]], str]) -> dict[str, Any] | None:
        """Put the parts where the checkpoint has them.

        Args:
            device: where they are.
            refusal: what to say of a checkpoint whose network differs in these fields of its config.

        Returns:
            its state; None if there is no checkpoint.

        Raises:
            InputError: the checkpoint is of another network.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        known, config = checkpoint["config"], self._config
        different = [name for name in config if known.get(name) != config[name]]
        if different:
            raise InputError(f"{path} is {refusal(different)}")
        for name, part in self._parts.items():
            part.load_state_dict(checkpoint[name])
        # An earlier version's rows may lack a column.
        self.rows = [dict.fromkeys(self._columns, float("nan")) | row for row in checkpoint["rows"]]
        return checkpoint["state"]

    def save_best(self, network: nn.Module) -> None:
        """Keep the weights of a network as the best so far."""
        _write(self.folder / BEST, network.state_dict())

    def best(self) -> dict[str, torch.Tensor] | None:
        """The best weights so far, on the CPU; None if none were kept."""
        path = self.folder / BEST
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def _write(path: Path, content) -> None:
    with written_aside(path) as aside:
        torch.save(content, aside)
