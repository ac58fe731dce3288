"""Every method that is compared, behind one interface: a problem in, an estimate out, never the truth.

A method is one entry of ``METHODS``; ``sopi evaluate --methods`` takes its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.installed import RTPI, installed_weights
from SOPIRegistrationLib.optimise.cmaes import maximise_by_cmaes
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.registration import RegistrationSettings, moving_volumes, register
from SOPIRegistrationLib.registration.moving import MovingVolume
from SOPIRegistrationLib.registration.objective import around_object, at_level, comparable_pixels
from SOPIRegistrationLib.similarity import get_similarity

# Images of the papers; the baselines have one resolution.
BASELINE_PIXELS = 256
_DESCENT_ITERATIONS, _CMAES_GENERATIONS = 300, 150

# Asked several times a second; a true answer ends a method as soon as possible.
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        ct: prepared CT.
        radiograph: prepared X-ray.
        frame: nominal view, source-object distance and rotation centre.
        T_start: (4, 4) T_lps_to_world of the start, mm; methods that find their own start ignore it.
        seed: of anything random.
        weights: file of the pose network's weights; the installed ones if None.
    """

    ct: PreparedCT
    radiograph: PreparedRadiograph
    frame: PoseFrame
    T_start: np.ndarray
    seed: int = 0
    weights: Path | None = None


@dataclass(frozen=True)
class Estimate:
    """What a method makes of a problem.

    Attributes:
        T_lps_to_world: (4, 4) pose, mm.
        verdict: "accept", "review" or "reject"; empty for methods that give none.
        device: where it computed.
    """

    T_lps_to_world: np.ndarray
    verdict: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class EvaluatedMethod:
    """One entry of the comparison.

    Attributes:
        label: name in tables and plots.
        summary: what it optimises, how and from where, for the report.
        solve: the method.
        needs: packages without which it does not run.
        needs_network: whether the pose network's weights must be there.
    """

    label: str
    summary: str
    solve: Callable[[Problem, Stop], Estimate]
    needs: tuple[str, ...] = ()
    needs_network: bool = False


def require_methods(names: list[str], weights: Path | None = None) -> None:
    """Whether methods of these names can run here.

    Raises:
        InputError: one is unknown, or its package or weights are missing.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"unknown method '{name}': use {', '.join(METHODS)}")
        for package in METHODS[name].needs:
            if find_spec(package) is None:
                raise InputError(f"method {name} needs the Python package '{package}': pip install it")
        if METHODS[name].needs_network:
            path = weights or installed_weights(RTPI)
            if not Path(path).is_file():
                raise InputError(f"weights {path} do not exist: give others with --weights")


def start_itself(problem: Problem, stop: Stop) -> Estimate:
    """The start pose as it is: the row "Initial" of the papers."""
    return Estimate(problem.T_start)


def descend(problem: Problem, stop: Stop, *, similarity: str) -> Estimate:
    """Gradient ascent on one similarity of the DRR and the X-ray, from the start pose.

    The optimisation-based baselines of the SOPI paper (Table 1). The paper names their similarities and not
    their optimiser, and its published code does not hold them; the papers it cites maximise with CMA-ES
    (Otake et al. 2013; De Silva et al. 2016) or over several resolutions (Liu et al. 2022). Here: Adam
    (Kingma and Ba 2015) through the differentiable projector on six evenly scaled coordinates of the pose
    (:func:`~SOPIRegistrationLib.optimise.descent.maximise_by_gradient`), at most 300 iterations at 256
    pixels, the step halved where it no longer gains; one resolution, whole image, no prior, one start.

    Args:
        problem: what to register.
        stop: whether to end.
        similarity: name in :data:`~SOPIRegistrationLib.similarity.SIMILARITIES`.
    """
    # Torch takes long to import; methods that need none shall not wait for it.
    import torch

    from SOPIRegistrationLib.optimise.descent import maximise_by_gradient
    from SOPIRegistrationLib.projector.autograd import project_differentiable

    measure, images = get_similarity(similarity), _Comparison(problem)
    fixed, valid = torch.from_numpy(images.view.image), torch.from_numpy(images.valid)
    T_world_to_camera = torch.from_numpy(images.view.camera.T_world_to_camera)

    def objective(T_lps_to_world):
        T = (T_world_to_camera @ T_lps_to_world)[None]
        return measure(project_differentiable(images.volume, images.view.camera, T), fixed, valid)[0]

    result = maximise_by_gradient(
        objective,
        problem.T_start,
        problem.frame.centre_lps_mm,
        method="adam",
        max_iterations=_DESCENT_ITERATIONS,
        callback=lambda report: stop(),
    )
    return Estimate(result.T)


def evolve(problem: Problem, stop: Stop, *, similarity: str = "gc") -> Estimate:
    """CMA-ES on one similarity of the DRR and the X-ray, from the start pose.

    The intensity-based benchmark of ProST (IEEE TMI 2024): Hansen and Ostermeier 2001, first generation of
    5 deg, 5 mm in plane and 20 mm in depth, 9 poses a generation, at most 150 generations at 256 pixels.

    Args:
        problem: what to register.
        stop: whether to end.
        similarity: name in :data:`~SOPIRegistrationLib.similarity.SIMILARITIES`.
    """
    measure, images = get_similarity(similarity), _Comparison(problem)
    camera = images.view.camera

    def objective(T_lps_to_world):
        drr = project(images.volume, camera, camera.T_world_to_camera @ T_lps_to_world)
        return measure(drr, images.view.image, images.valid)

    result = maximise_by_cmaes(
        objective,
        problem.T_start,
        problem.frame.centre_lps_mm,
        seed=problem.seed,
        max_iterations=_CMAES_GENERATIONS,
        callback=lambda report: stop(),
    )
    return Estimate(result.T)


def by_pipeline(problem: Problem, stop: Stop, *, init: str | None, refine: str = "opt") -> Estimate:
    """A registration as ``sopi register`` makes it, verified.

    Args:
        problem: what to register.
        stop: whether to end.
        init: initialiser of the pipeline; None for the start pose of the problem.
        refine: its refinement.
    """
    start = problem.T_start if init is None else init
    settings = RegistrationSettings(start, refine, seed=problem.seed, weights=problem.weights)
    result = register(
        problem.ct, [problem.radiograph], problem.frame, settings, callback=lambda progress: stop()
    )
    return Estimate(result.T_lps_to_world, result.verdict.status, result.device)


class _Comparison:
    """X-ray, mask and volume of the baselines: what a whole-image comparison at 256 pixels sees."""

    def __init__(self, problem: Problem):
        moving = compared_volume(problem.ct)
        T = problem.radiograph.camera.T_world_to_camera @ problem.T_start[None]
        self.view = at_level(around_object(problem.radiograph, moving, T), BASELINE_PIXELS)
        self.volume: ProjectorVolume = moving.for_camera(self.view.camera, T[0])
        self.valid: np.ndarray = comparable_pixels(self.view, moving, T)[0]


def compared_volume(ct: PreparedCT) -> MovingVolume:
    """What of a CT is compared with an X-ray: the body, or a segmented bone with its surroundings only."""
    body, bone = moving_volumes(ct).values()
    return bone if bone.is_part else body


_FROM_START = "Adam on theta at 256 pixels, from the start"

METHODS: dict[str, EvaluatedMethod] = {
    "initial": EvaluatedMethod("Initial", "the start pose itself", start_itself),
    "opt-nccl": EvaluatedMethod(
        "Opt-NCCL",
        f"NCC and cosine of Laplacian-of-Gaussian images (Liu 2022); {_FROM_START}",
        partial(descend, similarity="nccl"),
        ("torch",),
    ),
    "opt-ngi": EvaluatedMethod(
        "Opt-NGI",
        f"normalised gradient information (Otake 2013); {_FROM_START}",
        partial(descend, similarity="ngi"),
        ("torch",),
    ),
    "opt-gc": EvaluatedMethod(
        "Opt-GC",
        f"gradient correlation (De Silva 2016); {_FROM_START}",
        partial(descend, similarity="gc"),
        ("torch",),
    ),
    "cma-es": EvaluatedMethod(
        "CMA-ES", "gradient correlation; CMA-ES at 256 pixels, from the start (Gao 2024)", evolve
    ),
    "opt": EvaluatedMethod(
        "opt (ours)",
        "Levenberg-Marquardt from coarse to fine on normalised residuals, from the start and views around it",
        partial(by_pipeline, init=None),
    ),
    "search": EvaluatedMethod(
        "search + opt (ours)",
        "template search about the nominal view, then opt; knows no start",
        partial(by_pipeline, init="search"),
    ),
    "rtpi": EvaluatedMethod(
        "RTPI",
        "pose network alone, from the nominal view; knows no start",
        partial(by_pipeline, init="rtpi", refine="none"),
        ("torch", "safetensors"),
        needs_network=True,
    ),
    "rtpi+opt": EvaluatedMethod(
        "RTPI + opt (ours)",
        "pose network, then opt; knows no start",
        partial(by_pipeline, init="rtpi"),
        ("torch", "safetensors"),
        needs_network=True,
    ),
    "auto": EvaluatedMethod(
        "auto (ours)",
        "pose network (where installed) and nominal view, opt, and the search where these fail; knows no "
        "start",
        partial(by_pipeline, init="auto"),
    ),
}
