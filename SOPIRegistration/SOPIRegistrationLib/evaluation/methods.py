"""Every method that is compared, behind one interface: a problem in, an estimate out, never the truth.

A method is one entry of ``METHODS``; ``sopi evaluate --methods`` takes its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation import parts
from SOPIRegistrationLib.evaluation.baselines import descend, evolve, start_itself
from SOPIRegistrationLib.evaluation.problem import Estimate, Problem
from SOPIRegistrationLib.installed import IFR, PATIENT, RTPI, has_weights, installed_weights
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.registration import register
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings

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
    """Raise InputError where a method is unknown, or its package, or weights (installed or ``given``) are
    missing."""
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


@dataclass(frozen=True)
class Pipeline:
    """A registration as ``sopi register`` makes it, verified.

    Attributes:
        init: initialiser; None for the start pose of the problem.
        refine: its refinement.
        similarity: the network that takes the place of IFR's in the learned refinements.
        mirrored: whether it is told that the X-ray is stored mirrored.
        expected: "start" for the problem's start pose in place of the nominal view.
    """

    init: str | None = None
    refine: str = "opt"
    similarity: str = IFR
    mirrored: str = "auto"
    expected: str = "nominal view"

    def settings(self, given: Mapping[str, Path]) -> RegistrationSettings:
        """How it registers.

        Args:
            given: files of weights by network, over the installed ones.
        """
        networks = {RTPI: RTPI, IFR: self.similarity}
        if self.init == PATIENT:
            # Given to others it would change them: `auto` asks it first.
            networks[PATIENT] = PATIENT
        files = {role: weights_file(network, given) for role, network in networks.items()}
        weights = {role: path for role, path in files.items() if path is not None}
        return RegistrationSettings(self.init or GIVEN, self.refine, mirrored=self.mirrored, weights=weights)

    def __call__(self, problem: Problem, report: Report) -> Estimate:
        """Register; ``report`` is told every iteration and raises ``Cancelled`` to end."""
        start = problem.T_start if self.init is None or self.expected == "start" else None
        settings = self.settings(problem.weights)
        result = register(problem.subject, problem.radiographs, problem.frame, settings, start, report)
        return Estimate(result.T_lps_to_world, result.verdict.status, result.device, result)


def by_part(problem: Problem, report: Report, *, part: Callable, network: str | None = None) -> Estimate:
    """One of the ``parts`` of a registration by itself, with the weights of a network if it takes any."""
    weights = {} if network is None else {"weights": weights_file(network, problem.weights)}
    return Estimate(part(problem, report, **weights))


def in_turn(problem: Problem, report: Report, *, first: Callable, then: Callable) -> Estimate:
    """Two methods, each as ``solve``; the second from the pose of the first."""
    found = first(problem, report)
    return then(replace(problem, T_start=found.T_lps_to_world), report)


_FROM_START = "Adam on theta at one resolution, from the start"
_TORCH, _LEARNED = ("torch",), ("torch", "safetensors")
_OWN_START = "knows no start"


def by_bodies(problem: Problem, report: Report, *, as_one_piece: bool = False) -> Estimate:
    """Of several bodies the one that is asked for: all are registered at once.

    ``as_one_piece`` takes the pose of the piece, before it was released. Raises InputError where there is one
    body only.
    """
    if problem.several is None:
        raise InputError("the X-ray has one body only: this method is for cases with a key bent")
    result = problem.several.registered(report)
    body = next(one for one in result.bodies if one.name == problem.body)
    if as_one_piece:
        return Estimate(body.initial_T, seconds=result.seconds)
    return Estimate(body.T_lps_to_world, body.verdict.status, result=result.of(body), seconds=result.seconds)


_DEEP_REG_SOLVE = Pipeline(refine="sopi", similarity=DEEP_REG)
_SOPI_SOLVE = Pipeline(init="rtpi", refine="sopi")

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
        Pipeline(init="rtpi", refine="none"),
        _LEARNED,
        (RTPI,),
    ),
    "ifr": EvaluatedMethod(
        "IFR",
        "learned fine registration alone, from the start",
        Pipeline(refine="sopi"),
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
        Pipeline(init="rtpi", refine="sopi", similarity=DEEP_REG),
        _LEARNED,
        (RTPI, DEEP_REG),
    ),
    "sopi-masked": EvaluatedMethod(
        "SOPI with mask loss",
        f"pose network, then fine registration learned with the projected bone mask; {_OWN_START}",
        Pipeline(init="rtpi", refine="sopi", similarity=IFR_MASKED),
        _LEARNED,
        (RTPI, IFR_MASKED),
    ),
    "patient": EvaluatedMethod(
        "Patient-specific",
        f"network trained on this patient's CT alone (Zhang 2023), from the nominal view; {_OWN_START}",
        Pipeline(init="patient", refine="none"),
        _LEARNED,
        (PATIENT,),
    ),
    "patient+physics": EvaluatedMethod(
        "Patient-specific + physics",
        f"the same, then opt with DRRs of an X-ray beam at its fine levels; {_OWN_START}",
        Pipeline(init="patient", refine="physics"),
        _LEARNED,
        (PATIENT,),
    ),
    "opt": EvaluatedMethod(
        "opt (ours)",
        "Levenberg-Marquardt from coarse to fine on normalised residuals, from the start and views around it",
        Pipeline(),
    ),
    "physics": EvaluatedMethod(
        "physics (ours)",
        "as opt, with DRRs of an X-ray beam at the fine levels",
        Pipeline(refine="physics"),
    ),
    "piece": EvaluatedMethod(
        "as one piece",
        "of several bodies: opt of the CT that they were cut from, as if it were rigid",
        partial(by_bodies, as_one_piece=True),
    ),
    "bodies": EvaluatedMethod(
        "bodies (ours)", "of several bodies: as one piece, then released, all jointly", by_bodies
    ),
    "search": EvaluatedMethod(
        "search + opt (ours)",
        f"template search about the nominal view, then opt; {_OWN_START}",
        Pipeline(init="search"),
    ),
    "rtpi+opt": EvaluatedMethod(
        "RTPI + opt (ours)",
        f"pose network, then opt; {_OWN_START}",
        Pipeline(init="rtpi"),
        _LEARNED,
        (RTPI,),
    ),
    "sopi+opt": EvaluatedMethod(
        "SOPI + opt (ours)",
        f"pose network, learned fine registration, then opt; {_OWN_START}",
        Pipeline(init="rtpi", refine="sopi+opt"),
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
        "pose network (where installed) and nominal view, then all that the X-ray may be, each with opt, "
        f"until one agrees; {_OWN_START}",
        Pipeline(init="auto"),
    ),
}
