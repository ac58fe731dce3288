"""``sopi train rtpi``: the pose initialiser."""

from __future__ import annotations

import argparse

from SOPIRegistrationLib.cli.train_pairs import Asked, add_common_arguments, check, train

NETWORKS = ("comparing", "published", "light")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_common_arguments(parser, "nominal_starts", "starts", nominal_starts=0.2, starts=3)
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        default="comparing",
        help="corrects a pose by comparing X-ray and DRR (comparing); the paper's two branches (published); "
        "the same in small (light)",
    )
    parser.add_argument(
        "--corrections",
        type=int,
        default=1,
        metavar="N",
        help="times that a pose is corrected in a row, network comparing (1, as in use)",
    )
    parser.set_defaults(train=train, asked_for=asked_for)


def asked_for(args: argparse.Namespace) -> Asked:
    """What is to be trained.

    Raises:
        InputError: an option is unusable.
    """
    check(args)
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
    return Asked(task, "rtpi", card, "bf16-mixed")
