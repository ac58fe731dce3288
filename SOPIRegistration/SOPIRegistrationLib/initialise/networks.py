"""Hypotheses of pose networks: the one for everybody (RTPI), and that of one patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Level, Reading, Step, compared_target
from SOPIRegistrationLib.compare.run import Run
from SOPIRegistrationLib.compare.starts import with_starts_around
from SOPIRegistrationLib.compare.target import WHOLE_BODY
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.initialise.bone_pool import BonePool, turned_pool
from SOPIRegistrationLib.initialise.initialiser import InTurn, Source
from SOPIRegistrationLib.installed import PATIENT, RTPI
from SOPIRegistrationLib.refine.levels import through_levels
from SOPIRegistrationLib.subject import Subject

STAGE = "pose network"
# How a network's poses are ranked before and after they are brought onto the X-ray.
_RANKING = Level(32, 9)
# About the one pose of a network that gives no more.
_AROUND = WHOLE_BODY.starts[0]


@dataclass(frozen=True)
class PoseNetwork:
    """A pose network in the first view, its answers aligned with the X-ray on its coarsest level.

    Tilts are hard to tell in one look. Of a network that mends the poses of many views, those are aligned of
    which it is sure and in which the images agree; of one that gives a single pose, it and its neighbours.

    Attributes:
        name: of the network.
        weights: file of its weights; the installed ones if None.
        with_expected: of a network that gives one pose only, whether to look about the expected one, too.
        keep: of a network that gives many poses, at most so many are aligned; half of them go on.
        depth_factors: each of these poses is also tried so many times as far from the source.
        looks_again: whether a network that looks from many views does so again from its answers: half a
            second more; whoever searches besides goes without.
        along_scan: whether a network that looks from many views does so from places all along the scan, not
            the rotation centre alone.
    """

    name: str
    weights: str | Path | None = None
    with_expected: bool = False
    keep: int = 24
    depth_factors: tuple[float, ...] = (1.0,)
    looks_again: bool = True
    along_scan: bool = False
    from_afar = False

    def thorough(self) -> PoseNetwork:
        """The same, asked again: more of its poses, at other depths, too, from all along the scan."""
        depths = (0.87, 1.0, 1.15)
        return PoseNetwork(self.name, self.weights, keep=72, depth_factors=depths, along_scan=True)

    def lots(self, case: Case, reading: Reading, run: Run) -> Iterator[Hypotheses]:
        """The same poses for each target (``initialiser.Source``).

        Raises:
            InputError: no weights, or weights that may not be asked about this CT.
            ModuleNotFoundError: no torch.
        """
        found = self._aligned(Comparison(case, reading, compared_target(case.subject)), run)
        for target in case.targets:
            yield Hypotheses(Comparison(case, reading, target), found.T, found.cost, found.T[0])

    def look(self, case: Case, reading: Reading) -> np.ndarray:
        """(n, 4, 4) T_lps_to_world that the network names at one look, the most certain first.

        Raises:
            InputError: as for :meth:`lots`.
        """
        # Torch is slow to import: only who asks a network waits for it.
        from SOPIRegistrationLib.initialise.network import load_network, network_poses, require_same_ct

        network = load_network(self.weights)
        require_same_ct(network, case.subject.ct.identity)
        asked = {"along_scan": self.along_scan, "looks_again": self.looks_again}
        T = network_poses(network, reading.radiographs[0], case.subject, case.frame, **asked)
        return se3.invert_rigid(case.T_world_to_camera) @ T

    def _aligned(self, comparison: Comparison, run: Run) -> Hypotheses:
        case, kind = comparison.case, comparison.target.kind
        with run.share(1 / 8), run.stage(STAGE) as stage:
            T = self.look(case, comparison.reading)
            run.report(STAGE)
            hypotheses = Hypotheses.unscored(comparison, T)
            if len(T) > 1:
                hypotheses = Hypotheses.unscored(comparison, self.promising(comparison, T))
            else:
                also = case.T_expected if self.with_expected else None
                hypotheses = with_starts_around(hypotheses, _AROUND, also)
            steps = [Step(level, round(share * self.keep), _RANKING) for level, share in kind.alignment]
            hypotheses = through_levels(hypotheses, steps, run, within=stage)
            stage.ended(hypotheses.T[0])
        return hypotheses

    def promising(self, comparison: Comparison, T: np.ndarray) -> np.ndarray:
        """Of poses (n, 4, 4), the most certain first, the best by their place and by how the images agree."""
        case = comparison.case
        places = np.tile(np.arange(len(T)), len(self.depth_factors))
        source = case.reading.radiographs[0].camera.source_world_mm
        along = se3.transform_points(T, case.centre_lps_mm) - source
        moved = [T.copy() for _ in self.depth_factors]
        for poses, factor in zip(moved, self.depth_factors, strict=True):
            poses[:, :3, 3] += (factor - 1) * along
        T = np.concatenate(moved)
        agreement = np.argsort(np.argsort(comparison.cost(_RANKING, T), kind="stable"))
        order = np.lexsort((agreement / len(moved) + places, ~case.is_plausible(T)))
        return T[order[: self.keep]]


class Rtpi(InTurn):
    """The pose network for everybody, then more of its poses."""

    @property
    def _network(self) -> PoseNetwork:
        return PoseNetwork(RTPI, self.settings.weights.get(RTPI))

    def sources(self, case: Case) -> tuple[Source, ...]:
        """The network, twice."""
        return self._network, self._network.thorough()

    def warm_up(self, subject: Subject) -> None:
        """Import torch, load the network."""
        from SOPIRegistrationLib.initialise.network import load_network

        load_network(self._network.weights)


class Patient(InTurn):
    """The network of one patient; expects the pose where it was trained to."""

    @property
    def _network(self) -> PoseNetwork:
        return PoseNetwork(PATIENT, self.settings.weights[PATIENT])

    def sources(self, case: Case) -> tuple[Source, ...]:
        """The network, then what is left to try."""
        if case.is_of_a_part:
            # It goes further than the network's other poses do.
            return self._network, BonePool(PATIENT, from_afar=True), turned_pool(PATIENT)
        return self._network, self._network.thorough()

    def expected(self, case: Case) -> np.ndarray:
        """(4, 4) T_lps_to_world about which the network was trained; InputError if on another CT."""
        network = _own_network(self._network.weights, case.subject)
        return se3.invert_rigid(case.T_world_to_camera) @ np.reshape(network.config.T_reference, (4, 4))

    def warm_up(self, subject: Subject) -> None:
        """Import torch, load the network; see :meth:`expected` for what it raises."""
        _own_network(self._network.weights, subject)


def _own_network(weights: str | Path, subject: Subject):
    from SOPIRegistrationLib.initialise.network import load_network, require_same_ct

    network = load_network(weights)
    require_same_ct(network, subject.ct.identity)
    return network
