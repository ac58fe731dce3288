"""Layouts: fusion large with X-ray and 3D beside it; X-ray, bones and three CT planes for picking landmarks.

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
  <item splitSize="{share}"><view class="vtkMRMLSliceNode" singletontag="{tag}">
    <property name="orientation" action="default">{orientation}</property>
    <property name="viewlabel" action="default">{label}</property>
    <property name="viewcolor" action="default">{colour}</property>
    <property name="viewgroup" action="default">{group}</property>
  </view></item>"""

CT_PLANES = ("Red", "Green", "Yellow")


def _slice_view(tag, label, colour, orientation="Axial", group=_VIEW_GROUP, share=500) -> str:
    return _SLICE_VIEW.format(
        tag=tag, label=label, colour=colour, orientation=orientation, group=group, share=share
    )


def _split(kind: str, items: str) -> str:
    return f'<layout type="{kind}" split="true">{items}\n</layout>'


_XRAY = _slice_view(XRAY_VIEW, "X", "#2E86C1")
_FUSION = _slice_view(FUSION_VIEW, "F", "#E67E22", share=640)
_CT = (
    _slice_view("Red", "R", "#F34A33", "Axial", group=0, share=333),
    _slice_view("Green", "G", "#6EB04B", "Coronal", group=0, share=333),
    _slice_view("Yellow", "Y", "#EDD54C", "Sagittal", group=0, share=333),
)
_3D = """
  <item splitSize="500"><view class="vtkMRMLViewNode" singletontag="1">
    <property name="viewlabel" action="default">1</property>
  </view></item>"""
_DESCRIPTIONS = {
    LAYOUT_ID: _split(
        "horizontal", f'{_FUSION}\n<item splitSize="360">{_split("vertical", _XRAY + _3D)}</item>'
    ),
    LANDMARK_LAYOUT_ID: _split(
        "horizontal",
        f'\n<item splitSize="400">{_split("vertical", _XRAY)}</item>'
        f'\n<item splitSize="340">{_split("vertical", _3D)}</item>'
        f'\n<item splitSize="260">{_split("vertical", "".join(_CT))}</item>',
    ),
}


def add_layouts(layoutNode) -> None:
    """Add the descriptions of both layouts to the scene's layout node."""
    for layout_id, description in _DESCRIPTIONS.items():
        if not layoutNode.IsLayoutDescription(layout_id):
            layoutNode.AddLayoutDescription(layout_id, description)
        elif layoutNode.GetLayoutDescription(layout_id) != description:
            # Of a scene that was saved by an earlier version.
            layoutNode.SetLayoutDescription(layout_id, description)
