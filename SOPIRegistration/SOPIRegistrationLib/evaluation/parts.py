"""Parts of a registration by themselves, unverified: what a study asks of one stage alone.

Each takes what :class:`~SOPIRegistrationLib.evaluation.methods.Problem` holds and returns a pose (4, 4)
T_lps_to_world, mm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.projector.physics import Beam
from SOPIRegistrationLib.registration import moving_volumes, stages
from SOPIRegistrationLib.registration.learned import LearnedObjective
from SOPIRegistrationLib.registration.physics_refinement import refine_with_physics
from SOPIRegistrationLib.registration.stages import Case, Hypotheses, first_look

# Ten kV below that of the polychromatic targets: nobody knows the beam exactly.
BELIEVED_BEAM = Beam(70)


def first_answer(problem, stop: Callable[[], bool], *, weights: Path | None) -> np.ndarray:
    """The pose of which a pose network is surest when it has compared the X-ray with all its views.

    Args:
        problem: what to register.
        stop: whether to end; a look is over before it could ask.
        weights: file of the network; the installed pose network's if None.
    """
    case = Case(problem.radiographs, problem.frame)
    found = first_look(case, *moving_volumes(problem.ct).values(), weights)
    return np.linalg.inv(case.T_world_to_camera) @ found.T_lps_to_camera[0]


def learned_alone(
    problem, stop: Callable[[], bool], *, weights: Path | None, inference: str | None = None
) -> np.ndarray:
    """L_N minimised from the start pose alone.

    Args:
        problem: what to register.
        stop: whether to end.
        weights: file of the network; the installed learned similarity's if None.
        inference: "least squares" or "descent" (as published); what the network was trained for if None.
    """
    from SOPIRegistrationLib.refine.network import load_network, refined

    network = load_network(weights)
    if inference is not None:
        # The one that is loaded is everybody's.
        network = copy.copy(network)
        network.config = replace(network.config, inference=inference)
    start, case = problem.T_start[None], Case(problem.radiographs, problem.frame)
    objective = LearnedObjective(network, case, *moving_volumes(problem.ct).values(), start)
    return refined(network, objective, start, case.centre_lps_mm, lambda report: stop()).T[0]


def fine_levels(problem, stop: Callable[[], bool], *, physics: bool, plain: bool) -> np.ndarray:
    """The fine levels of a refinement, from the start pose alone.

    Args:
        problem: what to register; its start is near enough for these levels.
        stop: whether to end.
        physics: with DRRs of a beam of 70 kV first.
        plain: then, or only, with plain DRRs.
    """
    case = Case(problem.radiographs, problem.frame, problem.T_start)
    body = moving_volumes(problem.ct)["body"]
    found = Hypotheses(problem.T_start[None], np.array([np.inf]))
    if physics:
        found = refine_with_physics(case, body, found, lambda *report: stop(), BELIEVED_BEAM)
    if plain:
        found = stages.refine(case, body, found, stages.BODY_FINE, lambda *report: stop())
    return found.T[0]
