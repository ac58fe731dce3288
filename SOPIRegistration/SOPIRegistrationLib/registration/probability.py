"""The probability that a pose is right, from the evidence on it.

A logistic regression of a few figures, fitted to poses right and wrong of simulated X-rays of patients and of
strangers (``Testing/studies/fit_verdict.py``). Its coefficients and what they were made from stand in
``Resources/Weights/verdict.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from SOPIRegistrationLib.compare.target import Thresholds
from SOPIRegistrationLib.installed import SHIPPED
from SOPIRegistrationLib.registration.evidence import Evidence

RESOURCE = SHIPPED / "verdict.json"
# Probabilities from which a pose is accepted, or worth a review.
TRUSTED = Thresholds(accept=0.95, review=0.2)
# Nothing that was not tried as often is said to be surer than this.
_SUREST = 0.999
# In less of an X-ray than this, chance finds poses that agree in all figures: of the probability its share is
# left.
_ENOUGH_COMPARED = 0.5
# A margin in fine structure above this says no more than one of this: that no other pose was tried does not
# speak for the one that was.
_MOST_DETAIL_MARGIN = 0.12


def _shortfall(correlation: float) -> float:
    """How near a correlation comes to 1: the more, the nearer."""
    return -math.log(1.02 - min(max(correlation, 0.0), 1.0))


# What the regression sees, each larger for a pose that is rather right.
FEATURES: Mapping[str, Callable[[Evidence], float]] = {
    "agreement": lambda e: _shortfall(e.agreement),
    "fine": lambda e: _shortfall(e.fine),
    "parts": lambda e: _shortfall(e.parts_median),
    "weak parts": lambda e: _shortfall(e.parts_low),
    # One step of Lucas and Kanade sees of a shift the less, the less the parts correlate.
    "together": lambda e: -math.log(min(max(e.apart_mm / max(e.parts_median, 0.02), 0.05), 20.0)),
    "margin": lambda e: e.margin,
    "detail margin": lambda e: min(e.detail_margin, _MOST_DETAIL_MARGIN),
    "turn": lambda e: -math.log(min(max(e.error_deg, 1e-3), 20.0)),
    "share": lambda e: e.share,
    "sharpness": lambda e: -math.log(min(max(e.error_mm, 1e-3), 20.0)),
}


def features(evidence: Evidence, names: list[str] | None = None) -> np.ndarray:
    """(n,) what the regression sees of some evidence; all of ``FEATURES`` unless named."""
    return np.array([FEATURES[name](evidence) for name in names or FEATURES])


@lru_cache(maxsize=1)
def fitted() -> dict:
    """The content of ``RESOURCE``."""
    return json.loads(RESOURCE.read_text(encoding="utf-8"))


def probability_alike(evidence: Evidence, kind: str) -> float | None:
    """0 to 1, that images which agree so where they are compared do so at a right pose; None: nothing fitted.

    ``kind`` names the regression (``TargetKind.judged_as``).
    """
    known = fitted()["kinds"].get(kind)
    if known is None:
        return None
    weights = known["weights"]
    score = known["intercept"] + features(evidence, list(weights)) @ np.array(list(weights.values()))
    return _possible(1 / (1 + np.exp(-np.clip(score, -50, 50))))


def probability_right(evidence: Evidence, kind: str) -> float | None:
    """0 to 1, that a pose lies within 2 mm in the plane, at the object, and 3 deg; None: nothing fitted."""
    alike = probability_alike(evidence, kind)
    return None if alike is None else _possible(alike * min(1.0, evidence.share / _ENOUGH_COMPARED))


def _possible(probability: float) -> float:
    return float(np.clip(probability, 1 - _SUREST, _SUREST))
