"""X-ray and DRR in one picture: what the X-ray and fusion slice views show."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.images.overlay import fusion_image, matching_window, windowed
from SOPIRegistrationLib.images.pyramid import area_average
from SOPIRegistrationLib.scene.layout import FUSION_VIEW, XRAY_VIEW, slice_node
from SOPIRegistrationLib.scene.nodes import marked_nodes, put_pixels, remove_node

OVERLAY_MODES = ("fusion", "edges", "checkerboard", "blink")

_MODE = "SOPIRegistration.OverlayMode"
_OPACITY = "SOPIRegistration.OverlayOpacity"
_BONE_DARK = "SOPIRegistration.BoneDark"
_XRAY, _DRR, _FIELD = "xray", "drr", "field"


class Overlay:
    """The picture over the X-ray in the fusion view: a colour volume, made anew when something changes.

    Background of the view is the X-ray, foreground the picture, so that the view's own fading works as well;
    the X-ray view has the X-ray alone. The picture's node keeps inputs, mode and opacity: a loaded scene goes
    on as it was saved.

    Args:
        scene: the MRML scene.
    """

    def __init__(self, scene):
        self._scene = scene
        self._hidden_by_blinking = False
        # Averaging a large X-ray takes longer than the rest of a live update.
        self._xray_pixels: tuple = (None, None)

    def show(self, xrayNode, drrNode, bone_dark: bool = False, valid: np.ndarray | None = None) -> None:
        """Fuse two nodes from now on.

        Args:
            xrayNode: the X-ray volume, on the detector.
            drrNode: the DRR's volume, as :func:`~SOPIRegistrationLib.scene.drr_node.update_drr` made it.
            bone_dark: whether bones are dark in the X-ray.
            valid: (rows, columns) bool, where the X-ray shows the patient (``PreparedRadiograph.valid``), on
                any pixels of the DRR's field of view; the DRR is shown nowhere else.
        """
        picture = self._picture
        if picture is None:
            picture = self._scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "X-ray and DRR")
            picture.SetAttribute(_MODE, OVERLAY_MODES[0])
            picture.SetAttribute(_OPACITY, "1")
        images = {_XRAY: xrayNode.GetID(), _DRR: drrNode.GetID()}
        same = all(picture.GetNodeReferenceID(role) == node_id for role, node_id in images.items())
        for role, node_id in images.items():
            picture.SetNodeReferenceID(role, node_id)
        picture.SetAttribute(_BONE_DARK, "1" if bone_dark else "0")
        self._set_field(valid)
        self._xray_pixels = (None, None)
        if same:
            self.refresh()
        else:
            self.match_drr_window()
            # On its detector in the 3D view, too.
            if (xray_view := slice_node(self._scene, XRAY_VIEW)) is not None:
                xray_view.SetSliceVisible(True)
        self.show_in_views()

    def show_in_views(self) -> None:
        """Put X-ray and picture into the slice views, also after others used them."""
        picture = self._picture
        if picture is None:
            return
        for view, foreground in ((XRAY_VIEW, None), (FUSION_VIEW, picture.GetID())):
            composite = self._composite(view)
            if composite is not None:
                composite.SetBackgroundVolumeID(picture.GetNodeReferenceID(_XRAY))
                composite.SetForegroundVolumeID(foreground)
                composite.SetLabelVolumeID(None)
                composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
                composite.SetForegroundOpacity(0.0 if self._hidden_by_blinking else self.opacity)

    def refresh(self) -> None:
        """Make the picture anew, after the DRR or a window changed."""
        if not self.is_complete:
            return
        drr_node = self._picture.GetNodeReference(_DRR)
        drr = slicer.util.arrayFromVolume(drr_node)[0]
        picture = fusion_image(
            self._xray_on_pixels_of(drr_node),
            drr,
            self._field(drr.shape),
            "drr" if self.mode == "blink" else self.mode,
            xray_window=_window(self._picture.GetNodeReference(_XRAY)),
            drr_window=_window(drr_node),
            bone_dark=self._bone_dark,
        )
        put_pixels(self._picture, picture[None])
        self._picture.SetIJKToRASMatrix(_ijk_to_ras(drr_node))
        if self._picture.GetDisplayNode() is None:
            self._picture.CreateDefaultDisplayNodes()
            display = self._picture.GetDisplayNode()
            display.AutoWindowLevelOff()
            display.SetWindowLevelMinMax(0, 255)

    @property
    def is_complete(self) -> bool:
        """Whether there is a picture and both images are still in the scene."""
        return self._picture is not None and all(
            self._picture.GetNodeReference(role) is not None for role in (_XRAY, _DRR)
        )

    @property
    def mode(self) -> str:
        """One of ``OVERLAY_MODES``; settable. In "blink" the picture is the DRR, see :meth:`blink`."""
        return OVERLAY_MODES[0] if self._picture is None else self._picture.GetAttribute(_MODE)

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in OVERLAY_MODES:
            raise ValueError(f"unknown overlay mode '{mode}': use one of {', '.join(OVERLAY_MODES)}")
        self._picture.SetAttribute(_MODE, mode)
        self._hidden_by_blinking = False
        self.refresh()
        self.show_in_views()

    @property
    def opacity(self) -> float:
        """Opacity of the picture over the X-ray, 0 to 1; settable."""
        return 1.0 if self._picture is None else float(self._picture.GetAttribute(_OPACITY))

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._picture.SetAttribute(_OPACITY, f"{opacity:.3g}")
        self.show_in_views()

    @property
    def drr_window(self) -> tuple[float, float]:
        """Line integrals shown as black and white; settable."""
        return _window(self._picture.GetNodeReference(_DRR))

    @drr_window.setter
    def drr_window(self, window: tuple[float, float]) -> None:
        self._picture.GetNodeReference(_DRR).GetDisplayNode().SetWindowLevelMinMax(*window)
        self.refresh()

    def match_drr_window(self) -> None:
        """Choose the DRR's window so that it is as bright as the X-ray; refreshes."""
        drr_node = self._picture.GetNodeReference(_DRR)
        drr = slicer.util.arrayFromVolume(drr_node)[0]
        valid = self._field(drr.shape)
        brightness = windowed(
            self._xray_on_pixels_of(drr_node), _window(self._picture.GetNodeReference(_XRAY))
        )
        if self._bone_dark:
            brightness = 1 - brightness
        self.drr_window = matching_window(drr[valid], brightness[valid])

    def blink(self) -> None:
        """Hide the picture or show it again; for a timer, while the mode is "blink"."""
        self._hidden_by_blinking = not self._hidden_by_blinking
        self.show_in_views()

    def remove(self) -> None:
        """Take the picture out of the scene and the fusion view."""
        if self._picture is None:
            return
        self._set_field(None)
        composite = self._composite(FUSION_VIEW)
        if composite is not None:
            composite.SetForegroundVolumeID(None)
        remove_node(self._picture)

    @property
    def _picture(self):
        """The picture's node in the scene as it is now, which may have been closed or loaded meanwhile."""
        for node in marked_nodes(self._scene, "vtkMRMLVectorVolumeNode", _MODE):
            return node
        return None

    @property
    def _bone_dark(self) -> bool:
        return self._picture.GetAttribute(_BONE_DARK) == "1"

    def _composite(self, view: str):
        node = slice_node(self._scene, view)
        return node and slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node)

    def _xray_on_pixels_of(self, drr_node) -> np.ndarray:
        """The X-ray, turned as the camera sees it and averaged onto the DRR's pixels."""
        xray_node = self._picture.GetNodeReference(_XRAY)
        columns, rows, _ = drr_node.GetImageData().GetDimensions()
        key = (xray_node.GetImageData(), xray_node.GetImageData().GetMTime(), columns, rows)
        if self._xray_pixels[0] != key:
            drr_to_xray = np.linalg.solve(
                slicer.util.arrayFromVTKMatrix(_ijk_to_ras(xray_node)),
                slicer.util.arrayFromVTKMatrix(_ijk_to_ras(drr_node)),
            )
            pixels = slicer.util.arrayFromVolume(xray_node)[round(drr_to_xray[2, 3])]
            pixels = pixels[..., 0] if pixels.ndim > 2 else pixels
            pixels = pixels[:, ::-1] if drr_to_xray[0, 0] < 0 else pixels
            self._xray_pixels = key, area_average(pixels, columns, rows)
        return self._xray_pixels[1]

    def _set_field(self, valid: np.ndarray | None) -> None:
        node = self._picture.GetNodeReference(_FIELD)
        if valid is None:
            if node is not None:
                remove_node(node)
            return
        if node is None:
            node = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "X-ray field")
            node.HideFromEditorsOn()
            self._picture.SetNodeReferenceID(_FIELD, node.GetID())
        put_pixels(node, valid[None].astype(np.uint8))

    def _field(self, shape: tuple[int, int]) -> np.ndarray:
        node = self._picture.GetNodeReference(_FIELD)
        if node is None:
            return np.ones(shape, dtype=bool)
        valid = slicer.util.arrayFromVolume(node)[0]
        return valid > 0 if valid.shape == shape else area_average(valid, shape[1], shape[0]) > 0.5


def _window(volumeNode) -> tuple[float, float]:
    display = volumeNode.GetDisplayNode()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _ijk_to_ras(volumeNode) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix
