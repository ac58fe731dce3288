"""Poses refined by a learned similarity: least squares or descent on the features of X-ray and DRR."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.distinct import SAME_MINIMUM, distinct_poses
from SOPIRegistrationLib.installed import IFR
from SOPIRegistrationLib.networks.embedding import (
    SCALE,
    Embedded,
    EmbeddingNetwork,
    embedding_error,
    error_model,
    moving_images,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.networks.weights import network_of
from SOPIRegistrationLib.optimise.least_squares import NormalEquations, levenberg_marquardt
from SOPIRegistrationLib.optimise.momentum import momentum_descent
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.projector import ProjectorVolume

# What a depth costs in L_N that has left where it is held, 1/mm^2: that of a bone elsewhere, at 30 mm.
_HOLD = 0.3 / 30**2
# Starts from which a descent is tried besides, its iterations, and the rate at which it ends.
_SECOND_TRIES, _SHORT_DESCENT, _COARSE = 2, 80, 0.05


def load_network(path: str | Path | None = None) -> EmbeddingNetwork:
    """The network of a file of weights, or the installed one, read once; InputError for others."""
    return network_of(path, IFR, EmbeddingNetwork, "fine registration")


class EmbeddedView:
    """X-rays of one camera as a network sees them, and the CT that is compared with them.

    Args:
        network: in evaluation mode.
        image: (N, N) or (S, N, N) float32 X-rays, bone bright.
        valid: bool, of the same shape.
        camera: theirs.
        body: attenuation of the CT, as coarse as the pixels allow.
        bone: the same of its bones alone; ``body`` itself for a segmented bone, which is rendered once.
        centre_lps_mm: (3,) rotation centre.
        reach: how many times more the image itself weighs among the features than in training.
        T_held: (S, 4, 4) poses whose depths are weakly held, of one bone in a single view: or its projection
            could shrink to where it is like anything. None to leave depths free.

    Attributes:
        valid: (S, N, N) tensor on the network's device.
        camera, body, bone, reach: as given.
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        image: torch.Tensor | np.ndarray,
        valid: torch.Tensor | np.ndarray,
        camera: Camera,
        body: ProjectorVolume,
        bone: ProjectorVolume,
        centre_lps_mm: np.ndarray,
        reach: float = 1.0,
        T_held: np.ndarray | None = None,
    ):
        self._network, self.reach = network, reach
        self._device = next(network.parameters()).device
        image, valid = (
            torch.as_tensor(array).reshape(-1, *camera.shape).to(self._device) for array in (image, valid)
        )
        self.valid = valid
        self.camera, self.body, self.bone = camera, body, bone
        # A twist about the rotation centre in world axes to one in camera axes.
        self._axes = np.kron(np.eye(2), camera.T_world_to_camera[:3, :3])
        self._centre = np.asarray(centre_lps_mm, dtype=np.float64)
        self._held_mm = None if T_held is None else self._depth(T_held)
        with torch.no_grad():
            self._fixed = network.fixed_features(fixed_channels(image, valid))

    def equations(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """L_N and its quadratic model in twists about the rotation centre, world axes, rad and mm.

        Args:
            T_lps_to_world: (P, 4, 4) poses.
            starts: (P,) the X-ray of each, where there are several.
        """
        with torch.inference_mode():
            model = error_model(self._embedded(*self._inputs(T_lps_to_world, starts), with_jacobian=True))
        per_unit, axes = 1 / SCALE.twist, self._axes
        gradient = model.gradient.double().cpu().numpy() * per_unit
        hessian = model.hessian.double().cpu().numpy() * np.outer(per_unit, per_unit)
        error = model.error.double().cpu().numpy()
        gradient, hessian = gradient @ axes, axes.T @ hessian @ axes
        if self._held_mm is not None:
            away, along = self._away(T_lps_to_world, starts)
            error, gradient = error + _HOLD * away**2, gradient + _HOLD * away[:, None] * along
            hessian = hessian + _HOLD * np.outer(along, along)
        return NormalEquations(error, gradient, hessian)

    def error_and_gradient(
        self, T_lps_to_world: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """L_N (P,) and its gradient (P, 6) by twists as in :meth:`equations`, by backpropagation."""
        fixed, valid, images = self._inputs(T_lps_to_world, starts)
        body, bone = (image.clone().requires_grad_() for image in (images.body, images.bone))
        images = images._replace(body=body, bone=bone)
        with torch.enable_grad():
            error = embedding_error(self._embedded(fixed, valid, images))
            by_body, by_bone = torch.autograd.grad(error.sum(), (body, bone))
        gradient = images.pose_gradient(by_body, by_bone).double().cpu().numpy()
        error, gradient = error.detach().double().cpu().numpy(), gradient @ self._axes
        if self._held_mm is not None:
            away, along = self._away(T_lps_to_world, starts)
            error, gradient = error + _HOLD * away**2, gradient + 2 * _HOLD * away[:, None] * along
        return error, gradient

    def errors(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """(P,) L_N alone; arguments as for :meth:`equations`."""
        with torch.inference_mode():
            error = embedding_error(self._embedded(*self._inputs(T_lps_to_world, starts, False)))
        error = error.double().cpu().numpy()
        if self._held_mm is None:
            return error
        return error + _HOLD * self._away(T_lps_to_world, starts)[0] ** 2

    def _depth(self, T_lps_to_world: np.ndarray) -> np.ndarray:
        """(P,) of the rotation centre, mm."""
        return se3.transform_points(self.camera.T_world_to_camera @ T_lps_to_world, self._centre)[:, 2]

    def _away(self, T_lps_to_world: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P,) mm that depths have left those held, and (6,) their derivative."""
        along = np.concatenate([np.zeros(3), self.camera.T_world_to_camera[2, :3]])
        return self._depth(T_lps_to_world) - self._held_mm[starts], along

    def _embedded(self, fixed, valid, images, with_jacobian: bool = False) -> Embedded:
        return self._network.embed(fixed, valid, images, with_jacobian, self.reach)

    def _inputs(self, T_lps_to_world, starts, with_jacobian: bool = True):
        seen = self.body, self.bone, self.camera, T_lps_to_world, self._centre
        images = moving_images(*seen, with_jacobian).to(self._device)
        index = torch.as_tensor(starts if len(self.valid) > 1 else np.zeros(len(starts), dtype=int))
        index = index.to(self._device)
        return tuple(m[index] for m in self._fixed), self.valid[index], images


class Objective(Protocol):
    """What is minimised: of one view, or of several."""

    def nearby(self, T: np.ndarray) -> Objective:
        """The objective from starts (S, 4, 4) near home: more exact, but not to be seen from afar."""

    def equations(self, T: np.ndarray, starts: np.ndarray) -> NormalEquations:
        """L_N and its quadratic model at poses (P, 4, 4) of the starts (P,)."""

    def error_and_gradient(self, T: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """L_N (P,) and its gradient (P, 6) there."""


class Refined(NamedTuple):
    """Where a minimisation of L_N ended.

    Attributes:
        T: (n, 4, 4) the pose that each start led to, or of a network that reaches further than it was trained
            for, the different ones of these.
        error: (n,) their L_N.
    """

    T: np.ndarray
    error: np.ndarray


def refined(
    network: EmbeddingNetwork,
    objective: Objective,
    T_start: np.ndarray,
    centre_lps_mm: np.ndarray,
    report: Report | None = None,
    stage: str = "",
) -> Refined:
    """Poses of least L_N from several starts.

    A network trained for its steps is followed by least squares; and, since a gradient leads home from some
    places where steps do not, from the first starts also by a descent with least squares at its end: the
    lesser L_N of both counts. A network that reaches further than it was trained for ends with the weights
    of its training, on finer images if it has them. Others are followed by the published descent.

    Args:
        network: whose ``config.inference`` says for what it was trained.
        objective: L_N and its derivatives by twists about the rotation centre.
        T_start: (S, 4, 4) start poses, the best ones first.
        centre_lps_mm: (3,) rotation centre.
        report: told every iteration.
        stage: label in the reports.
    """
    told = {"report": report, "stage": stage}
    if network.config.inference == "descent":
        return descended(objective, T_start, centre_lps_mm, **told)
    first = stepped(objective, T_start, centre_lps_mm, **told)
    again = descended(
        objective, T_start[:_SECOND_TRIES], centre_lps_mm, _SHORT_DESCENT, tolerance=_COARSE, **told
    )
    again = stepped(objective, again.T, centre_lps_mm, **told)
    better = np.zeros(len(T_start), dtype=bool)
    better[: len(again.T)] = again.error < first.error[: len(again.T)]
    T, error = first.T.copy(), first.error.copy()
    chosen = better[: len(again.T)]
    T[better], error[better] = again.T[chosen], again.error[chosen]
    if network.config.reach == 1 and network.config.near_pixels is None:
        return Refined(T, error)
    T = T[np.argsort(error, kind="stable")]
    T = T[distinct_poses(T, centre_lps_mm, *SAME_MINIMUM, len(T))]
    return stepped(objective.nearby(T), T, centre_lps_mm, **told)


def stepped(
    objective: Objective,
    T_start: np.ndarray,
    centre_lps_mm: np.ndarray,
    max_iterations: int = 60,
    report: Report | None = None,
    stage: str = "",
) -> Refined:
    """Levenberg-Marquardt on the features' differences; arguments as for :func:`refined`."""
    solution = levenberg_marquardt(
        objective.equations,
        T_start,
        centre_lps_mm,
        max_iterations,
        step_tolerance_mm=0.05,
        gain_tolerance=1e-6,
        report=report,
        stage=stage,
    )
    return Refined(solution.T, solution.equations.cost)


def descended(
    objective: Objective,
    T_start: np.ndarray,
    centre_lps_mm: np.ndarray,
    max_iterations: int = 500,
    tolerance: float = 0.005,
    report: Report | None = None,
    stage: str = "",
) -> Refined:
    """The published descent; arguments as for :func:`refined`.

    Args:
        objective: L_N and its gradient.
        T_start: (S, 4, 4) start poses.
        centre_lps_mm: (3,) rotation centre.
        max_iterations: at most so many.
        tolerance: rate, units of ``SCALE``, at which a start has converged.
        report: told every iteration.
        stage: label in the reports.
    """
    T, error, _ = momentum_descent(
        objective.error_and_gradient,
        T_start,
        centre_lps_mm,
        SCALE,
        rotation_tolerance=max(0.02, tolerance),
        translation_tolerance=tolerance,
        max_iterations=max_iterations,
        report=report,
        stage=stage,
    )
    return Refined(T, error)
