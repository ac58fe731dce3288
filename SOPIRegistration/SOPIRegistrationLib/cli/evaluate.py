"""``sopi evaluate``: how every method does, on simulated cases or on a user's own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.cases import (
    CONTENTS,
    PHANTOMS_BY_DEFAULT,
    CaseSource,
    SimulatedCases,
    read_cases_file,
)
from SOPIRegistrationLib.evaluation.methods import METHODS, require_methods
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
        help=f"names with commas or spaces between, or all: {', '.join(METHODS)} "
        f"({' '.join(_METHODS_BY_DEFAULT)})",
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="poses: paper (start and target drawn with the paper's numbers as variances, deg^2 and mm^2) or "
        "wide (target drawn with them as standard deviations, deg and mm; start at the nominal view) (paper)",
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
        "there are truth and start (result.json or transform), mask, camera",
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
    parser.add_argument("--weights", type=Path, metavar="FILE", help="other weights of the pose network")
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
    methods = tuple(_names(args.methods))
    _require_numbers(args)
    source = _source(args)
    require_methods(list(methods), args.weights)
    source.check()
    cases = args.cases or CASES_BY_DEFAULT
    if not isinstance(source, SimulatedCases):
        cases = min(args.cases or len(source.cases), len(source.cases))
    evaluation = Evaluation(source, methods, cases, args.seed, args.timeout, args.workers, args.weights)
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


def _names(words: list[str]) -> list[str]:
    """Method names, each once, from words with commas."""
    names = [name for word in words for name in word.lower().split(",") if name]
    return list(METHODS) if names == ["all"] else list(dict.fromkeys(names))


def _require_numbers(args: argparse.Namespace) -> None:
    for name, least in (("cases", 1), ("seed", 0), ("pixels", _LEAST_PIXELS), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}: give {least} or more")
    if not args.timeout > 0:
        raise InputError(f"--timeout is {args.timeout:g} s: give more than 0")


def _source(args: argparse.Namespace) -> CaseSource:
    """The cases that were asked for.

    Raises:
        InputError: the cases file is unusable, or given together with options of simulated cases.
    """
    options = {name: getattr(args, name) for name in ("protocol", "target", "content", "view", "pixels")}
    chosen = {name: value for name, value in options.items() if value is not None}
    if args.cases_file is None:
        return SimulatedCases(cts=tuple(args.ct), seed=args.seed, **chosen)
    if args.ct or chosen:
        name = "ct" if args.ct else next(iter(chosen))
        raise InputError(f"--{name} is for simulated cases: leave it out with --cases-file")
    return read_cases_file(args.cases_file)
