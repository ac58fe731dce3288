"""Intrinsics that a registration has estimated of an X-ray: kept with its node, as long as they are of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from SOPIRegistrationLib.geometry.camera import Camera

_ESTIMATED = "SOPIRegistration.EstimatedCamera"


def keep_estimated(xrayNode, stated: Camera, found: Camera | None, frame: int = 0) -> None:
    """Keep what was estimated of an X-ray's camera, which was stated; None forgets it.

    ``frame``: which of several, counted from 1; 0 for the only one.
    """
    text = None
    if found is not None:
        kept = {"frame": frame, "stated": stated.K.tolist(), "K": found.K.tolist(), "sdd_mm": found.sdd_mm}
        text = json.dumps(kept)
    xrayNode.SetAttribute(_ESTIMATED, text)


def estimated_camera(xrayNode, stated: Camera, frame: int = 0) -> Camera:
    """An X-ray's camera as estimated; as stated where nothing was, or of another frame or statement."""
    text = xrayNode.GetAttribute(_ESTIMATED)
    if not text:
        return stated
    kept = json.loads(text)
    if kept["frame"] != frame or not np.allclose(kept["stated"], stated.K, rtol=1e-9):
        return stated
    return replace(stated, K=np.array(kept["K"]), sdd_mm=kept["sdd_mm"])
