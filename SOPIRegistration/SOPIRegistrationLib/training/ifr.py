"""What the trainer needs to know of the fine registration's networks: their losses, and their poses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.networks.embedding import (
    SCALE,
    EmbeddingNetwork,
    MovingImages,
    embedding_error,
    error_model,
    moving_images,
)
from SOPIRegistrationLib.networks.image_channels import fixed_channels
from SOPIRegistrationLib.refine.network import EmbeddedView, descended, stepped
from SOPIRegistrationLib.simulation.demo import PAPER_VARIANCE
from SOPIRegistrationLib.training.pairs import Pairs
from SOPIRegistrationLib.training.records import score_of_use
from SOPIRegistrationLib.training.rtpi import Stopwatch
from SOPIRegistrationLib.training.settings import PairOptions

# Largest offsets of the starts from the true pose, standard deviations (deg about each axis; mm in plane,
# twice, and in depth); most are smaller. The starts of ``paper`` and the pose network lie well within.
START_DEVIATION = (15.0, 15.0, 15.0, 30.0, 30.0, 60.0)
# Of the validation's starts about the true pose, likewise: both are drawn from ``paper``.
PAPER_DEVIATION = tuple(np.sqrt(2 * PAPER_VARIANCE).tolist())
# Cameras are nearly what the network is told: a wrong focal length is a wrong label of the depth.
MISJUDGED = 0.25
# Error of a step, in units of SCALE, that is as good as none; distance that is as good as another.
_EXACT, _NEAR = 0.2, 0.5
# No step of the training goes further, units of SCALE.
_LONGEST_STEP = 40.0


@dataclass(frozen=True)
class IFRLossWeights:
    """What is trained, and how much of it.

    Attributes:
        direction: of :func:`direction_loss`, the published one (Eq. 7).
        step: of :func:`step_loss`.
        distance: of :func:`distance_loss`.
        plain_mm: whether the translations of Eq. 7 are in mm on all axes, as published. Depth, the largest
            and least visible of them, is then nearly all of their direction; otherwise they are in units of
            what shows alike in the image (``networks.embedding.SCALE``).
    """

    direction: float = 0.3
    step: float = 1.0
    distance: float = 0.4
    plain_mm: bool = False


class EmbeddingTask:
    """Training of a learned similarity by the derivatives it has at wrong poses.

    Args:
        make: makes the network.
        config: its sizes.
        weights: of the losses.
        corrections: times that a pose is corrected by the network's own step, each with its losses. The first
            starts are those of the pairs; without the step's loss there is no step, and only they.
    """

    def __init__(
        self,
        make: Callable[..., EmbeddingNetwork],
        config,
        weights: IFRLossWeights | None = None,
        corrections: int = 2,
    ):
        self.config, self.pixels, self.options = config, config.pixels, ()
        self._make = make
        self._weights = weights or IFRLossWeights()
        self._corrections = corrections if self._weights.step else 1

    def network(self) -> EmbeddingNetwork:
        """A network to be trained."""
        return self._make(self.config)

    def losses(self, network: nn.Module, pairs: Pairs, rendering: Stopwatch) -> Iterator[torch.Tensor]:
        """One loss for each correction; the weights may change in between."""
        weights = self._weights
        fixed = fixed_channels(pairs.image, pairs.valid)
        unit = torch.as_tensor(SCALE.twist, device=fixed.device)
        T = pairs.T_start
        for number in range(self._corrections):
            with rendering.running():
                images = rendered(pairs, T)
            # Once is enough: the first starts are the furthest.
            directed = weights.direction > 0 and number == 0
            if directed:
                images.body.requires_grad_()
                images.bone.requires_grad_()
            embedded = network(fixed, pairs.valid, images, bool(weights.step))
            error = embedding_error(embedded)
            target = (se3.twist_about(T, pairs.T_true, pairs.centre_lps_mm) / unit).float()
            loss = fixed.new_zeros(())
            if directed:
                loss = loss + weights.direction * self._direction(error, images, T, pairs)
            if weights.step:
                step = error_model(embedded).step()
                loss = loss + weights.step * step_loss(step, target)
            if weights.distance:
                loss = loss + weights.distance * distance_loss(error, target.norm(dim=1))
                if number == 0:
                    with rendering.running():
                        there = rendered(pairs, pairs.T_true, with_jacobian=False)
                    least = embedding_error(network(fixed, pairs.valid, there))
                    loss = loss + weights.distance * distance_loss(least, torch.zeros_like(least))
            yield loss
            if weights.step:
                T = se3.move_about(T, _limited(step.detach()).double() * unit, pairs.centre_lps_mm)

    def _direction(
        self, error: torch.Tensor, images: MovingImages, T: torch.Tensor, pairs: Pairs
    ) -> torch.Tensor:
        """Eq. 7: the first backward pass, whose result the second one goes through."""
        by_image = torch.autograd.grad(error.sum(), (images.body, images.bone), create_graph=True)
        target = geodesic_direction(T, pairs.T_true, pairs.centre_lps_mm)
        unit = torch.as_tensor(SCALE.twist, device=target.device)
        scale = torch.ones_like(unit) if self._weights.plain_mm else unit
        gradient = images.pose_gradient(*by_image) * scale.float()
        return direction_loss(gradient, (target / scale).float())

    score = staticmethod(score_of_use)

    def held_out(self, options: PairOptions) -> tuple[int, PairOptions]:
        """The finest images of its use, starts as those of ``paper``."""
        pixels = self.config.near_pixels or self.config.pixels
        return pixels, replace(options, starts=1, start_deviation=PAPER_DEVIATION, start_spread=0.0)

    def poses(self, network: nn.Module, pairs: Pairs) -> torch.Tensor:
        """(B, 4, 4) T_lps_to_camera found from the pairs' starts.

        As in use, but in fewer iterations and without second tries.
        """
        config = self.config
        near = config.near_pixels or config.pixels
        if config.inference == "descent":
            ways = [(descended, 30, config.reach, near)]
        else:
            ways = [(stepped, 25, config.reach, config.pixels)]
            if config.reach != 1 or near != config.pixels:
                ways.append((stepped, 10, 1.0, near))
        found = []
        for patient, camera, frame, images in zip(
            pairs.patients, pairs.cameras, pairs.frames, pairs.slices, strict=True
        ):
            centre = frame.centre_lps_mm
            T = pairs.T_start[images].cpu().numpy()
            for minimise, iterations, weight, pixels in ways:
                image, valid = coarser(pairs.image[images], pairs.valid[images], pixels)
                seen_by = camera.resampled(pixels, pixels)
                # One bone is compared as in use (``refine.learned``).
                weight, held = (1.0, T) if patient.is_part else (weight, None)
                volumes = patient.ct_body, patient.ct_bone
                view = EmbeddedView(network, image, valid, seen_by, *volumes, centre, weight, held)
                T = minimise(view, T, centre, iterations).T
            found.append(T)
        return torch.from_numpy(np.concatenate(found)).to(pairs.T_start)


def coarser(image: torch.Tensor, valid: torch.Tensor, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """X-rays and their valid pixels (B, N, N) averaged to so many pixels; N must be a multiple."""
    count = image.shape[-1] // pixels
    weights = nn.functional.avg_pool2d(valid.float(), count)
    values = nn.functional.avg_pool2d(torch.where(valid, image, 0), count) / weights.clamp(min=1e-6)
    return values, weights > 0.5


def rendered(pairs: Pairs, T_lps_to_camera: torch.Tensor, with_jacobian: bool = True) -> MovingImages:
    """DRRs from the pairs' CTs at poses (B, 4, 4), on the poses' device; their Jacobians if asked for."""
    T = T_lps_to_camera
    parts = [
        moving_images(
            *(patient.ct_body, patient.ct_bone, camera, T[images], frame.centre_lps_mm, with_jacobian)
        )
        for patient, camera, frame, images in zip(
            pairs.patients, pairs.cameras, pairs.frames, pairs.slices, strict=True
        )
    ]
    return MovingImages(*(None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True)))


def geodesic_direction(
    T_lps_to_camera: torch.Tensor, T_true: torch.Tensor, centre_lps_mm: torch.Tensor
) -> torch.Tensor:
    """(B, 6) gradient of half the squared geodesic distance of poses (B, 4, 4) to the true ones, camera axes.

    The object's frame stands in its rotation centre (B, 3); metric and units are those of
    :func:`SOPIRegistrationLib.geometry.se3.geodesic_gradient`.
    """

    def centred(T):
        place = (T[:, :3, :3] @ centre_lps_mm[:, :, None])[:, :, 0] + T[:, :3, 3]
        return se3.rigid(T[:, :3, :3], place)

    in_body = se3.geodesic_gradient(centred(T_lps_to_camera), centred(T_true))
    return (T_lps_to_camera[:, None, :3, :3] @ in_body.view(-1, 2, 3, 1)).reshape(-1, 6)


def direction_loss(gradient: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Eq. 7: how far unit rotation and translation parts of L_N's gradient (B, 6) are from the geodesic's.

    Mean over the batch; 0 where all directions agree, 4 where all are opposite.
    """
    found, wanted = (
        nn.functional.normalize(x.unflatten(1, (2, 3)), dim=2, eps=1e-9) for x in (gradient, target)
    )
    return ((found - wanted).square().sum(dim=2) + 1e-8).sqrt().sum(dim=1).mean()


def distance_loss(error: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Mean absolute logarithm of the ratio of L_N (B,) to the distance to the true pose (B,)."""
    # The distance, in networks.embedding.SCALE, has one minimum and is slope everywhere; below half a unit
    # one is like the other. Directions alone are learned as slopes on a plateau.
    return torch.log(error / (distance.square() + _NEAR**2).sqrt()).abs().mean()


def step_loss(step: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By how much Gauss-Newton steps (B, 6) miss twists to the true poses (B, 6), as shares of their size."""
    # The logarithm keeps a few lost starts from drowning the others. A least-squares step, as in Chen and
    # Kong 2025 (arXiv 2509.06890), has a length too, unlike a gradient's direction.
    size = target.square().mean(dim=1, keepdim=True).sqrt() + _EXACT
    return torch.log1p((step - target).abs() / size).mean()


def _limited(step: torch.Tensor) -> torch.Tensor:
    """Steps cut to a plausible length; none where they are not finite."""
    step = torch.where(step.isfinite().all(dim=1, keepdim=True), step, 0)
    return step * (_LONGEST_STEP / step.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
