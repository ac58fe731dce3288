"""``sopi train``: a network from simulated X-rays of made-up and given patients, resumable."""

from __future__ import annotations

import argparse
import platform
from dataclasses import fields, replace
from pathlib import Path

from SOPIRegistrationLib.cli import train_patient
from SOPIRegistrationLib.cli.common import has_cuda
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.images.itk_reading import require_file

RTPI_NETWORKS = ("comparing", "published", "light")
IFR_NETWORKS = ("light", "published", "deep-reg", "deep-reg-light")
# Of these, the ones for CPUs, whose losses are not the published ones unless asked for.
_IN_SMALL = ("light", "deep-reg-light")
_COUNTS = (
    *("steps", "patients", "group", "starts", "corrections", "phantoms", "pool", "validate_every"),
    *("validation_patients", "devices", "machines"),
)
_SHARES = (
    *("strength", "bones", "parts", "c_arms", "structures", "regions"),
    *("elsewhere", "rolled", "shifted"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    networks = parser.add_subparsers(metavar="NETWORK", required=True)
    rtpi = networks.add_parser(
        "rtpi",
        help="the pose initialiser",
        description="Train the pose initialiser. Goes on from the checkpoint in the folder if there is one.",
    )
    add_rtpi_arguments(rtpi)
    ifr = networks.add_parser(
        "ifr",
        help="the learned similarity of the fine registration",
        description="Train the learned similarity of the fine registration. Goes on from the checkpoint in "
        "the folder if there is one.",
    )
    add_ifr_arguments(ifr)
    patient = networks.add_parser(
        "patient",
        help="a pose network for one patient, from the CT alone, within minutes",
        description="Train a pose network for one CT and C-arm, before the X-rays are taken. Ctrl-C keeps "
        "the best so far; goes on from the checkpoint in the folder if there is one.",
    )
    train_patient.add_arguments(patient)


def add_rtpi_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sopi train rtpi``."""
    _add_common_arguments(parser, 0.02)
    parser.add_argument(
        "--network",
        choices=RTPI_NETWORKS,
        default="comparing",
        help="corrects a pose by comparing X-ray and DRR (comparing); the paper's two branches (published); "
        "the same in small (light)",
    )
    parser.add_argument(
        "--nominal-starts",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="starts at the nominal view, 0 to 1 (0.2), the others some 20 degrees from the true one",
    )
    parser.add_argument(
        "--corrections",
        type=int,
        default=1,
        metavar="N",
        help="times that a pose is corrected in a row, network comparing (1, as in use)",
    )
    parser.add_argument(
        "--starts", type=int, default=3, metavar="N", help="poses from which an X-ray is approached (3)"
    )
    parser.set_defaults(train=train_rtpi)


def add_ifr_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sopi train ifr``."""
    _add_common_arguments(parser, 0.01)
    parser.add_argument(
        "--network",
        choices=IFR_NETWORKS,
        default="light",
        help="the paper's composite encoders in small, for CPUs (light), in full (published), or ProST's "
        "encoders, in full (deep-reg) or in small (deep-reg-light)",
    )
    parser.add_argument(
        "--direction",
        type=float,
        metavar="X",
        help="weight of the published loss, the direction of the gradient (in small 0.3, else 1)",
    )
    parser.add_argument(
        "--step",
        type=float,
        metavar="X",
        help="weight of the loss of a least-squares step (in small 1, else 0)",
    )
    parser.add_argument(
        "--distance",
        type=float,
        metavar="X",
        help="weight of the loss of the similarity as a distance between poses (in small 0.4, else 0)",
    )
    parser.add_argument(
        "--plain-mm",
        action="store_true",
        help="translations of the direction in mm on all axes, as published, instead of depth at a tenth",
    )
    parser.add_argument(
        "--mask",
        action=argparse.BooleanOptionalAction,
        help="compare X-ray and DRR where the CT's bones project, or all over (published: where bones are)",
    )
    parser.add_argument(
        "--corrections",
        type=int,
        default=2,
        metavar="N",
        help="times that a pose is corrected in a row, where steps are trained (2)",
    )
    parser.set_defaults(train=train_ifr, starts=1)


def _add_common_arguments(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of checkpoint, log.csv and weights"
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="begin with these weights instead of random ones (of the same --network)",
    )
    parser.add_argument(
        "--ct",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="real CTs to train on besides the phantoms",
    )
    parser.add_argument(
        "--views",
        nargs="+",
        choices=list(NOMINAL_VIEWS),
        default=list(NOMINAL_VIEWS),
        metavar="VIEW",
        help="nominal views of the X-rays (all); one alone is learned far sooner",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="X",
        help="largest of the X-rays' degradations, 0 to 1 (1); less is learned sooner",
    )
    parser.add_argument(
        "--bones",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="patients of whom CT and X-ray show bones alone, 0 to 1 (0.15); more is learned sooner",
    )
    parser.add_argument(
        "--c-arms",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="patients X-rayed with random C-arms, 0 to 1 (0.5), the others with a Perlove PLX118F",
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="stop after so long even before the last step; the same command goes on from there",
    )
    parser.add_argument("--steps", type=int, default=20_000, metavar="N", help="batches (20000)")
    parser.add_argument(
        "--patients", type=int, default=8, metavar="N", help="patients in a batch of a process (8)"
    )
    parser.add_argument("--group", type=int, default=4, metavar="N", help="X-rays of each patient (4)")
    parser.add_argument(
        "--structures",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="patients made of random structures instead of an anatomy, in any orientation, 0 to 1 (0.4)",
    )
    parser.add_argument(
        "--regions",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of the others, those of other regions than the trunk: knees, wrists, hips, heads, chests, long "
        "bones, bent spines, 0 to 1 (0.4)",
    )
    parser.add_argument(
        "--parts",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="patients of whose bones the CT shows one, segmented, in an X-ray of all, 0 to 1 (0.15)",
    )
    parser.add_argument(
        "--elsewhere",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="X-rays centred anywhere along the CT, 0 to 1 (0.5), the others near the middle of its bones",
    )
    parser.add_argument(
        "--rolled",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="X-rays turned by any angle, 0 to 1 (0.3), the others upright",
    )
    parser.add_argument(
        "--shifted",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="X-rays in which the rotation centre lies anywhere, 0 to 1 (0.3), the others near the middle",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        metavar="X",
        help=f"highest ({learning_rate:g})",
    )
    parser.add_argument(
        "--phantoms", type=int, default=80, metavar="N", help="different phantoms, each varied on and on (80)"
    )
    parser.add_argument(
        "--pool", type=int, default=48, metavar="N", help="patients in memory at once, in each process (48)"
    )
    parser.add_argument(
        "--validate-every", type=int, default=250, metavar="N", help="steps between validations (250)"
    )
    parser.add_argument(
        "--validation-patients", type=int, default=12, metavar="N", help="phantoms kept for that (12)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(auto)")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs, or processes on the CPU, of each machine (1)",
    )
    parser.add_argument("--machines", type=int, default=1, metavar="N", help="started alike on each (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (0)")


def run(args: argparse.Namespace) -> int:
    """Train.

    Raises:
        InputError: an option or a CT is unusable.
    """
    return args.train(args)


def train_rtpi(args: argparse.Namespace) -> int:
    """Train a pose initialiser; leaves weights with their model card in the folder.

    Raises:
        InputError: an option or a CT is unusable.
    """
    _require_share(args, "nominal_starts")
    _check(args)
    from SOPIRegistrationLib.networks.comparing import ComparingConfig
    from SOPIRegistrationLib.networks.two_branch import CONFIGURATIONS
    from SOPIRegistrationLib.training.rtpi import ComparingTask, TwoBranchTask

    if args.network == "comparing":
        task = ComparingTask(ComparingConfig(), args.corrections)
    else:
        task = TwoBranchTask(CONFIGURATIONS[args.network])
    card = {
        "name": f"RTPI pose initialiser ({args.network})",
        "intended_use": "Start poses for the registration of a CT to X-rays, over the `wide` range of poses "
        "about a nominal view; always followed by refinement and verification.",
    }
    return _train(args, task, "rtpi", card, "bf16-mixed")


def train_ifr(args: argparse.Namespace) -> int:
    """Train a learned similarity; leaves weights with their model card in the folder.

    Raises:
        InputError: an option or a CT is unusable.
    """
    defaults = (0.3, 1.0, 0.4) if args.network in _IN_SMALL else (1.0, 0.0, 0.0)
    chosen = (args.direction, args.step, args.distance)
    direction, step, distance = (
        value if given is None else given for value, given in zip(defaults, chosen, strict=True)
    )
    for name, value in (("direction", direction), ("step", step), ("distance", distance)):
        if value < 0:
            raise InputError(f"--{name} is {value:g}: give 0 or more")
    if not direction + step:
        raise InputError("--direction and --step are both 0: give one of them a weight")
    _check(args)
    from SOPIRegistrationLib.networks.composite import CONFIGURATIONS, CompositeSimilarity
    from SOPIRegistrationLib.networks.prost import CONFIGURATIONS as PROST_CONFIGURATIONS
    from SOPIRegistrationLib.networks.prost import ProstSimilarity
    from SOPIRegistrationLib.training.ifr import (
        MISJUDGED,
        START_DEVIATION,
        EmbeddingTask,
        IFRLossWeights,
    )

    if args.network in PROST_CONFIGURATIONS:
        make, config = ProstSimilarity, PROST_CONFIGURATIONS[args.network]
    else:
        make, config = CompositeSimilarity, CONFIGURATIONS[args.network]
    # What was trained for its steps is used by them.
    config = replace(config, inference="least squares" if step else "descent")
    if args.mask is not None:
        config = replace(config, masked=args.mask)
    weights = IFRLossWeights(direction, step, distance, args.plain_mm)
    task = EmbeddingTask(make, config, weights, args.corrections)
    args.start_deviation, args.misjudged = START_DEVIATION, MISJUDGED
    card = {
        "name": f"IFR learned similarity ({args.network})",
        "intended_use": "Refinement of poses some 10 degrees and 20 mm off, as `sopi register --refine sopi` "
        "and `sopi+opt` do it; always followed by verification.",
    }
    name = "deep-reg" if make is ProstSimilarity else "ifr"
    # Differences of features are too small for half the digits.
    name += {None: "", True: "-masked", False: "-no-mask"}[args.mask]
    return _train(args, task, name, card, "32-true")


def _check(args: argparse.Namespace) -> None:
    for name in _COUNTS:
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give 1 or more")
    if args.time_limit is not None and not args.time_limit > 0:
        raise InputError(f"--time-limit is {args.time_limit:g}: give seconds above 0")
    for name in _SHARES:
        _require_share(args, name)
    if args.patients > args.pool:
        raise InputError(f"--patients {args.patients} of --pool {args.pool}: give a larger pool")


def _require_share(args: argparse.Namespace, name: str) -> None:
    value = getattr(args, name)
    if not 0 <= value <= 1:
        raise InputError(f"--{name.replace('_', '-')} is {value:g}: give 0 to 1")


def _train(args: argparse.Namespace, task, name: str, card: dict[str, str], precision: str) -> int:
    """Train a task's network; leaves ``NAME.safetensors`` and its model card, begun with ``card``."""
    cts = [require_file(path, "CT") for path in args.ct]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {args.out} ({error.strerror}): give another --out") from None

    import torch
    from lightning_fabric import Fabric

    from SOPIRegistrationLib.networks.weights import load_weights, model_card, save_weights
    from SOPIRegistrationLib.training.pair_training import PairSettings, PairTraining
    from SOPIRegistrationLib.training.placement import OnFabric
    from SOPIRegistrationLib.training.precision import has_bfloat16
    from SOPIRegistrationLib.training.trainer import Trainer

    cuda = has_cuda(args.device)
    torch.manual_seed(args.seed)
    several = args.devices * args.machines > 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=args.devices,
        num_nodes=args.machines,
        strategy="ddp" if several else "auto",
        precision=precision if cuda or has_bfloat16() else "32-true",
    )
    fabric.launch()
    names = {field.name for field in fields(PairSettings)}
    asked = vars(args) | {"views": tuple(args.views)}
    settings = PairSettings(**{name: value for name, value in asked.items() if name in names})
    network = task.network()
    if args.start is not None:
        start = load_weights(require_file(args.start, "weights")).network
        if type(start) is not type(network) or start.config != network.config:
            raise InputError(f"--start {args.start} holds another network than --network {args.network}")
        network.load_state_dict(start.state_dict())
    pairs = PairTraining(task, settings, cts, args.out / "phantoms")
    trained = Trainer(OnFabric(fabric), args.out, pairs, network, settings, _print_progress).run()
    if fabric.is_global_zero:
        card = card | _facts(args, trained)
        path = args.out / f"{name}.safetensors"
        save_weights(path, trained.network, card, half=True)
        (args.out / "MODEL_CARD.md").write_text(model_card(card))
        print(f"wrote {path}, MODEL_CARD.md and log.csv")
    return 0


def _print_progress(progress) -> None:
    """A line that a program can follow as well as a person."""
    if progress.said:
        print(f"progress {progress.fraction:.4f} {progress.said}", flush=True)


def _facts(args: argparse.Namespace, trained) -> dict:
    """Entries of the model card that all networks have."""
    best = trained.best
    figures = {
        "validation phantoms, median": "{rotation_deg:.2f} deg, {in_plane_mm:.2f} mm in plane, "
        "{depth_mm:.1f} mm in depth".format(**best),
        "90th percentile": "{rotation_p90_deg:.2f} deg, {in_plane_p90_mm:.2f} mm, "
        "{depth_p90_mm:.1f} mm".format(**best),
        "at step": f"{best['step']} of {trained.steps}",
    }
    names = ", ".join(path.name for path in args.ct)
    return {
        "limits": [
            "Trained on simulated X-rays of procedural phantoms; what is unlike them is outside what it saw.",
            "Not a medical device. Its poses are to be verified.",
        ],
        "data": [
            f"views: {', '.join(args.views)}; degradations up to {args.strength:g}",
            f"{args.phantoms} procedural lumbar phantoms, bent, scaled and of other density for each patient",
            f"random structures, each seen once, in any orientation: {args.structures:.0%} of the patients",
            f"procedural phantoms of other regions (knee, wrist, hip, head, chest, long bones, bent spine): "
            f"{args.regions:.0%} of the others",
            f"one segmented bone in an X-ray of all: {args.parts:.0%}; centred anywhere along the CT: "
            f"{args.elsewhere:.0%}; at any roll: {args.rolled:.0%}; anywhere in the image: "
            f"{args.shifted:.0%}",
            f"real CTs, varied likewise: {names or 'none'}",
            f"{trained.count} simulated X-rays with random geometry, intensity curve, noise, scatter, blur, "
            "collimation and metal",
        ],
        "steps": trained.steps,
        "hours": round(trained.seconds / 3600, 2),
        "machine": f"{processor()}, {platform.system()} {platform.machine()}, "
        f"{args.devices * args.machines} {'process(es)' if args.device != 'cuda' else 'GPU(s)'}",
        "figures": figures,
        "licence": "BSD-3-Clause, as the program",
    }
