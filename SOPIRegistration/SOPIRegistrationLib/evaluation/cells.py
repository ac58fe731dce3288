"""How figures stand in the cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from SOPIRegistrationLib.evaluation.methods import METHODS
from SOPIRegistrationLib.evaluation.metrics import mean_interval, median_interval, wilson_interval
from SOPIRegistrationLib.evaluation.results import weights_setting
from SOPIRegistrationLib.evaluation.series import SMALLEST_SHOWN, Series


def count_of(one: Series, settings: dict | None = None) -> str:
    """Rows and errors, or why there are none."""
    if one.rows:
        return f"{len(one.rows)} ({one.errors})"
    networks = METHODS[one.name].networks if one.name in METHODS else ()
    trained = all((settings or {}).get(weights_setting(network)) for network in networks)
    return "not run" if trained else "not trained"


def time_of(one: Series, average: Callable) -> str:
    """Seconds, averaged; empty where there are none that mean anything."""
    return number(average(one.values("seconds"))) if one.is_timed else ""


def mean_of(values: np.ndarray) -> str:
    """Mean ± standard deviation [95 % interval of the mean]; empty without values."""
    if not len(values):
        return ""
    low, high = mean_interval(values)
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{number(values.mean())} ± {number(deviation)} [{number(low)}, {number(high)}]"


def median_of(values: np.ndarray) -> str:
    """Median [95 % interval]; empty without values."""
    if not len(values):
        return ""
    low, high = median_interval(values)
    return f"{number(np.median(values))} [{number(low)}, {number(high)}]"


def rate_of(count: int, trials: int) -> str:
    """Per cent [95 % interval]; empty without trials."""
    if not trials:
        return ""
    low, high = wilson_interval(count, trials)
    return f"{100 * count / trials:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def number(value: float) -> str:
    """Three digits."""
    if abs(value) < SMALLEST_SHOWN:
        return f"<{SMALLEST_SHOWN:g}" if value else "0"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def head(names: Sequence[str]) -> list[str]:
    """Heading and rule of a table."""
    return [row_of(*names), "|" + "---|" * len(names)]


def row_of(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
