"""The layouts of this extension in the application, and the slice views in them."""

from __future__ import annotations

from SOPIRegistrationLib.layouts import (
    CT_PLANES,
    FUSION_VIEW,
    LANDMARK_LAYOUT_ID,
    LAYOUT_ID,
    MOST_XRAYS,
    XRAY_VIEW,
    add_layouts,
    layout_of,
    views_of,
)

__all__ = [
    "CT_PLANES",
    "FUSION_VIEW",
    "LANDMARK_LAYOUT_ID",
    "LAYOUT_ID",
    "MOST_XRAYS",
    "XRAY_VIEW",
    "ensure_layout",
    "layout_of",
    "slice_node",
    "views_of",
]


def ensure_layout(layoutManager, layout_id: int = LAYOUT_ID) -> None:
    """Make a layout known and switch to it: ``LAYOUT_ID``, ``layout_of`` X-rays, ``LANDMARK_LAYOUT_ID``."""
    add_layouts(layoutManager.layoutLogic().GetLayoutNode())
    layoutManager.setLayout(layout_id)


def slice_node(scene, view: str):
    """The slice node of a view (``XRAY_VIEW``, ``FUSION_VIEW``); None before a layout showed it."""
    return scene.GetSingletonNode(view, "vtkMRMLSliceNode")
