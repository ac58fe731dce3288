"""``sopi train ifr``: the learned similarity of the fine registration."""

from __future__ import annotations

import argparse
from dataclasses import replace

from SOPIRegistrationLib.cli.common import require_range
from SOPIRegistrationLib.cli.train_pairs import Asked, add_common_arguments, check, train
from SOPIRegistrationLib.errors import InputError

NETWORKS = ("light", "published", "deep-reg", "deep-reg-light")
# Of these, the ones for CPUs, whose losses are not the published ones unless asked for.
_IN_SMALL = ("light", "deep-reg-light")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_common_arguments(parser, "close", learning_rate=0.01, close=0.3)
    parser.add_argument(
        "--network",
        choices=NETWORKS,
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
    parser.set_defaults(train=train, asked_for=asked_for)


def asked_for(args: argparse.Namespace) -> Asked:
    """What is to be trained.

    Raises:
        InputError: an option is unusable.
    """
    defaults = (0.3, 1.0, 0.4) if args.network in _IN_SMALL else (1.0, 0.0, 0.0)
    chosen = (args.direction, args.step, args.distance)
    direction, step, distance = (
        value if given is None else given for value, given in zip(defaults, chosen, strict=True)
    )
    for name, value in (("direction", direction), ("step", step), ("distance", distance)):
        require_range(name, value, 0)
    if not direction + step:
        raise InputError("--direction and --step are both 0: give one of them a weight")
    check(args)
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
    settings = {"start_deviation": START_DEVIATION, "misjudged": MISJUDGED, "cut": True}
    card = {
        "name": f"IFR learned similarity ({args.network})",
        "intended_use": "Refinement of poses some 10 degrees and 20 mm off, as `sopi register --refine sopi` "
        "and `sopi+opt` do it; always followed by verification.",
    }
    name = "deep-reg" if make is ProstSimilarity else "ifr"
    # Differences of features are too small for half the digits.
    name += {None: "", True: "-masked", False: "-no-mask"}[args.mask]
    return Asked(task, name, card, "32-true", settings)
