"""Layouts with the X-ray: beside fusion and 3D, and beside the CT for picking landmarks.

Needs nothing beyond Python: the application must know the layouts from its start, or a saved scene that uses
one would open with blank views as long as the module has not been opened.
"""

from __future__ import annotations

# Slicer keeps its own layouts below 1000; extensions choose a number of their own.
LAYOUT_ID = 20250
LANDMARK_LAYOUT_ID = 20251
XRAY_VIEW = "XRay"
FUSION_VIEW = "Fusion"

# Own view groups: slice views of the CT that jump to a point must not drag these off the detector.
_VIEW_GROUP = 20250
_SLICE_VIEW = """
  <item><view class="vtkMRMLSliceNode" singletontag="{tag}">
    <property name="orientation" action="default">Axial</property>
    <property name="viewlabel" action="default">{label}</property>
    <property name="viewcolor" action="default">{colour}</property>
    <property name="viewgroup" action="default">{group}</property>
  </view></item>"""
_XRAY = _SLICE_VIEW.format(tag=XRAY_VIEW, label="X", colour="#2E86C1", group=_VIEW_GROUP)
_FUSION = _SLICE_VIEW.format(tag=FUSION_VIEW, label="F", colour="#E67E22", group=_VIEW_GROUP)
_CT = _SLICE_VIEW.format(tag="Red", label="R", colour="#F34A33", group=0)
_3D = """
  <item><view class="vtkMRMLViewNode" singletontag="1">
    <property name="viewlabel" action="default">1</property>
  </view></item>"""
_DESCRIPTIONS = {
    LAYOUT_ID: f'<layout type="horizontal" split="true">{_XRAY}{_FUSION}{_3D}\n</layout>',
    LANDMARK_LAYOUT_ID: f'<layout type="horizontal" split="true">{_XRAY}{_CT}{_3D}\n</layout>',
}


def add_layouts(layoutNode) -> None:
    """Add the descriptions of both layouts to the scene's layout node."""
    for layout_id, description in _DESCRIPTIONS.items():
        if not layoutNode.IsLayoutDescription(layout_id):
            layoutNode.AddLayoutDescription(layout_id, description)
