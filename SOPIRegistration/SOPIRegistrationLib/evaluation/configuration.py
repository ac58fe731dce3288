"""What to evaluate, from a TOML file or from the options of the command line: both are read here.

``Docs/evaluation.md`` tells every key. Paths are relative to the file's folder; keys of a group that stand at
the top are those of every group that does not give its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation.bent import BentCases
from SOPIRegistrationLib.evaluation.case_list import cases_of_rows
from SOPIRegistrationLib.evaluation.cases import CaseSource, TruthDeviation, digest
from SOPIRegistrationLib.evaluation.configuration_keys import (
    BENT,
    DETECTOR,
    GROUP,
    LISTED,
    OF_BENT,
    OF_GEOMETRY,
    OF_TRUTH,
    PIPELINE,
    SIMULATED,
    STARTS,
    TOP,
    VARIANT,
    XRAY,
    Kind,
    is_number,
)
from SOPIRegistrationLib.evaluation.detector import Detector
from SOPIRegistrationLib.evaluation.figures import COLUMNS
from SOPIRegistrationLib.evaluation.listed import ListedCases, read_cases_file
from SOPIRegistrationLib.evaluation.methods import (
    METHODS,
    NETWORKS,
    EvaluatedMethod,
    Pipeline,
    require_methods,
    runnable_methods,
)
from SOPIRegistrationLib.evaluation.problem import BASELINE_PIXELS, Estimate, Problem
from SOPIRegistrationLib.evaluation.runner import Evaluation, Group, default_workers
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.evaluation.starts import BoundedStarts, DrawnStarts, Starts
from SOPIRegistrationLib.geometry.tolerances import EXACT
from SOPIRegistrationLib.progress import Report
from SOPIRegistrationLib.settings import GIVEN, RegistrationSettings

CASES_BY_DEFAULT = 20
METHODS_BY_DEFAULT = ("initial", "opt", "search")


def read_configuration(path: Path) -> dict:
    """The content of a configuration.

    Raises:
        InputError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"configuration {path} cannot be read ({error.strerror}): correct --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"configuration {path} is no TOML ({error}): correct the file") from None


def evaluation_of(content: dict, path: Path | None = None) -> Evaluation:
    """The evaluation that a configuration describes, of a file or of the command line's options; InputError
    if unusable."""
    return _Reader(path).evaluation(content)


class _Reader:
    """Turns tables into what they stand for; says where something is wrong."""

    def __init__(self, path: Path | None):
        self._where = "the options" if path is None else f"configuration {path}"
        self._folder = Path() if path is None else path.parent
        self._path = path

    def evaluation(self, content: dict) -> Evaluation:
        self._check(content, TOP)
        weights = self._weights(content.get("weights", {}), "weights")
        variants, settings = {}, {}
        for name, table in content.get("variants", {}).items():
            variants[name], settings[name] = self._variant(name, table)
        for name in variants:
            if name in METHODS:
                raise InputError(f"{self._where}: variant {name} is called as a method is: rename it")
        shared = {key: value for key, value in content.items() if key in GROUP}
        tables = content.get("groups", [{}])
        groups = tuple(self._group(shared, table, len(tables) > 1, weights, variants) for table in tables)
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise InputError(f"{self._where}: two groups have one name: rename one")
        return Evaluation(
            groups,
            content.get("seed", 1),
            float(content.get("timeout_s", 300.0)),
            content.get("workers", default_workers()),
            weights,
            content.get("baseline_pixels", BASELINE_PIXELS),
            content.get("fresh", False),
            variants,
            settings,
            content.get("title", "Evaluation"),
            tuple(content.get("tables", ())),
        )

    def _check(self, table: dict, keys: Mapping[str, Kind], of: str = "") -> None:
        """Whether a table has known keys with possible values only.

        Raises:
            InputError: it has not.
        """
        where = f"{self._where}{of}"
        for key, value in table.items():
            if key not in keys:
                raise InputError(f"{where} has an unknown key '{key}': it may have {', '.join(keys)}")
            if not keys[key].is_one(value):
                raise InputError(f"{where}: {key} is {value!r}: give {keys[key].said}")

    def _file(self, text: str) -> Path:
        return self._folder / Path(text).expanduser()

    def _existing(self, text: str, what: str) -> Path:
        path = self._file(text)
        if not path.exists():
            raise InputError(f"{self._where}: {what} {path} does not exist: correct its path")
        return path

    def _weights(self, table: dict, what: str) -> dict[str, Path]:
        for network, file in table.items():
            if network not in NETWORKS or not isinstance(file, str):
                raise InputError(
                    f"{self._where}: {what} has {network} = {file!r}: give files of {', '.join(NETWORKS)}"
                )
        return {network: self._file(file) for network, file in table.items()}

    def _variant(self, name: str, table: dict) -> tuple[EvaluatedMethod, dict]:
        """A method of its own, and what it depends on."""
        of = f", variant {name}"
        if not isinstance(table, dict):
            raise InputError(f"{self._where}{of} is {table!r}: give a table of {', '.join(VARIANT)}")
        self._check(table, VARIANT, of)
        weights = self._weights(table.get("weights", {}), f"variant {name}: weights")
        for network, file in weights.items():
            if not file.is_file():
                raise InputError(f"{self._where}{of}: weights of {network}, {file}, do not exist: train them")
        settings = {key: table[key] for key in PIPELINE if key in table}
        settings |= {f"weights of {network}": digest(file) for network, file in weights.items()}
        if "method" in table:
            if set(PIPELINE[1:]) & table.keys():
                raise InputError(
                    f"{self._where}{of} has a method, and {', '.join(PIPELINE[1:])}: give one of both"
                )
            base = METHODS[table["method"]]
            summary = table.get("summary", base.summary)
            networks = tuple(network for network in base.networks if network not in weights)
            solve = partial(_with_weights, solve=base.solve, weights=weights)
            return replace(base, label=name, summary=summary, solve=solve, networks=networks), settings
        init, refine = table.get("init", "auto"), table.get("refine", "opt")
        mirrored = table.get("mirrored", "auto")
        try:
            RegistrationSettings(init, refine, mirrored=mirrored, weights=weights)
        except InputError as error:
            raise InputError(f"{self._where}{of}: {error}") from None
        start = None if init == GIVEN else init
        expected = table.get("expected", "nominal view")
        solve = Pipeline(start, refine, mirrored=mirrored, expected=expected)
        summary = table.get("summary", f"--init {init} --refine {refine}")
        return EvaluatedMethod(name, summary, partial(_with_weights, solve=solve, weights=weights)), settings

    def _group(
        self, shared: dict, table: dict, named: bool, weights: dict[str, Path], variants: dict
    ) -> Group:
        name = table.get("name", "")
        of = f", group {name}" if name else ""
        self._check(table, GROUP, of)
        if named and not name:
            raise InputError(f"{self._where}: a group has no name: give each one")
        table = shared | table
        methods = table.get("methods", list(METHODS_BY_DEFAULT))
        methods = runnable_methods(weights) if methods == ["all"] else list(dict.fromkeys(methods))
        try:
            require_methods([method for method in methods if method not in variants], weights)
        except InputError as error:
            raise InputError(str(error) if self._path is None else f"{self._where}{of}: {error}") from None
        within = tuple(table.get("within", {}).items())
        for column, most in within:
            if column not in COLUMNS or not is_number(most):
                raise InputError(
                    f"{self._where}{of}: within has {column} = {most!r}: give a column of errors, such as "
                    "mpd_object_mm, and a number"
                )
        source = self._source(table, of)
        cases, first = table.get("cases", CASES_BY_DEFAULT), table.get("first", 0)
        if isinstance(source, ListedCases):
            cases = min(table.get("cases", source.count), source.count)
        return Group(name, source, tuple(methods), range(first, first + cases), within)

    def _source(self, table: dict, of: str) -> CaseSource:
        if "bent" in table:
            return self._bent(table, of)
        if not any(key in table for key in LISTED):
            return self._simulated(table, of)
        return self._listed(table, of)

    def _listed(self, table: dict, of: str) -> ListedCases:
        listed = next(key for key in LISTED if key in table)
        for key in SIMULATED:
            if key in table:
                raise InputError(
                    f"{self._where}{of}: {key} is for simulated cases: leave it out with {listed}"
                )
        starts = None
        if "starts" in table:
            starts = self._starts(table["starts"], table.get("seed", 1), of)
        deviation = self._truth_deviation(table, of)
        if "cases_file" in table and "xrays" in table:
            raise InputError(f"{self._where}{of}: give cases_file or xrays, not both")
        if "cases_file" in table:
            source = read_cases_file(self._file(table["cases_file"]), starts)
            return replace(source, truth_deviation=deviation)
        if "xrays" not in table:
            raise InputError(f"{self._where}{of}: starts are for cases of your own: give cases_file or xrays")
        rows = [(f"X-ray {number}", row) for number, row in enumerate(table["xrays"], 1)]
        for place, row in rows:
            self._check(row, XRAY, f"{of}, {place}")
        path = self._path or Path("options")
        return ListedCases(path, cases_of_rows(path, rows), starts, deviation)

    def _truth_deviation(self, table: dict, of: str) -> TruthDeviation | None:
        given = table.get("truth_deviation")
        if given is None:
            return None
        self._check(given, OF_TRUTH, f"{of}, truth_deviation")
        missing = [key for key in OF_TRUTH if key not in given]
        if missing:
            raise InputError(f"{self._where}{of}: truth_deviation has no {missing[0]}: give it")
        return TruthDeviation(**given)

    def _starts(self, table: dict, seed: int, of: str) -> Starts:
        self._check(table, STARTS, f"{of}, starts")
        if "number" not in table:
            raise InputError(f"{self._where}{of}: starts has no number: say how many of each case")
        bounds = [key for key in ("angle_deg", "shift_mm") if key in table]
        if bounds and ("protocol" in table or len(bounds) < 2):
            raise InputError(f"{self._where}{of}: starts has {bounds[0]}: give angle_deg and shift_mm alone")
        if bounds:
            return BoundedStarts(table["number"], table["angle_deg"], table["shift_mm"], seed)
        return DrawnStarts(table["number"], table.get("protocol", "paper"), seed)

    def _bent(self, table: dict, of: str) -> BentCases:
        self._check(table["bent"], BENT, f"{of}, bent")
        for key in (*SIMULATED, *LISTED):
            if key in table and key not in OF_BENT:
                raise InputError(f"{self._where}{of}: {key} does not go with bent: leave it out")
        given = {key: table[key] for key in ("views", "pixels", "seed") if key in table} | table["bent"]
        cts = tuple(self._existing(file, "CT") for file in table.get("ct", ()))
        maps = tuple(self._existing(file, "label map") for file in given.pop("label_maps", ()))
        if len(maps) != (0 if table.get("labels") else len(cts)):
            raise InputError(
                f"{self._where}{of}: bent has {len(maps)} label maps for {len(cts)} CTs: give one for each, "
                "or labels = true where ct names label maps of bones"
            )
        if "detector" in table:
            self._check(table["detector"], DETECTOR, f"{of}, detector")
            given["detector"] = Detector(**table["detector"])
        if "chain" in given:
            given["chain"] = tuple(given["chain"])
        return BentCases(cts=cts, label_maps=maps, **given)

    def _simulated(self, table: dict, of: str) -> SimulatedCases:
        given = {key: table[key] for key in SIMULATED if key in table}
        given["cts"] = tuple(self._existing(file, "CT") for file in given.pop("ct", ()))
        if "detector" in given:
            self._check(given["detector"], DETECTOR, f"{of}, detector")
            given["detector"] = Detector(**given["detector"])
        for key in ("geometry_error", "geometry_tolerance"):
            if key in given:
                self._check(given[key], OF_GEOMETRY, f"{of}, {key}")
                given[key] = replace(EXACT, **given[key])
        if given.get("labels") and not given["cts"]:
            raise InputError(f"{self._where}{of}: labels says that ct is a label map: give ct")
        if given.get("stranger") == "other" and len(given["cts"]) == 1:
            raise InputError(
                f"{self._where}{of}: another patient's X-ray needs two CTs or more: give ct more"
            )
        known = {one.name for one in fields(SimulatedCases)}
        return SimulatedCases(
            seed=table.get("seed", 1), **{key: value for key, value in given.items() if key in known}
        )


def _with_weights(
    problem: Problem,
    report: Report,
    *,
    solve: Callable[[Problem, Report], Estimate],
    weights: Mapping[str, Path],
) -> Estimate:
    """A method with weights of its own."""
    return solve(replace(problem, weights={**problem.weights, **weights}), report)
