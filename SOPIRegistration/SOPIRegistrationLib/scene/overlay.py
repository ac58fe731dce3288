"""X-ray and DRR in one picture: what the X-ray and fusion slice views show."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from SOPIRegistrationLib.images.overlay import fusion_image, matching_window, windowed
from SOPIRegistrationLib.images.resampling import area_weights, linear_weights
from SOPIRegistrationLib.scene.layout import slice_node, views_of
from SOPIRegistrationLib.scene.nodes import marked_nodes, put_pixels, remove_node
from SOPIRegistrationLib.scene.pose import vtk_matrix

OVERLAY_MODES = ("edges", "fusion", "curtain", "checkerboard", "blink", "lens")

# Of pictures of several X-rays, which: those of former versions say nothing.
_NUMBER = "SOPIRegistration.Xray"
_MODE = "SOPIRegistration.OverlayMode"
_SETTING = "SOPIRegistration.Overlay."
# Settings of fusion_image that the picture's node keeps.
_SETTINGS = {"mix": 0.5, "edge_strength": 1.0, "curtain": 0.5, "lens_down": 0.5, "local_contrast": 0.0}
_BONE_DARK = "SOPIRegistration.BoneDark"
_OPACITY = "SOPIRegistration.Opacity"
_XRAY, _DRR, _FIELD = "xray", "drr", "field"
# On what only a picture needs, which one: it stays behind where somebody removes the picture.
_MADE_FOR = "SOPIRegistration.MadeForXray"


class Overlay:
    """The picture over the X-ray in the fusion view: a colour volume, made anew when something changes.

    Background of the view is the X-ray, foreground the picture, which holds the X-ray as well; the X-ray
    view has the X-ray alone. The picture's node keeps inputs, mode and settings: a loaded scene goes on as
    it was saved.

    Args:
        scene: the MRML scene.
        number: which of several X-rays it shows, 0 for the one that is looked at.
        pixels: (least, most) longer edge of the picture at rest, between which it has the X-ray's size;
            that of the DRR unless given.

    Attributes:
        beside: those of other X-rays, which take over mode and settings.
        bodies: ((rows, columns) DRR of a body by itself, its colour) of each of several bodies, as of the DRR
            that is shown next; their edges are drawn in place of the DRR's.
    """

    def __init__(self, scene, pixels: tuple[int, int] | None = None, number: int = 0):
        self._scene = scene
        self._number = number
        self._fusion_view, self._xray_view, self._drr_view = views_of(number)
        self.beside: tuple[Overlay, ...] = ()
        self._pixels = pixels
        self._xray_alone = False
        self.bodies: tuple[tuple[np.ndarray, tuple[float, float, float]], ...] = ()
        # Averaging a large X-ray takes longer than the rest of a live update.
        self._resampled: dict = {}
        self._windows_shown: tuple = ()

    def show(
        self,
        xrayNode,
        drrNode,
        bone_dark: bool = False,
        valid: np.ndarray | None = None,
        opacity: bool = False,
    ) -> None:
        """Fuse two nodes from now on.

        Args:
            xrayNode: the X-ray volume, on the detector.
            drrNode: the DRR's volume, as :func:`~SOPIRegistrationLib.scene.drr_node.update_drr` made it.
            bone_dark: whether bones are dark in the X-ray.
            valid: (rows, columns) bool, where the X-ray shows the patient (``PreparedRadiograph.valid``), on
                any pixels of the DRR's field of view; the DRR is shown nowhere else.
            opacity: whether the DRR is what metal lets through, 0 to 1, which is shown as it is.
        """
        if xrayNode.GetDisplayNode() is None:
            # Of a volume that a script has made.
            xrayNode.CreateDefaultDisplayNodes()
        picture = self.node
        if picture is None:
            picture = self._scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "X-ray and DRR")
            picture.SetAttribute(_MODE, OVERLAY_MODES[0])
            picture.SetAttribute(_NUMBER, str(self._number))
            self._remove_left_behind(drrNode)
        drrNode.SetAttribute(_MADE_FOR, str(self._number))
        images = {_XRAY: xrayNode.GetID(), _DRR: drrNode.GetID()}
        same = all(picture.GetNodeReferenceID(role) == node_id for role, node_id in images.items())
        same = same and picture.GetAttribute(_OPACITY) == str(int(opacity))
        picture.SetAttribute(_OPACITY, str(int(opacity)))
        for role, node_id in images.items():
            picture.SetNodeReferenceID(role, node_id)
        picture.SetAttribute(_BONE_DARK, "1" if bone_dark else "0")
        self._set_field(valid)
        self._resampled.clear()
        if same:
            self.refresh()
        else:
            if opacity:
                self.drr_window = 0.0, 1.0
            else:
                self.match_drr_window()
            # On its detector in the 3D view, too.
            if (xray_view := slice_node(self._scene, self._xray_view)) is not None:
                xray_view.SetSliceVisible(True)
        self.show_in_views()

    def _remove_left_behind(self, drrNode) -> None:
        """Take out of the scene what a picture that somebody removed was made of, except for a DRR."""
        for node in marked_nodes(self._scene, "vtkMRMLScalarVolumeNode", _MADE_FOR):
            if node is not drrNode and node.GetAttribute(_MADE_FOR) == str(self._number):
                remove_node(node)

    def show_in_views(self) -> None:
        """Put X-ray and picture into the slice views, also after others used them."""
        picture = self.node
        if picture is None:
            return
        xray, drr = (picture.GetNodeReferenceID(role) for role in (_XRAY, _DRR))
        fused = (xray, picture.GetID()) if self._is_blended else (picture.GetID(), None)
        for view, (background, foreground) in (
            (self._xray_view, (xray, None)),
            (self._drr_view, (drr, None)),
            (self._fusion_view, fused),
        ):
            composite = self._composite(view)
            if composite is not None:
                composite.SetBackgroundVolumeID(background)
                composite.SetForegroundVolumeID(foreground)
                composite.SetLabelVolumeID(None)
                composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
                composite.SetForegroundOpacity(0.0 if self._xray_alone else 1.0)

    def refresh(self) -> None:
        """Make the picture anew at its full size, after the DRR or a window changed."""
        if self.is_complete:
            drr = slicer.util.arrayFromVolume(self.node.GetNodeReference(_DRR))[0]
            rows, columns = drr.shape
            scale = 1.0
            if self._pixels is not None:
                xray = self.node.GetNodeReference(_XRAY).GetImageData().GetDimensions()[:2]
                scale = np.clip(max(xray), *self._pixels) / max(drr.shape)
            self._fuse(drr, (round(rows * scale), round(columns * scale)))

    def draw(self, drr: np.ndarray) -> None:
        """Make the picture of a DRR (rows, columns) on its own pixels while something moves."""
        # The DRR's node waits for the rest, when refresh() follows: the application answers every
        # change of a node with an update of all views, which takes far longer than the picture.
        if self.is_complete:
            self._fuse(drr, drr.shape)

    def _fuse(self, drr: np.ndarray, shape: tuple[int, int]) -> None:
        picture = self.node
        self._windows_shown = self.xray_window, self.drr_window
        settings = {name: self.setting(name) for name in _SETTINGS}
        mode = "drr" if self.mode == "blink" else self.mode
        if self._xray_alone and not self._is_blended:
            mode, settings["mix"] = "fusion", 0.0
        pixels = fusion_image(
            self._xray_on(shape),
            _resampled(drr, shape),
            self._field(shape),
            mode,
            xray_window=self.xray_window,
            drr_window=self.drr_window,
            bone_dark=self._bone_dark,
            bodies=[(_resampled(alone, shape), colour) for alone, colour in self.bodies],
            **settings,
        )
        with slicer.util.NodeModify(picture):
            put_pixels(picture, pixels[None])
            picture.SetIJKToRASMatrix(vtk_matrix(self._ijk_to_ras_of(shape)))
            if picture.GetDisplayNode() is None:
                picture.CreateDefaultDisplayNodes()
                display = picture.GetDisplayNode()
                display.AutoWindowLevelOff()
                display.SetWindowLevelMinMax(0, 255)

    @property
    def is_complete(self) -> bool:
        """Whether there is a picture and both images are still in the scene."""
        return self.node is not None and all(
            self.node.GetNodeReference(role) is not None for role in (_XRAY, _DRR)
        )

    @property
    def mode(self) -> str:
        """One of ``OVERLAY_MODES``; settable. In "blink" the picture is the DRR, see :attr:`xray_alone`."""
        return OVERLAY_MODES[0] if self.node is None else self.node.GetAttribute(_MODE)

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in OVERLAY_MODES:
            raise ValueError(f"unknown overlay mode '{mode}': use one of {', '.join(OVERLAY_MODES)}")
        self.node.SetAttribute(_MODE, mode)
        self._xray_alone = False
        self.refresh()
        self.show_in_views()
        for other in self.beside:
            other.mode = mode

    def setting(self, name: str) -> float:
        """A setting of :func:`~SOPIRegistrationLib.images.overlay.fusion_image` by its name."""
        kept = self.node and self.node.GetAttribute(_SETTING + name)
        return float(kept) if kept else _SETTINGS[name]

    def set(self, refresh: bool = True, **settings: float) -> None:
        """Change settings by name, and show what comes of them if anything does."""
        changed = {name: value for name, value in settings.items() if self.setting(name) != value}
        for name, value in changed.items():
            self.node.SetAttribute(_SETTING + name, f"{value:.6g}")
        if changed and refresh:
            self.refresh()
        for other in self.beside:
            other.set(refresh, **settings)

    @property
    def xray_alone(self) -> bool:
        """Whether the picture is hidden, for blinking or while a key is held; settable."""
        return self._xray_alone

    @xray_alone.setter
    def xray_alone(self, alone: bool) -> None:
        self._xray_alone = alone
        if not self._is_blended:
            self.refresh()
        self.show_in_views()
        for other in self.beside:
            other.xray_alone = alone

    @property
    def xray_window(self) -> tuple[float, float]:
        """Pixel values of the X-ray shown as black and white; settable."""
        return _window(self.node.GetNodeReference(_XRAY))

    @xray_window.setter
    def xray_window(self, window: tuple[float, float]) -> None:
        display = self.node.GetNodeReference(_XRAY).GetDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(*window)
        self.refresh()

    @property
    def xray_range(self) -> tuple[float, float]:
        """Least and greatest pixel value of the X-ray."""
        return self.node.GetNodeReference(_XRAY).GetImageData().GetScalarRange()

    @property
    def displays(self) -> list:
        """The display nodes of X-ray and DRR, whose windows the application's own tools change."""
        return [self.node.GetNodeReference(role).GetDisplayNode() for role in (_XRAY, _DRR)]

    def follow_windows(self) -> None:
        """Show the windows as they are, where the picture was made with others."""
        if self.is_complete and (self.xray_window, self.drr_window) != self._windows_shown:
            self.refresh()

    @property
    def drr_window(self) -> tuple[float, float]:
        """Line integrals shown as black and white; settable."""
        return _window(self.node.GetNodeReference(_DRR))

    @drr_window.setter
    def drr_window(self, window: tuple[float, float]) -> None:
        self.node.GetNodeReference(_DRR).GetDisplayNode().SetWindowLevelMinMax(*window)
        self.refresh()

    def match_drr_window(self) -> None:
        """Choose the DRR's window so that it is as bright as the X-ray; refreshes."""
        drr_node = self.node.GetNodeReference(_DRR)
        drr = slicer.util.arrayFromVolume(drr_node)[0]
        valid = self._field(drr.shape)
        brightness = windowed(self._xray_on(drr.shape), self.xray_window)
        if self._bone_dark:
            brightness = 1 - brightness
        self.drr_window = matching_window(drr[valid], brightness[valid])

    def remove(self) -> None:
        """Take the picture out of scene and fusion view; of an X-ray beside, DRR and views go along."""
        if self.node is None:
            return
        self._set_field(None)
        if (fusion := self._composite(self._fusion_view)) is not None:
            fusion.SetForegroundVolumeID(None)
        if self._number:
            self._clear_views()
            if self.drr is not None:
                remove_node(self.drr)
        remove_node(self.node)

    def _clear_views(self) -> None:
        for view in (self._fusion_view, self._xray_view, self._drr_view):
            if (composite := self._composite(view)) is not None:
                composite.SetBackgroundVolumeID(None)
        # It stood on its detector in the 3D view.
        if (xray_view := slice_node(self._scene, self._xray_view)) is not None:
            xray_view.SetSliceVisible(False)

    @property
    def node(self):
        """The picture's node in the scene as it is now, which may have been closed or loaded meanwhile."""
        for node in marked_nodes(self._scene, "vtkMRMLVectorVolumeNode", _MODE):
            if (node.GetAttribute(_NUMBER) or "0") == str(self._number):
                return node
        return None

    @property
    def drr(self):
        """The DRR's node; None of a picture that has none."""
        return self.node and self.node.GetNodeReference(_DRR)

    def show_beside(self, count: int) -> None:
        """Have pictures of so many other X-rays, in views of their own; they are still to be shown."""
        for other in self.beside[count:]:
            other.remove()
        known = self.beside[:count]
        made = [Overlay(self._scene, self._pixels, 1 + number) for number in range(len(known), count)]
        self.beside = (*known, *made)

    def take_over(self, other: Overlay) -> None:
        """Have the mode and the settings of another one; what shows them follows."""
        self.node.SetAttribute(_MODE, other.mode)
        for name in _SETTINGS:
            self.node.SetAttribute(_SETTING + name, f"{other.setting(name):.6g}")

    @property
    def _is_blended(self) -> bool:
        """Whether the application can lay the picture over the X-ray: not over one with an alpha channel."""
        xray = self.node and self.node.GetNodeReference(_XRAY)
        image = xray and xray.GetImageData()
        return image is None or image.GetNumberOfScalarComponents() in (1, 3)

    @property
    def _bone_dark(self) -> bool:
        return self.node.GetAttribute(_BONE_DARK) == "1"

    def _composite(self, view: str):
        node = slice_node(self._scene, view)
        return node and slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node)

    def _ijk_to_ras_of(self, shape: tuple[int, int]) -> np.ndarray:
        """(4, 4) IJK -> RAS of an image of this size over the field of the DRR."""
        drr_node = self.node.GetNodeReference(_DRR)
        columns, rows, _ = drr_node.GetImageData().GetDimensions()
        to_drr = np.diag([columns / shape[1], rows / shape[0], 1.0, 1.0])
        to_drr[:2, 3] = (np.diag(to_drr)[:2] - 1) / 2
        return slicer.util.arrayFromVTKMatrix(_ijk_to_ras(drr_node)) @ to_drr

    def _xray_on(self, shape: tuple[int, int]) -> np.ndarray:
        """The X-ray, turned as the camera sees it, on an image of this size."""
        node = self.node.GetNodeReference(_XRAY)

        def make():
            to_xray = np.linalg.solve(
                slicer.util.arrayFromVTKMatrix(_ijk_to_ras(node)), self._ijk_to_ras_of(shape)
            )
            pixels = slicer.util.arrayFromVolume(node)[round(to_xray[2, 3])]
            pixels = pixels[..., 0] if pixels.ndim > 2 else pixels
            return _resampled(pixels[:, ::-1] if to_xray[0, 0] < 0 else pixels, shape)

        return self._kept("xray", node, shape, make)

    def _kept(self, what: str, node, shape: tuple[int, int], make) -> np.ndarray:
        """An image made for this content of a node, at the two sizes last asked for."""
        key = what, node.GetImageData().GetMTime(), shape
        if key not in self._resampled:
            known = [other for other in self._resampled if other[0] == what]
            for other in known[: len(known) - 1]:
                del self._resampled[other]
            self._resampled[key] = make()
        return self._resampled[key]

    def _set_field(self, valid: np.ndarray | None) -> None:
        node = self.node.GetNodeReference(_FIELD)
        if valid is None:
            if node is not None:
                remove_node(node)
            return
        if node is None:
            node = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "X-ray field")
            node.HideFromEditorsOn()
            node.SetAttribute(_MADE_FOR, str(self._number))
            self.node.SetNodeReferenceID(_FIELD, node.GetID())
        put_pixels(node, valid[None].astype(np.uint8))

    def _field(self, shape: tuple[int, int]) -> np.ndarray:
        node = self.node.GetNodeReference(_FIELD)
        if node is None:
            return np.ones(shape, dtype=bool)
        valid = slicer.util.arrayFromVolume(node)[0]
        return self._kept("field", node, shape, lambda: _resampled(valid > 0, shape) > 0.5)


def _resampled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Averaged onto fewer pixels, interpolated onto more, along each axis by itself."""
    if image.shape == tuple(shape):
        return image
    row_weights, column_weights = (
        area_weights(new, old)
        if new <= old
        else linear_weights((np.arange(new) + 0.5) * old / new - 0.5, 0, old)
        for new, old in zip(shape, image.shape, strict=True)
    )
    return np.asarray((column_weights @ (row_weights @ image.astype(np.float32)).T).T)


def _window(volumeNode) -> tuple[float, float]:
    display = volumeNode.GetDisplayNode()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _ijk_to_ras(volumeNode) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix
