"""``sopi evaluate``: how every method does, on simulated cases or on a user's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from SOPIRegistrationLib.cli.common import parse_weights, require_range
from SOPIRegistrationLib.cli.main import INTERRUPTED
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.configuration import (
    CASES_BY_DEFAULT,
    METHODS_BY_DEFAULT,
    evaluation_of,
    read_configuration,
)
from SOPIRegistrationLib.evaluation.configuration_keys import LEAST_PIXELS
from SOPIRegistrationLib.evaluation.methods import METHODS, NETWORKS
from SOPIRegistrationLib.evaluation.problem import BASELINE_PIXELS
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.report import TABLE, write_report
from SOPIRegistrationLib.evaluation.results import RESULTS, Results
from SOPIRegistrationLib.evaluation.runner import run as run_all
from SOPIRegistrationLib.evaluation.simulated import CONTENTS, PHANTOMS_BY_DEFAULT
from SOPIRegistrationLib.evaluation.targets import TARGETS
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS

_NUMBERS = ("cases", "seed", "baseline_pixels", "workers")
_SIMULATED = ("protocol", "target", "content", "view", "pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of results.csv, table.md, plots and report.html; a stopped run, or one with more "
        "cases or methods, continues there",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="what to evaluate, in place of the options for it; --methods, --cases, --seed, --ct, --weights, "
        "--timeout and --baseline-pixels go before what it says",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="LIST",
        help=f"names with commas or spaces between, or all that can run here: {', '.join(METHODS)} "
        f"({' '.join(METHODS_BY_DEFAULT)})",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NETWORK=FILE",
        help=f"other weights than the installed ones; networks: {', '.join(NETWORKS)}; a plain FILE is of "
        f"{next(iter(NETWORKS))}",
    )
    _add_simulated(parser.add_argument_group("simulated cases"))
    _add_listed(parser.add_argument_group("cases of your own"))
    _add_running(parser.add_argument_group("running"))


def _add_simulated(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="poses: paper (start and target drawn with the paper's numbers as variances, deg^2 and mm^2), "
        "wide (target drawn with them as standard deviations, deg and mm; start at the nominal view), "
        "near (start 1.5 deg and mm from the target, 5 mm in depth), around (target up to 30 deg and 20 "
        "mm from the nominal view, which is the start) or any-view (as paper, but with any roll, half of "
        "them mirrored, half from behind, anywhere along the CT; start at the nominal view); with "
        "--starts, how far these are off (paper)",
    )
    group.add_argument(
        "--target",
        choices=list(TARGETS),
        help="X-rays: our projector without noise, as in the papers; RTK on the CT's own grid with little "
        "noise; with noise and an intensity curve; with a beam of 80 kV and scatter; with scatter, "
        "collimation and metal besides (rtk)",
    )
    group.add_argument(
        "--ct",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"CTs: DICOM series folders, NIfTI, NRRD or MHA, in HU (default: {PHANTOMS_BY_DEFAULT} "
        "phantoms)",
    )
    group.add_argument(
        "--content",
        choices=CONTENTS,
        help="bone takes all but bone (above 200 HU) out of CT and X-ray, as in the papers (body)",
    )
    group.add_argument(
        "--cases",
        type=int,
        metavar="N",
        help=f"how many ({CASES_BY_DEFAULT}; with --cases-file all of it)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of everything random, 0 or more (1)")
    group.add_argument("--view", type=str.upper, choices=list(NOMINAL_VIEWS), help="nominal view (AP)")
    group.add_argument(
        "--pixels", type=int, metavar="N", help="rows and columns of simulated X-rays of 204 mm (256)"
    )


def _add_listed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cases-file",
        type=Path,
        metavar="FILE.csv",
        help="your own cases in place of simulated ones, one a line: columns ct, xray, geometry, and where "
        "there are truth and start (result.json or transform), mask, camera, case (X-rays with the same one "
        "are registered jointly)",
    )
    group.add_argument(
        "--starts",
        type=int,
        metavar="N",
        help="register each of your own cases from N starts drawn about its truth, in place of its start",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--baseline-pixels",
        type=int,
        metavar="N",
        help="longer edge of the images that the baselines compare; at 128 they take a third of the time "
        f"({BASELINE_PIXELS}, as in the papers)",
    )
    group.add_argument("--timeout", type=float, metavar="S", help="limit of a registration, seconds (300)")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, the cores shared between them; a registration alone uses several cores, so that "
        "seconds are comparable only at the same number (one for every four cores)",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask scheduler, such as tcp://host:8786: run on its workers, which see the same files, in "
        "place of processes of this machine",
    )
    group.add_argument("--retry", action="store_true", help="run cases that ended with an error once more")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write the report.

    Returns:
        0; 130 where it was interrupted (finished rows are kept).

    Raises:
        InputError: an option, the configuration, a CT or the cases file is unusable, or the folder holds
            another evaluation.
    """
    _require_numbers(args)
    content = _content(args)
    evaluation = evaluation_of(content, args.config)
    evaluation.check()
    results = Results(args.out, evaluation.settings())
    total = len(evaluation.tasks)
    left = len(results.missing(evaluation.tasks, args.retry))
    try:
        with tqdm(total=total, initial=total - left, desc="evaluation", unit="row", disable=None) as bar:
            run_all(evaluation, results, bar.update, args.retry, args.scheduler)
        files = write_report(evaluation, results)
    except KeyboardInterrupt:
        print(
            f"sopi evaluate: interrupted; {len(results.rows)} rows are in {args.out / RESULTS}, the same "
            "command continues",
            file=sys.stderr,
        )
        return INTERRUPTED
    finally:
        results.close()
    print((args.out / TABLE).read_text(encoding="utf-8"))
    print(f"written  {args.out}: {', '.join([RESULTS, *files])}")
    return 0


def _content(args: argparse.Namespace) -> dict:
    """What the options say, as a configuration would; over what the configuration says if there is one.

    Raises:
        InputError: the configuration cannot be read, or options do not go together.
    """
    weights = parse_weights(args.weights, list(NETWORKS))
    methods = [name for word in args.methods or () for name in word.lower().split(",") if name]
    said = {
        "methods": methods,
        "ct": [str(path.absolute()) for path in args.ct or ()],
        "weights": {name: str(path) for name, path in weights.items()},
        "timeout_s": args.timeout,
        **{name: getattr(args, name) for name in (*_NUMBERS, *_SIMULATED)},
    }
    said = {name: value for name, value in said.items() if value not in (None, [], {})}
    if args.config is None:
        return said | _listed(args, said)
    if weights:
        said["weights"] = {name: str(path.absolute()) for name, path in weights.items()}
    return _configured(args, said)


def _configured(args: argparse.Namespace, said: dict) -> dict:
    """What the configuration says; what the options say goes before it, in its groups, too.

    Raises:
        InputError: it cannot be read, or options do not go with one.
    """
    for name in (*_SIMULATED, "cases_file", "starts"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} does not go with --config: write {name} into {args.config}")
    content = read_configuration(args.config)
    groups = content.get("groups")
    if isinstance(groups, list) and all(isinstance(group, dict) for group in groups):
        content["groups"] = [
            {key: value for key, value in group.items() if key not in said} for group in groups
        ]
    return content | said


def _listed(args: argparse.Namespace, said: dict) -> dict:
    """The user's own cases; their starts take the protocol.

    Raises:
        InputError: options of simulated and of listed cases are mixed.
    """
    if args.cases_file is None:
        if args.starts is not None:
            raise InputError("--starts is for cases of your own: give them with --cases-file")
        return {}
    listed: dict = {"cases_file": str(args.cases_file)}
    if args.starts is not None:
        listed["starts"] = {"number": args.starts, "protocol": said.pop("protocol", "paper")}
    for name in ("ct", *_SIMULATED):
        if name in said:
            raise InputError(f"--{name} is for simulated cases: leave it out with --cases-file")
    return listed


def _require_numbers(args: argparse.Namespace) -> None:
    sizes = dict.fromkeys(("pixels", "baseline_pixels"), LEAST_PIXELS)
    for name, least in {"cases": 1, "starts": 1, "seed": 0, "workers": 1, **sizes}.items():
        value = getattr(args, name)
        if value is not None:
            require_range(name, value, least)
    if args.timeout is not None and not args.timeout > 0:
        raise InputError(f"--timeout is {args.timeout:g} s: give more than 0")
