"""``sopi train``: a network from simulated X-rays of made-up and given patients, resumable."""

from __future__ import annotations

import argparse

from SOPIRegistrationLib.cli import train_ifr, train_patient, train_rtpi


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    networks = parser.add_subparsers(metavar="NETWORK", required=True)
    rtpi = networks.add_parser(
        "rtpi",
        help="the pose initialiser",
        description="Train the pose initialiser. Goes on from the checkpoint in the folder if there is one.",
    )
    train_rtpi.add_arguments(rtpi)
    ifr = networks.add_parser(
        "ifr",
        help="the learned similarity of the fine registration",
        description="Train the learned similarity of the fine registration. Goes on from the checkpoint in "
        "the folder if there is one.",
    )
    train_ifr.add_arguments(ifr)
    patient = networks.add_parser(
        "patient",
        help="a pose network for one patient, from the CT alone, within minutes",
        description="Train a pose network for one CT and C-arm, before the X-rays are taken. Ctrl-C keeps "
        "the best so far; goes on from the checkpoint in the folder if there is one.",
    )
    train_patient.add_arguments(patient)


def run(args: argparse.Namespace) -> int:
    """Train; InputError for an unusable option or CT."""
    return args.train(args)
