"""Parts of a registration by themselves, unverified: what a study asks of one stage alone.

Each takes what :class:`~SOPIRegistrationLib.evaluation.problem.Problem` holds and returns a pose (4, 4)
T_lps_to_world, mm.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.compare import Case, Comparison, Hypotheses, Reading, Run, compared_target
from SOPIRegistrationLib.evaluation.problem import Problem
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.projector.physics import Beam
from SOPIRegistrationLib.refine.beam import with_beam
from SOPIRegistrationLib.refine.coarse_to_fine import fine

# Ten kV below that of the polychromatic targets: nobody knows the beam exactly.
BELIEVED_BEAM = Beam(70)


def first_answer(problem: Problem, report: Report, *, weights: Path | None) -> np.ndarray:
    """The pose of which a pose network, the installed one unless given, is surest at one look at all its
    views."""
    from SOPIRegistrationLib.initialise.network import load_network, network_poses

    radiograph = problem.radiographs[0]
    T = network_poses(load_network(weights), radiograph, problem.subject, problem.frame)
    return se3.invert_rigid(radiograph.camera.T_world_to_camera) @ T[0]


def learned_alone(
    problem, report: Report, *, weights: Path | None, inference: str | None = None
) -> np.ndarray:
    """L_N minimised from the start pose alone.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        weights: file of the network; the installed learned similarity's if None.
        inference: "least squares" or "descent" (as published); what the network was trained for if None.
    """
    from SOPIRegistrationLib.networks.threads import few_threads
    from SOPIRegistrationLib.refine.learned import LearnedObjective
    from SOPIRegistrationLib.refine.network import load_network, refined

    network = load_network(weights)
    if inference is not None:
        # The one that is loaded is everybody's.
        network = copy.copy(network)
        network.config = replace(network.config, inference=inference)
    start, centre = problem.T_start[None], problem.frame.centre_lps_mm
    with few_threads(network):
        objective = LearnedObjective(network, _comparison(problem), start)
        return refined(network, objective, start, centre, report=report).T[0]


def fine_levels(problem: Problem, report: Report, *, physics: bool, plain: bool) -> np.ndarray:
    """The fine levels of a refinement, from the start pose alone.

    Args:
        problem: what to register; its start is near enough for these levels.
        report: told every iteration; raises ``Cancelled`` to end.
        physics: with DRRs of a beam of 70 kV first.
        plain: then, or only, with plain DRRs.
    """
    comparison = _comparison(problem)
    run = Run(comparison.case, report)
    found = Hypotheses.unscored(comparison, problem.T_start[None])
    if physics:
        found = with_beam(found, run, BELIEVED_BEAM)
    if plain:
        found = fine(found, run)
    return found.T[0]


def _comparison(problem) -> Comparison:
    """What the whole of a CT is compared with, about the start pose."""
    reading = Reading(problem.radiographs)
    case = Case(problem.subject, reading, problem.frame, T_expected=problem.T_start)
    return Comparison(case, reading, compared_target(problem.subject))
