"""A geometry in words: where each value came from, how far it is to be trusted, what contradicts it."""

from __future__ import annotations

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.contradictions import contradictions, contradictions_of_set
from SOPIRegistrationLib.panel.xray_facts import XrayFacts

_NAMES = {
    "sdd_mm": "source-detector distance",
    "sod_mm": "source-object distance",
    "pixel_spacing_mm": "pixel spacing",
    "principal_point_px": "principal point",
    "K": "intrinsics K",
    "cameras": "cameras",
    "view": "view",
    "mirrored": "stored mirrored",
}


def source_lines(geometry: CArmGeometry) -> list[str]:
    """A line for each source, with the values that come from it and their standard deviations."""
    by_source: dict[str, list[str]] = {}
    for name, source in geometry.with_default_sod().sources.items():
        if name in _NAMES:
            by_source.setdefault(_short(source), []).append(_NAMES[name] + _tolerance(geometry, name))
    return [_sentence(f"{', '.join(names)}: {source}") for source, names in by_source.items()]


def contradiction_lines(geometry: CArmGeometry | None, xray: XrayFacts | None) -> list[str]:
    """A line for each contradiction between an X-ray and its geometry, or within it."""
    if geometry is None:
        return []
    shape, metadata = (None, None) if xray is None else (xray.shape, xray.metadata)
    found = contradictions(geometry, shape, metadata) + contradictions_of_set(geometry)
    return [_sentence(one) for one in found]


def _tolerance(geometry: CArmGeometry, name: str) -> str:
    tolerances = geometry.tolerances
    value, unit = {
        "sdd_mm": (tolerances.sdd_mm, "mm"),
        "principal_point_px": (tolerances.principal_point_px, "px"),
        "pixel_spacing_mm": (tolerances.pixel_spacing_percent, "%"),
    }.get(name, (0.0, ""))
    return f" ± {value:.3g} {unit}" if value else ""


def _short(source: str) -> str:
    """A source without the folders of its path, as the second half of a line."""
    return source.replace("\\", "/").rpartition("/")[2].replace(": ", ", ")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
