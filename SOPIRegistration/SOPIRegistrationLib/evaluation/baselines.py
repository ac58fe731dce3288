"""The baselines: one similarity of whole images, maximised at one resolution from the start pose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import compared_target
from SOPIRegistrationLib.compare.objective import comparable_pixels, compared_view
from SOPIRegistrationLib.evaluation.problem import Estimate, Problem
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.optimise.cmaes import maximise_by_cmaes
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.similarity import get_similarity

_DESCENT_ITERATIONS, _CMAES_GENERATIONS = 300, 150


class ComparedView(NamedTuple):
    """What a whole-image comparison sees of an X-ray, and what it projects."""

    image: np.ndarray
    valid: np.ndarray
    camera: Camera
    volume: ProjectorVolume


def compared_views(problem: Problem) -> list[ComparedView]:
    """X-rays, masks and volumes of the baselines."""
    target, views, T = compared_target(problem.subject), [], problem.T_start[None]
    moving = target.moving
    for radiograph in problem.radiographs:
        view = compared_view(radiograph, target, T, problem.baseline_pixels)
        valid = comparable_pixels(view, moving, T)[0]
        views.append(ComparedView(view.image, valid, view.camera, moving.for_camera(view.camera, T[0])))
    return views


def start_itself(problem: Problem, report: Report) -> Estimate:
    """The start pose as it is: the row "Initial" of the papers."""
    return Estimate(problem.T_start)


def descend(problem: Problem, report: Report, *, similarity: str) -> Estimate:
    """Gradient ascent on one similarity of the DRR and the X-ray, from the start pose.

    The optimisation-based baselines of the SOPI paper (Table 1). That paper names their similarities ("an
    optimizer is used to maximize the similarity") and not their optimiser, and its published code does not
    hold them. The papers they come from go further than a baseline from one start does: Otake et al. 2013
    multi-start CMA-ES with local restarts, De Silva et al. 2016 up to 200 starts, Liu et al. 2022 several
    resolutions. Here: Adam (Kingma and Ba 2015) through the differentiable projector on six evenly scaled
    coordinates of the pose (:func:`~SOPIRegistrationLib.optimise.descent.maximise_by_gradient`), the step
    halved where it no longer gains and the end where it is below 0.005 of a coordinate (0.006 deg, 0.005 mm
    in plane, 0.05 mm in depth), or after 300 iterations; one resolution, whole image, no prior, one start.
    Several X-rays count alike.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        similarity: name in :data:`~SOPIRegistrationLib.similarity.SIMILARITIES`.
    """
    # Torch takes long to import; methods that need none shall not wait for it.
    import torch

    from SOPIRegistrationLib.optimise.descent import maximise_by_gradient
    from SOPIRegistrationLib.projector.autograd import project_differentiable

    measure = get_similarity(similarity)
    views = [
        (view, *(torch.from_numpy(array) for array in (view.image, view.valid)))
        for view in compared_views(problem)
    ]

    def objective(T_lps_to_world):
        values = [
            measure(
                project_differentiable(view.volume, view.camera, T_lps_to_world[None]),
                image,
                valid,
            )[0]
            for view, image, valid in views
        ]
        return sum(values) / len(values)

    result = maximise_by_gradient(
        objective,
        problem.T_start,
        problem.frame.centre_lps_mm,
        method="adam",
        max_iterations=_DESCENT_ITERATIONS,
        report=report,
    )
    return Estimate(result.T)


def evolve(problem: Problem, report: Report) -> Estimate:
    """CMA-ES on the gradient correlation of the DRR and the X-ray, from the start pose.

    The intensity-based benchmark of ProST (IEEE TMI 2024): Hansen and Ostermeier 2001, first generation of
    5 deg, 5 mm in plane and 20 mm in depth, 9 poses a generation, until they spread by less than a thousandth
    of that, or 150 generations. Several X-rays count alike.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
    """
    measure, views = get_similarity("gc"), compared_views(problem)

    def objective(T_lps_to_world):
        values = [
            measure(
                project(view.volume, view.camera, T_lps_to_world),
                view.image,
                view.valid,
            )
            for view in views
        ]
        return sum(values) / len(values)

    result = maximise_by_cmaes(
        objective,
        problem.T_start,
        problem.frame.centre_lps_mm,
        seed=problem.seed,
        max_iterations=_CMAES_GENERATIONS,
        report=report,
    )
    return Estimate(result.T)
