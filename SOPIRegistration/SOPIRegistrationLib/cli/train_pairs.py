"""Training on X-rays of many patients: options, checks, and the way to weights with a model card."""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from SOPIRegistrationLib.cli.common import has_cuda
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.images.itk_reading import require_file

_COUNTS = (
    *("steps", "patients", "group", "starts", "corrections", "phantoms", "pool", "validate_every"),
    *("validation_patients", "devices", "machines"),
)
_SHARES = (
    *("strength", "bones", "parts", "c_arms", "structures", "regions"),
    *("elsewhere", "rolled", "shifted"),
)


@dataclass(frozen=True)
class Asked:
    """What is to be trained.

    Attributes:
        task: a ``training.pair_training.PairTask``.
        name: of the file of weights.
        card: how the model card begins.
        precision: of Lightning Fabric, where the device has it.
        settings: of the training that the network sets, over the options.
    """

    task: Any
    name: str
    card: dict[str, str]
    precision: str
    settings: dict[str, Any] = field(default_factory=dict)


def add_common_arguments(parser: argparse.ArgumentParser, learning_rate: float) -> None:
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


def check(args: argparse.Namespace) -> None:
    """Check the options that all networks have.

    Raises:
        InputError: one is out of its range.
    """
    for name in _COUNTS:
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give 1 or more")
    if args.time_limit is not None and not args.time_limit > 0:
        raise InputError(f"--time-limit is {args.time_limit:g}: give seconds above 0")
    for name in _SHARES:
        require_share(args, name)
    if args.patients > args.pool:
        raise InputError(f"--patients {args.patients} of --pool {args.pool}: give a larger pool")


def require_share(args: argparse.Namespace, name: str) -> None:
    """Raise InputError unless an option is a share, 0 to 1."""
    value = getattr(args, name)
    if not 0 <= value <= 1:
        raise InputError(f"--{name.replace('_', '-')} is {value:g}: give 0 to 1")


def train(args: argparse.Namespace) -> int:
    """Train what ``args.asked_for`` makes of the options; leaves ``NAME.safetensors`` and its model card.

    Raises:
        InputError: an option, a CT or weights are unusable, or the folder.
    """
    asked = args.asked_for(args)
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
        precision=asked.precision if cuda or has_bfloat16() else "32-true",
    )
    fabric.launch()
    names = {one.name for one in fields(PairSettings)}
    options = vars(args) | {"views": tuple(args.views)} | asked.settings
    settings = PairSettings(**{name: value for name, value in options.items() if name in names})
    network = asked.task.network()
    if args.start is not None:
        start = load_weights(require_file(args.start, "weights")).network
        if type(start) is not type(network) or start.config != network.config:
            raise InputError(f"--start {args.start} holds another network than --network {args.network}")
        network.load_state_dict(start.state_dict())
        settings = replace(settings, validate_first=True)
    pairs = PairTraining(asked.task, settings, cts, args.out / "phantoms")
    trained = Trainer(OnFabric(fabric), args.out, pairs, network, settings, _print_progress).run()
    if fabric.is_global_zero:
        card = asked.card | _facts(args, trained)
        path = args.out / f"{asked.name}.safetensors"
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
        "failures (3 deg, 3 mm in the plane)": "{failures:.0%}".format(**best),
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
