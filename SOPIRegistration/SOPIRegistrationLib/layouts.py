"""Layouts: fusion with X-ray and 3D; several X-rays side by side; X-ray, bones, CT planes for landmarks.

Needs nothing beyond Python: the application must know the layouts from its start, or a saved scene that uses
one would open with blank views as long as the module has not been opened.
"""

from __future__ import annotations

# Slicer keeps its own layouts below 1000; extensions choose a number of their own.
LAYOUT_ID = 20250
LANDMARK_LAYOUT_ID = 20251
XRAY_VIEW = "XRay"
FUSION_VIEW = "Fusion"
DRR_VIEW = "DRR"
# No more X-rays than these are shown side by side.
MOST_XRAYS = 4
_SIDE_BY_SIDE = 20260

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


def views_of(number: int) -> tuple[str, str, str]:
    """Fusion, X-ray and DRR view of one of several X-rays; 0 is the one that is looked at."""
    suffix = str(1 + number) if number else ""
    return FUSION_VIEW + suffix, XRAY_VIEW + suffix, DRR_VIEW + suffix


def layout_of(xrays: int) -> int:
    """The layout that shows so many X-rays."""
    return LAYOUT_ID if xrays < 2 else _SIDE_BY_SIDE + min(xrays, MOST_XRAYS)


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


def _column(number: int) -> str:
    """An X-ray of several: fusion over X-ray and DRR."""
    fusion, xray, drr = views_of(number)
    suffix = str(1 + number) if number else ""
    # A group for each detector: a point that is jumped to in one view would drag the others off theirs.
    group = _VIEW_GROUP + number
    top = _slice_view(fusion, "F" + suffix, "#E67E22", group=group, share=620)
    below = (
        _slice_view(xray, "X" + suffix, "#2E86C1", group=group),
        _slice_view(drr, "D" + suffix, "#7D3C98", group=group),
    )
    bottom = f'\n<item splitSize="380">{_split("horizontal", "".join(below))}</item>'
    return f'\n<item splitSize="400">{_split("vertical", top + bottom)}</item>'


_DESCRIPTIONS |= {
    layout_of(count): _split(
        "horizontal",
        "".join(_column(number) for number in range(count))
        + f'\n<item splitSize="240">{_split("vertical", _3D)}</item>',
    )
    for count in range(2, MOST_XRAYS + 1)
}


def add_layouts(layoutNode) -> None:
    """Add the descriptions of all layouts to the scene's layout node."""
    for layout_id, description in _DESCRIPTIONS.items():
        if not layoutNode.IsLayoutDescription(layout_id):
            layoutNode.AddLayoutDescription(layout_id, description)
        elif layoutNode.GetLayoutDescription(layout_id) != description:
            # Of a scene that was saved by an earlier version.
            layoutNode.SetLayoutDescription(layout_id, description)
