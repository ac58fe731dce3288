"""Every method that is compared, behind one interface: a problem in, an estimate out, never the truth.

A method is one entry of ``METHODS``; ``sopi evaluate --methods`` takes its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from SOPIRegistrationLib.compare import compared_target
from SOPIRegistrationLib.compare.objective import comparable_pixels, compared_view
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation import parts
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI, has_weights, installed_weights
from SOPIRegistrationLib.optimise.cmaes import maximise_by_cmaes
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.registration import RegistrationResult, register
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings
from SOPIRegistrationLib.similarity import get_similarity
from SOPIRegistrationLib.subject import Subject

# Images of the papers; the baselines have one resolution.
BASELINE_PIXELS = 256
_DESCENT_ITERATIONS, _CMAES_GENERATIONS = 300, 150

# Networks that only comparisons need: ProST's encoders; IFR's, trained with the projected mask.
DEEP_REG, IFR_MASKED = "deep-reg", "ifr-masked"
# The start pose as it is: takes no time, and nothing to get ready for.
INITIAL = "initial"
# Whose weights `--weights NETWORK=FILE` gives, and what trains them.
NETWORKS = {
    RTPI: "sopi train rtpi",
    PATIENT: "sopi train patient",
    IFR: "sopi train ifr",
    DEEP_REG: "sopi train ifr --network deep-reg-light",
    IFR_MASKED: "sopi train ifr --mask",
}


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        subject: the CT.
        radiographs: prepared X-rays of one world, one or several.
        frame: nominal view, source-object distance and rotation centre, in the first camera.
        T_start: (4, 4) T_lps_to_world of the start, mm; methods that find their own start ignore it.
        seed: of anything random.
        weights: files of weights by network, over the installed ones.
        baseline_pixels: longer edge of the images that the baselines compare.
    """

    subject: Subject
    radiographs: tuple[PreparedRadiograph, ...]
    frame: PoseFrame
    T_start: np.ndarray
    seed: int = 0
    weights: Mapping[str, Path] = field(default_factory=dict)
    baseline_pixels: int = BASELINE_PIXELS


@dataclass(frozen=True)
class Estimate:
    """What a method makes of a problem.

    Attributes:
        T_lps_to_world: (4, 4) pose, mm.
        verdict: "accept", "review" or "reject"; empty for methods that give none.
        device: where it computed.
        result: all that a registration says, where it was one.
    """

    T_lps_to_world: np.ndarray
    verdict: str = ""
    device: str = "cpu"
    result: RegistrationResult | None = None


@dataclass(frozen=True)
class EvaluatedMethod:
    """One entry of the comparison.

    Attributes:
        label: name in tables and plots.
        summary: what it optimises, how and from where, for the report.
        solve: the method; it tells what it has reached several times a second.
        needs: packages without which it does not run.
        networks: whose weights must be there.
    """

    label: str
    summary: str
    solve: Callable[[Problem, Report], Estimate]
    needs: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


def weights_file(network: str, given: Mapping[str, Path]) -> Path | None:
    """File of a network's weights: the given one, else the installed one; None if there is none."""
    if network in given:
        return given[network]
    return installed_weights(network) if has_weights(network) else None


def require_methods(names: Sequence[str], given: Mapping[str, Path]) -> None:
    """Whether methods of these names can run here.

    Args:
        names: of methods.
        given: files of weights by network, over the installed ones.

    Raises:
        InputError: one is unknown, or its package or weights are missing.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"unknown method '{name}': use {', '.join(METHODS)}")
        if missing := _missing(METHODS[name], given):
            raise InputError(f"method {name} {missing}")


def runnable_methods(given: Mapping[str, Path]) -> list[str]:
    """Names of the methods that can run here; arguments as for :func:`require_methods`."""
    return [name for name, method in METHODS.items() if not _missing(method, given)]


def _missing(method: EvaluatedMethod, given: Mapping[str, Path]) -> str:
    """What a method lacks to run, and the remedy; empty if nothing."""
    for package in method.needs:
        if find_spec(package) is None:
            return f"needs the Python package '{package}': pip install it"
    for network in method.networks:
        path = weights_file(network, given)
        if path is None:
            return (
                f"needs the network '{network}', of which no weights are installed: train it "
                f"({NETWORKS[network]}), and give them with --weights {network}=FILE"
            )
        if not path.is_file():
            return f"needs weights {path}, which do not exist: give others with --weights {network}=FILE"
    return ""


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
        for view in _compared_views(problem)
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


def evolve(problem: Problem, report: Report, *, similarity: str = "gc") -> Estimate:
    """CMA-ES on one similarity of the DRR and the X-ray, from the start pose.

    The intensity-based benchmark of ProST (IEEE TMI 2024): Hansen and Ostermeier 2001, first generation of
    5 deg, 5 mm in plane and 20 mm in depth, 9 poses a generation, until they spread by less than a thousandth
    of that, or 150 generations. Several X-rays count alike.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        similarity: name in :data:`~SOPIRegistrationLib.similarity.SIMILARITIES`.
    """
    measure, views = get_similarity(similarity), _compared_views(problem)

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


def by_pipeline(
    problem: Problem,
    report: Report,
    *,
    init: str | None,
    refine: str = "opt",
    similarity: str = IFR,
    mirrored: str = "auto",
    expected: str = "nominal view",
) -> Estimate:
    """A registration as ``sopi register`` makes it, verified.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        init: initialiser of the pipeline; None for the start pose of the problem.
        refine: its refinement.
        similarity: the network that takes the place of IFR's in the learned refinements.
        mirrored: whether it is told that the X-ray is stored mirrored.
        expected: "start" for the problem's start pose in place of the nominal view.
    """
    networks = {RTPI: RTPI, IFR: similarity}
    if init == PATIENT:
        # Given to others it would change them: `auto` asks it first.
        networks[PATIENT] = PATIENT
    files = {role: weights_file(network, problem.weights) for role, network in networks.items()}
    weights = {role: path for role, path in files.items() if path is not None}
    settings = RegistrationSettings(init or GIVEN, refine, mirrored=mirrored, weights=weights)
    start = problem.T_start if init is None or expected == "start" else None
    result = register(problem.subject, problem.radiographs, problem.frame, settings, start, report)
    return Estimate(result.T_lps_to_world, result.verdict.status, result.device, result)


def by_part(problem: Problem, report: Report, *, part: Callable, network: str | None = None) -> Estimate:
    """One of the ``parts`` of a registration by itself.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        part: the part.
        network: whose weights it is given, if it takes any.
    """
    weights = {} if network is None else {"weights": weights_file(network, problem.weights)}
    return Estimate(part(problem, report, **weights))


def in_turn(problem: Problem, report: Report, *, first: Callable, then: Callable) -> Estimate:
    """Two methods, the second from the pose of the first.

    Args:
        problem: what to register.
        report: told every iteration; raises ``Cancelled`` to end.
        first: method, as ``solve``.
        then: method that starts from the start pose of its problem.
    """
    found = first(problem, report)
    return then(replace(problem, T_start=found.T_lps_to_world), report)


class _ComparedView(NamedTuple):
    """What a whole-image comparison sees of an X-ray, and what it projects."""

    image: np.ndarray
    valid: np.ndarray
    camera: Camera
    volume: ProjectorVolume


def _compared_views(problem: Problem) -> list[_ComparedView]:
    """X-rays, masks and volumes of the baselines."""
    target, views, T = compared_target(problem.subject), [], problem.T_start[None]
    moving = target.moving
    for radiograph in problem.radiographs:
        view = compared_view(radiograph, target, T, problem.baseline_pixels)
        valid = comparable_pixels(view, moving, T)[0]
        views.append(_ComparedView(view.image, valid, view.camera, moving.for_camera(view.camera, T[0])))
    return views


_FROM_START = "Adam on theta at one resolution, from the start"
_TORCH, _LEARNED = ("torch",), ("torch", "safetensors")
_OWN_START = "knows no start"
_DEEP_REG_SOLVE = partial(by_pipeline, init=None, refine="sopi", similarity=DEEP_REG)
_SOPI_SOLVE = partial(by_pipeline, init="rtpi", refine="sopi")

METHODS: dict[str, EvaluatedMethod] = {
    INITIAL: EvaluatedMethod("Initial", "the start pose itself", start_itself),
    "opt-nccl": EvaluatedMethod(
        "Opt-NCCL",
        f"NCC and cosine of Laplacian-of-Gaussian images (Liu 2022); {_FROM_START}",
        partial(descend, similarity="nccl"),
        _TORCH,
    ),
    "opt-ngi": EvaluatedMethod(
        "Opt-NGI",
        f"normalised gradient information (Otake 2013); {_FROM_START}",
        partial(descend, similarity="ngi"),
        _TORCH,
    ),
    "opt-gc": EvaluatedMethod(
        "Opt-GC",
        f"gradient correlation (De Silva 2016); {_FROM_START}",
        partial(descend, similarity="gc"),
        _TORCH,
    ),
    "cma-es": EvaluatedMethod(
        "CMA-ES", "gradient correlation; CMA-ES at one resolution, from the start (Gao 2024)", evolve
    ),
    "deep-reg": EvaluatedMethod(
        "Deep-reg",
        "similarity learned by ProST's encoders (Gao 2020), from the start",
        _DEEP_REG_SOLVE,
        _LEARNED,
        (DEEP_REG,),
    ),
    "deep-reg+cma-es": EvaluatedMethod(
        "Deep-reg + CMA-ES",
        "similarity learned by ProST's encoders, then gradient correlation by CMA-ES (Gao 2024), from the "
        "start",
        partial(in_turn, first=_DEEP_REG_SOLVE, then=evolve),
        _LEARNED,
        (DEEP_REG,),
    ),
    "rtpi": EvaluatedMethod(
        "RTPI",
        f"pose network alone, from the nominal view; {_OWN_START}",
        partial(by_pipeline, init="rtpi", refine="none"),
        _LEARNED,
        (RTPI,),
    ),
    "ifr": EvaluatedMethod(
        "IFR",
        "learned fine registration alone, from the start",
        partial(by_pipeline, init=None, refine="sopi"),
        _LEARNED,
        (IFR,),
    ),
    "sopi": EvaluatedMethod(
        "SOPI",
        f"pose network, then learned fine registration; {_OWN_START}",
        _SOPI_SOLVE,
        _LEARNED,
        (RTPI, IFR),
    ),
    "sopi+opt-gc": EvaluatedMethod(
        "SOPI + Opt-GC",
        f"the paper's SOPI+opt: SOPI, then Opt-GC; {_OWN_START}",
        partial(in_turn, first=_SOPI_SOLVE, then=partial(descend, similarity="gc")),
        _LEARNED,
        (RTPI, IFR),
    ),
    "sopi-no-ce": EvaluatedMethod(
        "SOPI without composite encoder",
        f"pose network, then the similarity learned by ProST's encoders; {_OWN_START}",
        partial(by_pipeline, init="rtpi", refine="sopi", similarity=DEEP_REG),
        _LEARNED,
        (RTPI, DEEP_REG),
    ),
    "sopi-masked": EvaluatedMethod(
        "SOPI with mask loss",
        f"pose network, then fine registration learned with the projected bone mask; {_OWN_START}",
        partial(by_pipeline, init="rtpi", refine="sopi", similarity=IFR_MASKED),
        _LEARNED,
        (RTPI, IFR_MASKED),
    ),
    "patient": EvaluatedMethod(
        "Patient-specific",
        f"network trained on this patient's CT alone (Zhang 2023), from the nominal view; {_OWN_START}",
        partial(by_pipeline, init="patient", refine="none"),
        _LEARNED,
        (PATIENT,),
    ),
    "patient+physics": EvaluatedMethod(
        "Patient-specific + physics",
        f"the same, then opt with DRRs of an X-ray beam at its fine levels; {_OWN_START}",
        partial(by_pipeline, init="patient", refine="physics"),
        _LEARNED,
        (PATIENT,),
    ),
    "opt": EvaluatedMethod(
        "opt (ours)",
        "Levenberg-Marquardt from coarse to fine on normalised residuals, from the start and views around it",
        partial(by_pipeline, init=None),
    ),
    "physics": EvaluatedMethod(
        "physics (ours)",
        "as opt, with DRRs of an X-ray beam at the fine levels",
        partial(by_pipeline, init=None, refine="physics"),
    ),
    "search": EvaluatedMethod(
        "search + opt (ours)",
        f"template search about the nominal view, then opt; {_OWN_START}",
        partial(by_pipeline, init="search"),
    ),
    "rtpi+opt": EvaluatedMethod(
        "RTPI + opt (ours)",
        f"pose network, then opt; {_OWN_START}",
        partial(by_pipeline, init="rtpi"),
        _LEARNED,
        (RTPI,),
    ),
    "sopi+opt": EvaluatedMethod(
        "SOPI + opt (ours)",
        f"pose network, learned fine registration, then opt; {_OWN_START}",
        partial(by_pipeline, init="rtpi", refine="sopi+opt"),
        _LEARNED,
        (RTPI, IFR),
    ),
    "rtpi-look": EvaluatedMethod(
        "RTPI, first answer",
        f"the pose of which the pose network is surest, not brought onto the X-ray; {_OWN_START}",
        partial(by_part, part=parts.first_answer, network=RTPI),
        _LEARNED,
        (RTPI,),
    ),
    "patient-look": EvaluatedMethod(
        "Patient-specific, first answer",
        f"the same of the network trained on this patient's CT; {_OWN_START}",
        partial(by_part, part=parts.first_answer, network=PATIENT),
        _LEARNED,
        (PATIENT,),
    ),
    "ifr-alone": EvaluatedMethod(
        "IFR alone",
        "L_N minimised from the start alone, unverified, by what the network was trained for",
        partial(by_part, part=parts.learned_alone, network=IFR),
        _LEARNED,
        (IFR,),
    ),
    "ifr-descent": EvaluatedMethod(
        "IFR alone, descent",
        "L_N minimised from the start alone, unverified, by the published descent",
        partial(by_part, part=partial(parts.learned_alone, inference="descent"), network=IFR),
        _LEARNED,
        (IFR,),
    ),
    "fine": EvaluatedMethod(
        "fine levels",
        "the fine levels of opt from the start alone, unverified",
        partial(by_part, part=partial(parts.fine_levels, physics=False, plain=True)),
    ),
    "fine-physics": EvaluatedMethod(
        "fine levels, physics",
        f"the fine levels with DRRs of a beam of {parts.BELIEVED_BEAM.tube_voltage_kv:g} kV, from the start "
        "alone, unverified",
        partial(by_part, part=partial(parts.fine_levels, physics=True, plain=False)),
    ),
    "fine-physics+opt": EvaluatedMethod(
        "fine levels, physics, then plain",
        "the same, then the fine levels of opt",
        partial(by_part, part=partial(parts.fine_levels, physics=True, plain=True)),
    ),
    "auto": EvaluatedMethod(
        "auto (ours)",
        "pose network (where installed) and nominal view, opt, and the search where these fail; "
        f"{_OWN_START}",
        partial(by_pipeline, init="auto"),
    ),
}
