"""``sopi evaluate``: how every method does, on simulated cases or on a user's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from SOPIRegistrationLib.cli.common import parse_weights
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.cases import (
    CONTENTS,
    PHANTOMS_BY_DEFAULT,
    CaseSource,
    DrawnStarts,
    SimulatedCases,
    read_cases_file,
)
from SOPIRegistrationLib.evaluation.methods import (
    BASELINE_PIXELS,
    METHODS,
    NETWORKS,
    require_methods,
    runnable_methods,
)
from SOPIRegistrationLib.evaluation.protocols import PROTOCOLS
from SOPIRegistrationLib.evaluation.report import TABLE, write_report
from SOPIRegistrationLib.evaluation.runner import (
    RESULTS,
    Evaluation,
    Results,
    default_workers,
)
from SOPIRegistrationLib.evaluation.runner import (
    run as run_all,
)
from SOPIRegistrationLib.evaluation.targets import TARGETS
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS

CASES_BY_DEFAULT = 20
_METHODS_BY_DEFAULT = ("initial", "opt", "search")
_INTERRUPTED = 130
_LEAST_PIXELS = 32


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
        "--methods",
        nargs="+",
        default=list(_METHODS_BY_DEFAULT),
        metavar="LIST",
        help=f"names with commas or spaces between, or all that can run here: {', '.join(METHODS)} "
        f"({' '.join(_METHODS_BY_DEFAULT)})",
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="poses: paper (start and target drawn with the paper's numbers as variances, deg^2 and mm^2) or "
        "wide (target drawn with them as standard deviations, deg and mm; start at the nominal view); with "
        "--starts, how far these are off (paper)",
    )
    parser.add_argument(
        "--target",
        choices=list(TARGETS),
        help="X-rays: our projector without noise, as in the papers; RTK on the CT's own grid with noise "
        "and an intensity curve; RTK with scatter, collimation and metal besides (rtk)",
    )
    parser.add_argument(
        "--ct",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"CTs: DICOM series folders, NIfTI, NRRD or MHA, in HU (default: {PHANTOMS_BY_DEFAULT} "
        "phantoms)",
    )
    parser.add_argument(
        "--content",
        choices=CONTENTS,
        help="bone takes all but bone (above 200 HU) out of CT and X-ray, as in the papers (body)",
    )
    parser.add_argument(
        "--cases-file",
        type=Path,
        metavar="FILE.csv",
        help="your own cases in place of simulated ones, one a line: columns ct, xray, geometry, and where "
        "there are truth and start (result.json or transform), mask, camera, case (X-rays with the same one "
        "are registered jointly)",
    )
    parser.add_argument(
        "--starts",
        type=int,
        metavar="N",
        help="register each of your own cases from N starts drawn about its truth, in place of its start",
    )
    parser.add_argument(
        "--cases",
        type=int,
        metavar="N",
        help=f"how many ({CASES_BY_DEFAULT}; with --cases-file all of it)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of everything random, 0 or more (1)"
    )
    parser.add_argument("--view", type=str.upper, choices=list(NOMINAL_VIEWS), help="nominal view (AP)")
    parser.add_argument(
        "--pixels", type=int, metavar="N", help="rows and columns of simulated X-rays of 204 mm (256)"
    )
    parser.add_argument(
        "--baseline-pixels",
        type=int,
        default=BASELINE_PIXELS,
        metavar="N",
        help="longer edge of the images that the baselines compare; at 128 they take a third of the time "
        f"({BASELINE_PIXELS}, as in the papers)",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NETWORK=FILE",
        help=f"other weights than the installed ones; networks: {', '.join(NETWORKS)}; a plain FILE is of "
        f"{next(iter(NETWORKS))}",
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="limit of a registration, seconds (300)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help="processes, the cores shared between them; a registration alone uses several cores, so that "
        f"seconds are comparable only at the same number (one for every four cores: {default_workers()} "
        "here)",
    )
    parser.add_argument("--retry", action="store_true", help="run cases that ended with an error once more")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write the report.

    Returns:
        0; 130 where it was interrupted (finished rows are kept).

    Raises:
        InputError: an option, a CT or the cases file is unusable, or the folder holds another evaluation.
    """
    weights = parse_weights(args.weights, list(NETWORKS))
    methods = tuple(_names(args.methods, weights))
    _require_numbers(args)
    source = _source(args)
    require_methods(methods, weights)
    source.check()
    cases = args.cases or CASES_BY_DEFAULT
    if not isinstance(source, SimulatedCases):
        cases = min(args.cases or source.count, source.count)
    evaluation = Evaluation(
        source, methods, cases, args.seed, args.timeout, args.workers, weights, args.baseline_pixels
    )
    results = Results(args.out, evaluation.settings())
    left = sum(len(names) for _, names in results.missing(evaluation, args.retry))
    total = cases * len(methods)
    try:
        with tqdm(total=total, initial=total - left, desc="evaluation", unit="row", disable=None) as bar:
            run_all(evaluation, results, bar.update, args.retry)
    except KeyboardInterrupt:
        print(
            f"sopi evaluate: interrupted; {len(results.rows)} rows are in {args.out / RESULTS}, the same "
            "command continues",
            file=sys.stderr,
        )
        return _INTERRUPTED
    files = write_report(args.out, source, results.settings, results.rows)
    print((args.out / TABLE).read_text(encoding="utf-8"))
    print(f"written  {args.out}: {', '.join([RESULTS, *files])}")
    return 0


def _names(words: list[str], weights: dict[str, Path]) -> list[str]:
    """Method names, each once, from words with commas."""
    names = [name for word in words for name in word.lower().split(",") if name]
    return runnable_methods(weights) if names == ["all"] else list(dict.fromkeys(names))


def _require_numbers(args: argparse.Namespace) -> None:
    sizes = dict.fromkeys(("pixels", "baseline_pixels"), _LEAST_PIXELS)
    for name, least in {"cases": 1, "starts": 1, "seed": 0, "workers": 1, **sizes}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {value}: give {least} or more")
    if not args.timeout > 0:
        raise InputError(f"--timeout is {args.timeout:g} s: give more than 0")


def _source(args: argparse.Namespace) -> CaseSource:
    """The cases that were asked for.

    Raises:
        InputError: the cases file is unusable, or options of simulated and of listed cases are mixed.
    """
    options = {name: getattr(args, name) for name in ("protocol", "target", "content", "view", "pixels")}
    chosen = {name: value for name, value in options.items() if value is not None}
    if args.cases_file is None:
        if args.starts is not None:
            raise InputError("--starts is for cases of your own: give them with --cases-file")
        return SimulatedCases(cts=tuple(args.ct), seed=args.seed, **chosen)
    starts = None
    if args.starts is not None:
        starts = DrawnStarts(args.starts, chosen.pop("protocol", "paper"), args.seed)
    if args.ct or chosen:
        name = "ct" if args.ct else next(iter(chosen))
        raise InputError(f"--{name} is for simulated cases: leave it out with --cases-file")
    return read_cases_file(args.cases_file, starts)
