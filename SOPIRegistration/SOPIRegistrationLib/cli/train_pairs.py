"""Training on X-rays of many patients: options, checks, and the way to weights with a model card."""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from SOPIRegistrationLib.cli.common import add_settings, has_cuda, make_folder, require_range, require_ranges
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.training.settings import PairSettings

# Of ``PairSettings``, what every network is asked for.
_PATIENTS = ("bones", "structures", "regions", "parts", "phantoms")
_XRAYS = ("views", "strength", "c_arms", "elsewhere", "rolled", "shifted")
_TRAINING = (
    *("steps", "time_limit", "patients", "group", "pool", "learning_rate"),
    *("validate_every", "validation_patients", "seed"),
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


def add_common_arguments(parser: argparse.ArgumentParser, *more: str, **defaults) -> None:
    """What is asked for whatever network is trained.

    Args:
        parser: of the subcommand.
        more: names of other ``PairSettings``, of the X-rays, that this network is asked for.
        defaults: in place of those of the settings.
    """
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
    groups = (("patients", _PATIENTS), ("X-rays", (*_XRAYS, *more)), ("training", _TRAINING))
    for title, names in groups:
        add_settings(parser.add_argument_group(title), PairSettings, names, **defaults)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(auto)")
    machine.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs, or processes on the CPU, of each machine (1)",
    )
    machine.add_argument("--machines", type=int, default=1, metavar="N", help="started alike on each (1)")


def check(args: argparse.Namespace) -> None:
    """Check the options that all networks have.

    Raises:
        InputError: one is out of its range.
    """
    require_ranges(args, PairSettings)
    for name in ("corrections", "devices", "machines"):
        require_range(name, getattr(args, name), 1)
    if args.time_limit is not None and not args.time_limit > 0:
        raise InputError(f"--time-limit is {args.time_limit:g}: give seconds above 0")
    if args.patients > args.pool:
        raise InputError(f"--patients {args.patients} of --pool {args.pool}: give a larger pool")


def train(args: argparse.Namespace) -> int:
    """Train what ``args.asked_for`` makes of the options; leaves ``NAME.safetensors`` and its model card.

    Raises:
        InputError: an option, a CT or weights are unusable, or the folder.
    """
    asked = args.asked_for(args)
    cts = [require_file(path, "CT") for path in args.ct]
    make_folder(args.out)

    import torch

    from SOPIRegistrationLib.networks.weights import model_card, save_weights
    from SOPIRegistrationLib.training.pair_training import PairTraining
    from SOPIRegistrationLib.training.placement import OnFabric
    from SOPIRegistrationLib.training.trainer import Trainer

    torch.manual_seed(args.seed)
    fabric = _fabric(args, asked.precision)
    names = {one.name for one in fields(PairSettings)}
    options = vars(args) | {"views": tuple(args.views)} | asked.settings
    settings = PairSettings(**{name: value for name, value in options.items() if name in names})
    network = asked.task.network()
    if args.start is not None:
        _take_weights(network, args.start, args.network)
        settings = replace(settings, validate_first=True)
    pairs = PairTraining(asked.task, settings, cts, args.out / "phantoms")
    trained = Trainer(OnFabric(fabric), args.out, pairs, network, settings, _print_progress).run()
    if fabric.is_global_zero:
        card = asked.card | _facts(args, trained)
        path = args.out / f"{asked.name}.safetensors"
        save_weights(path, trained.network, card, half=True)
        (args.out / "MODEL_CARD.md").write_text(model_card(card), encoding="utf-8")
        print(f"wrote {path}, MODEL_CARD.md and log.csv")
    return 0


def _fabric(args: argparse.Namespace, precision: str):
    """Lightning Fabric on the devices asked for, launched; with ``precision`` where they have it."""
    from lightning_fabric import Fabric

    from SOPIRegistrationLib.training.precision import has_bfloat16

    cuda = has_cuda(args.device)
    several = args.devices * args.machines > 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=args.devices,
        num_nodes=args.machines,
        strategy="ddp" if several else "auto",
        precision=precision if cuda or has_bfloat16() else "32-true",
    )
    fabric.launch()
    return fabric


def _take_weights(network, file: Path, name: str) -> None:
    """Put the weights of a file into a network.

    Raises:
        InputError: they are unusable, or of another network than the one of this name.
    """
    from SOPIRegistrationLib.networks.weights import load_weights

    start = load_weights(require_file(file, "weights")).network
    if type(start) is not type(network) or start.config != network.config:
        raise InputError(f"--start {file} holds another network than --network {name}")
    network.load_state_dict(start.state_dict())


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
