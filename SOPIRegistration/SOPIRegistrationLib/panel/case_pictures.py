"""What is shown of a prepared case: its DRR over each of its X-rays, in the views and in the scene."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SOPIRegistrationLib import scene as bridge
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.images.overlay import fusion_image
from SOPIRegistrationLib.registration.prepared import Placement, PreparedCase

# Longer edge of a DRR at rest.
REST_PIXELS = 512


class CasePictures:
    """The pictures of a session, which has the case and knows where its bodies are.

    Attributes:
        scene: the MRML scene.
        parameters: wrapped parameter node of the module.
        overlay: of the X-ray that is looked at; those of the others are beside it.
        views: where they are seen.
        case: the prepared case; None before there is one.
        bodies: as the scene has them.
        placement: where they are.
    """

    scene: Any
    parameters: Any
    overlay: bridge.Overlay
    views: bridge.Views
    case: PreparedCase | None
    bodies: list[bridge.BodyEntry]
    placement: Placement

    @property
    def has_all_pictures(self) -> bool:
        """Whether nobody has taken a picture, or what it is made of, out of the scene."""
        nodes = [node for node, _ in self._xray_nodes(self.case)]
        # That of an X-ray which has left the scene itself is not missed.
        return all(one.is_complete or node is None for one, node in zip(self._overlays, nodes, strict=False))

    @property
    def xrays_shown(self) -> int:
        """How many X-rays have a picture of their own: 1, and those beside it."""
        return len(self._overlays)

    def _xray_nodes(self, case: PreparedCase) -> list[tuple]:
        """(node, frame) of the X-rays of a case, in their order."""
        p = self.parameters
        others = [(self.scene.GetNodeByID(one.node_id), one.key[1]) for one in case.inputs.others]
        return [(p.xray, p.frame), *others]

    @property
    def _overlays(self) -> tuple[bridge.Overlay, ...]:
        return self.overlay, *self.overlay.beside

    def show(self, placement: Placement, pixels: int) -> None:
        """Show the DRRs with the bodies at a placement, their longer edges of at most ``pixels`` pixels."""
        self.show_drr(self._rendered(placement, pixels))
        for number, overlay in enumerate(self.overlay.beside):
            if overlay.is_complete:
                self._put_beside(number, placement, pixels)
                overlay.refresh()

    def draw(self, number: int, placement: Placement, pixels: int) -> None:
        """The same over one X-ray alone, 0 for the one that is looked at, while something moves.

        What is drawn like this is a picture and nothing else: the scene's DRR waits for :meth:`show`.
        """
        if number == 0:
            self.show_drr(self._rendered(placement, pixels), live=True)
        elif self._overlays[number].is_complete:
            self._overlays[number].draw(self._rendered_beside(number - 1, placement, pixels))

    def _rendered(self, placement: Placement, pixels: int) -> np.ndarray:
        """The DRR; the overlay is told what of it is of which body."""
        return self._rendered_of(self.case, self.overlay, placement, pixels)

    def _rendered_beside(self, number: int, placement: Placement, pixels: int) -> np.ndarray:
        """The same of another X-ray."""
        case = self.case.beside(number)
        T = case.T_world_to_camera @ se3.invert_rigid(self.case.T_world_to_camera) @ placement.T_lps_to_camera
        return self._rendered_of(case, self.overlay.beside[number], placement.with_pose(T), pixels)

    def _rendered_of(self, case: PreparedCase, overlay, placement: Placement, pixels: int) -> np.ndarray:
        image, alone = case.render_bodies(placement, pixels)
        overlay.bodies = self._coloured(alone)
        return image

    def _coloured(self, alone: Mapping[str, np.ndarray]) -> tuple:
        """The DRRs of bodies by themselves, by their names, with the bodies' colours."""
        colours = {one.name: one.colour for one in self.bodies}
        # The node of one may have left the scene.
        return tuple((drr, colours[name]) for name, drr in alone.items() if name in colours)

    def show_made(self, image: np.ndarray, alone: Mapping[str, np.ndarray]) -> None:
        """Show a DRR of something that moves, and of several bodies each one's by itself."""
        self.overlay.bodies = self._coloured(alone)
        self.show_drr(image, live=True)

    def show_drr(self, image: np.ndarray, live: bool = False) -> None:
        """Show a DRR of this case over the X-ray, and put it into the scene unless something still moves."""
        if live and self.overlay.is_complete:
            self.overlay.draw(image)
            return
        self._put_drr(image)
        if self.has_all_pictures:
            self.overlay.refresh()
        else:
            # A picture or its DRR was removed from the scene.
            self._fuse()

    def _put_drr(self, image: np.ndarray) -> None:
        p = self.parameters
        camera = self.case.xray.camera.resampled(image.shape[1], image.shape[0])
        drr = bridge.update_drr(p.drr, p.xray, image, camera, self.case.frame)
        if p.drr is not drr:
            p.drr = drr

    def show_views(self) -> None:
        """Bring back what the views show, and their layout, whoever has used them meanwhile."""
        self.views.lay_out()
        for overlay in self._overlays:
            overlay.show_in_views()

    def _fuse(self) -> None:
        p, case = self.parameters, self.case
        opacity = case.bodies.are_metal
        self.overlay.show(p.xray, p.drr, case.bone_dark, case.xray.valid, opacity)
        self.overlay.show_beside(min(len(case.others), bridge.MOST_XRAYS - 1))
        for number, overlay in enumerate(self.overlay.beside):
            one, (node, _) = case.beside(number), self._xray_nodes(case)[1 + number]
            if node is None:
                continue
            drr = self._put_beside(number, self.placement, REST_PIXELS)
            overlay.show(node, drr, one.bone_dark, one.xray.valid, opacity)
            overlay.take_over(self.overlay)
            overlay.refresh()

    def _put_beside(self, number: int, placement: Placement, pixels: int):
        """The DRR of another X-ray in its node."""
        image = self._rendered_beside(number, placement, pixels)
        camera = self.case.others[number].camera.resampled(image.shape[1], image.shape[0])
        node, _ = self._xray_nodes(self.case)[1 + number]
        return bridge.update_drr(
            self.overlay.beside[number].drr,
            node,
            image,
            camera,
            self.case.frame,
            reference=self.case.xray.camera,
        )

    def write_picture(self, path: Path) -> None:
        """Write the overlay of X-ray and DRR at the pose as PNG, in the X-ray's pixels."""
        xray = self.case.xray
        drr = self._rendered(self.placement, max(xray.camera.shape))
        pixels = self.case.inputs.radiograph.pixels
        p, mode = self.parameters, self.parameters.overlayMode
        picture = fusion_image(
            pixels,
            drr,
            xray.valid,
            "fusion" if mode == "blink" else mode,
            bone_dark=self.case.bone_dark,
            mix=p.mix,
            edge_strength=p.edgeStrength,
            curtain=self.overlay.setting("curtain"),
            lens_down=self.overlay.setting("lens_down"),
            local_contrast=p.localContrast,
            bodies=self.overlay.bodies,
        )
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path))
