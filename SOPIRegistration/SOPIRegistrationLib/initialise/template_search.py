"""Exhaustive template search for a pose when none is known.

Only the two rotations out of the image plane need new projections. A roll of the C-arm turns the image
about its principal point, depth scales it, in-plane translation shifts it: the X-ray is rotated and
scaled instead, and all shifts are scored at once by masked normalised correlation in the Fourier
domain (Padfield 2012, Eq. 7 ff., on locally normalised images, whose mean is zero already).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.distinct import distinct_poses
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph
from SOPIRegistrationLib.progress import Progress, Report
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.similarity.local import locally_normalised

STAGE = "template search"
_WINDOW_PX = 9
# Where less than this of a template's rays end within the scan there is nothing else to go by: all count.
_LEAST_SEEN = 0.2
# A shift counts only if so much of the X-ray's structure meets a template, as a share of what does at most:
# short scans never show all of it. Where the X-ray shows more, of the template's structure the X-ray.
_LEAST_OVERLAP = 0.5
# Candidates are picked from so many times as many grid points, the best, without neighbours of a better one.
_POOL = 20
_SAME_ANGLE = np.deg2rad(12.0)
_SAME_SHIFT_MM = 12.0
_SAME_DEPTH_MM = 60.0


@dataclass(frozen=True)
class SearchRange:
    """The grid of poses about the nominal view.

    Attributes:
        tilt_deg, tilt_step_deg: rotations about the image's x and y axes, each from -tilt to +tilt.
        roll_deg, roll_step_deg: rotation about the central ray, from -roll to +roll; 180 for the full circle.
        depth_factors: depths as multiples of the nominal source-object distance.
        shift_mm: in-plane translation, as far as the canvas allows.
        canvas: templates are so many times wider than the X-ray, so that a shift brings in what lies beyond
            its edge.
        both_signs: whether an X-ray with bright and dark exchanged is found as well.
        surroundings_px: where the X-ray shows more than the object: only pixels that are so near its shadow
            are compared; None for all.
    """

    tilt_deg: float = 50.0
    tilt_step_deg: float = 10.0
    roll_deg: float = 50.0
    roll_step_deg: float = 10.0
    depth_factors: tuple[float, ...] = (0.72, 0.85, 1.0, 1.18, 1.36)
    shift_mm: float = 75.0
    canvas: float = 2.0
    both_signs: bool = False
    surroundings_px: int | None = None

    @property
    def tilts(self) -> np.ndarray:
        """(n, 2) rad about x and y."""
        axis = _symmetric_grid(self.tilt_deg, self.tilt_step_deg)
        return np.deg2rad(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))

    @property
    def rolls(self) -> np.ndarray:
        """(n,) rad."""
        if self.roll_deg >= 180:
            return np.deg2rad(np.arange(0, 360, self.roll_step_deg))
        return np.deg2rad(_symmetric_grid(self.roll_deg, self.roll_step_deg))


@dataclass(frozen=True)
class SearchResult:
    """Candidates of a template search, best first.

    Attributes:
        T_lps_to_camera: (n, 4, 4) poses.
        scores: (n,) in [0, 1]: how unlikely so much agreement is by chance, told as the correlation of the
            whole X-ray that were as unlikely; of a template with its surroundings the correlation; -1 where
            too little is compared.
        negative: (n,) bool, whether bright and dark are exchanged there.
    """

    T_lps_to_camera: np.ndarray
    scores: np.ndarray
    negative: np.ndarray


def template_search(
    radiograph: PreparedRadiograph,
    volume: ProjectorVolume,
    frame: PoseFrame,
    search_range: SearchRange | None = None,
    unscanned: Sequence[ProjectorVolume] = (),
    max_candidates: int = 64,
    report: Report | None = None,
) -> SearchResult:
    """Find the poses whose templates look most like the X-ray.

    The X-ray is turned and scaled about its principal point. Where that is far from its middle, as in a crop
    of a larger detector, the search is that of a camera at the same place which looks at the middle.

    Args:
        radiograph: prepared X-ray at the resolution of the search (about 32 pixels).
        volume: attenuation, as coarse as the pixels allow.
        frame: nominal view, source-object distance and rotation centre.
        search_range: the grid; the ``wide`` range about the nominal view unless given.
        unscanned: masks of where the object leaves the scan and goes on: rays through them do not count.
        max_candidates: at most so many poses, all different, are returned.
        report: told the fraction done.
    """
    search_range = search_range or SearchRange()
    R_aim = _towards_the_middle(radiograph.camera)
    if R_aim is not None:
        aimed = replace(frame, view="angles", rotation=R_aim @ frame.rotation)
        found = template_search(
            _turned(radiograph, R_aim), volume, aimed, search_range, unscanned, max_candidates, report
        )
        T = se3.rigid(R_aim.T, np.zeros(3)) @ found.T_lps_to_camera
        return replace(found, T_lps_to_camera=T)
    canvas = _canvas_camera(radiograph.camera, search_range.canvas)
    rotations = _tilt_rotations(search_range.tilts)
    variants = _XrayVariants(radiograph, canvas, search_range)
    shifts = _ShiftWindow(canvas.width, variants.edge, canvas.K[0, 0] * search_range.shift_mm / frame.sod_mm)
    variants.transform(shifts.size)

    grid_shape = (len(rotations), len(variants.parameters))
    scores = np.full(grid_shape, -1.0, np.float32)
    offsets = np.zeros((*grid_shape, 2))
    negative = np.zeros(grid_shape, dtype=bool)
    batch = 16
    for first in range(0, len(rotations), batch):
        chosen = slice(first, min(first + batch, len(rotations)))
        T = _poses_on_axis(rotations[chosen], frame)
        templates = project(volume, canvas, T)
        seen = np.ones_like(templates)
        for mask in unscanned:
            seen *= project(mask, canvas, T) == 0
        shown = templates > 0
        if search_range.surroundings_px is not None:
            edge = 2 * search_range.surroundings_px + 1
            seen *= ndimage.maximum_filter(shown, size=(1, edge, edge))
        share = (seen * shown).sum(axis=(1, 2)) / np.maximum(shown.sum(axis=(1, 2)), 1)
        seen[share < _LEAST_SEEN] = 1
        normalised = locally_normalised(templates, seen, _WINDOW_PX).image
        for k, (template, weight) in enumerate(zip(normalised, seen, strict=True), start=first):
            scores[k], offsets[k], negative[k] = variants.best_shifts(template, weight, shifts, search_range)
        if report is not None:
            report(Progress(STAGE, chosen.stop / len(rotations)))

    best = np.argsort(-scores.ravel(), kind="stable")[: _POOL * max_candidates]
    template_index, variant_index = np.unravel_index(best, grid_shape)
    T = _poses_of_matches(
        rotations[template_index],
        variants.parameters[variant_index],
        offsets[template_index, variant_index],
        radiograph.camera,
        frame,
    )
    kept = distinct_poses(T, frame.centre_lps_mm, _SAME_ANGLE, _SAME_SHIFT_MM, _SAME_DEPTH_MM, max_candidates)
    return SearchResult(T[kept], scores.ravel()[best][kept], negative.ravel()[best][kept])


def _towards_the_middle(camera: Camera) -> np.ndarray | None:
    """(3, 3) rotation, camera -> a camera that looks at the image's middle; None where it does already."""
    if not camera.is_off_centre:
        return None
    z = camera.middle_ray / np.linalg.norm(camera.middle_ray)
    axis = np.cross(z, [0.0, 0.0, 1.0])
    sine = np.linalg.norm(axis)
    return se3.exp_so3(axis / sine * np.arctan2(sine, z[2]))


def _turned(radiograph: PreparedRadiograph, R: np.ndarray) -> PreparedRadiograph:
    """The X-ray as a camera at the same place, turned by ``R`` to look at its middle, would have it."""
    camera = radiograph.camera
    K = camera.K.copy()
    K[:2, 2] = camera.middle_px
    turned = Camera(K, camera.width, camera.height)
    u, v = camera.project(turned.unit_rays() @ R).transpose(2, 0, 1)
    image = ndimage.map_coordinates(radiograph.image, [v, u], order=1, mode="nearest")
    valid = ndimage.map_coordinates(radiograph.valid.astype(np.float32), [v, u], order=1, mode="constant")
    return radiograph.on_pixels(image, valid > 0.5, turned)


def _symmetric_grid(extent, step):
    count = int(np.floor(extent / step + 1e-9))
    return step * np.arange(-count, count + 1)


def _tilt_rotations(tilts):
    zero = np.zeros(len(tilts))
    about_x = se3.exp_so3(np.stack([tilts[:, 0], zero, zero], axis=-1))
    about_y = se3.exp_so3(np.stack([zero, tilts[:, 1], zero], axis=-1))
    return about_x @ about_y


def _poses_on_axis(rotations, frame):
    """(n, 4, 4) poses with the rotation centre on the central ray at the source-object distance."""
    R = rotations @ frame.rotation
    t = np.array([0, 0, frame.sod_mm]) - R @ frame.centre_lps_mm
    return se3.rigid(R, t)


def _canvas_camera(camera: Camera, times: float) -> Camera:
    """A square-pixel camera about the principal point, so many times wider than the X-ray."""
    focal = (camera.K[0, 0] + camera.K[1, 1]) / 2
    edge = int(times * max(camera.shape) / 2) * 2 + 1
    middle = (edge - 1) / 2
    return Camera(np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), edge, edge)


class _XrayVariants:
    """The X-ray rotated and scaled about its principal point, one variant per roll and depth."""

    def __init__(self, radiograph: PreparedRadiograph, canvas: Camera, search_range: SearchRange):
        rolls, factors = search_range.rolls, np.array(search_range.depth_factors)
        self.grid_shape = (len(rolls), len(factors))
        # (n, 2) roll, depth factor.
        self.parameters = np.stack(np.meshgrid(rolls, factors, indexing="ij"), axis=-1).reshape(-1, 2)
        # A far object is smaller: enlarging its image by its depth factor brings it to nominal size.
        reach = max(radiograph.camera.shape) * max(factors) * 1.1
        edge = min(int(reach / 2) * 2 + 1, canvas.width)
        self.edge = edge
        camera, focal = radiograph.camera, canvas.K[0, 0]
        y, x = np.mgrid[:edge, :edge] - (edge - 1) / 2
        roll, scale = self.parameters.T[..., None, None]
        cos, sin = np.cos(roll), np.sin(roll)
        ray_x = (cos * x - sin * y) / (focal * scale)
        ray_y = (sin * x + cos * y) / (focal * scale)
        u = camera.K[0, 0] * ray_x + camera.K[0, 1] * ray_y + camera.K[0, 2]
        v = camera.K[1, 1] * ray_y + camera.K[1, 2]
        images = ndimage.map_coordinates(radiograph.image, [v, u], order=1, mode="nearest")
        valid = radiograph.valid.astype(np.float32)
        valid = ndimage.map_coordinates(valid, [v, u], order=1, mode="constant") > 0.5
        self._valid = valid.astype(np.float32)
        self._images = locally_normalised(images.astype(np.float32), self._valid, _WINDOW_PX).image

    def transform(self, size: int) -> None:
        """Fourier transforms of the images, their masks and their squares."""

        def conjugate(array):
            return np.conj(fft.rfft2(array, (size, size), workers=-1))

        self._image_spectra = conjugate(self._images)
        self._valid_spectra = conjugate(self._valid)
        self._energy_spectra = conjugate(self._images**2)
        self._energy = (self._images**2).sum(axis=(1, 2))
        nominal = np.argmin(np.abs(np.log(self.parameters[:, 1])))
        self._nominal_energy = max(float(self._energy[nominal]), 1e-9)

    def best_shifts(self, template, weight, shifts, search_range: SearchRange):
        """Best score of one template with every variant, its shift (columns, rows), and its sign."""
        size = (shifts.size, shifts.size)

        def correlate(array, spectra):
            spectrum = fft.rfft2(array, size, workers=-1)
            return shifts.crop(fft.irfft2(spectrum * spectra, size, workers=-1))

        product = correlate(template, self._image_spectra)
        template_energy = correlate(template**2, self._valid_spectra)
        xray_energy = correlate(weight, self._energy_spectra)
        if search_range.surroundings_px is None:
            total = self._energy[:, None, None]
            most = xray_energy.max(axis=(1, 2), keepdims=True)
            enough = (xray_energy > _LEAST_OVERLAP * most) & (template_energy > 0.05 * total)
        else:
            enough = template_energy > _LEAST_OVERLAP * float((template**2).sum())
        norm = np.sqrt(np.maximum(template_energy, 1e-9) * np.maximum(xray_energy, 1e-9))
        correlation = (product / norm).reshape(len(self.parameters), -1)
        score = np.abs(correlation) if search_range.both_signs else np.maximum(correlation, 0.0)
        if search_range.surroundings_px is None:
            # The likelihood ratio to no relation at all, told as the correlation at which the whole X-ray at
            # its nominal size would reach it: fewer pixels agree by chance more easily. About a bone as many
            # count everywhere, and where more else is seen no more speaks for it.
            share = (norm / self._nominal_energy).reshape(score.shape)
            score = np.sqrt(1 - np.power(np.maximum(1 - score**2, 1e-6), share))
        score = np.where(enough.reshape(score.shape), score, -1.0)
        best = score.argmax(axis=1)[:, None]
        negative = np.take_along_axis(correlation, best, axis=1)[:, 0] < 0
        return np.take_along_axis(score, best, axis=1)[:, 0], shifts.offsets(best[:, 0]), negative


class _ShiftWindow:
    """The part of a circular correlation that holds the shifts of interest.

    Args:
        canvas, variant: edges of the template and of the image that slides over it, pixels.
        limit: largest shift from the middle, pixels.
    """

    def __init__(self, canvas: int, variant: int, limit: float):
        self._limit = int(limit)
        start = (canvas - variant) // 2
        # Just enough that no shift of interest wraps the image around onto the template.
        self.size = fft.next_fast_len((canvas + variant) // 2 + self._limit + 1, real=True)
        self._index = (start + np.arange(-self._limit, self._limit + 1)) % self.size

    def crop(self, correlation):
        return correlation[:, self._index[:, None], self._index]

    def offsets(self, flat):
        """(n, 2) pixels (columns, rows) by which the template's centre lies from the variant's."""
        rows, columns = np.divmod(flat, 2 * self._limit + 1)
        return -np.stack([columns - self._limit, rows - self._limit], axis=-1)


def _poses_of_matches(rotations, parameters, offsets, camera: Camera, frame: PoseFrame):
    """Poses (n, 4, 4) in which the template's rotation centre stands where the match found it."""
    roll, factor = parameters.T
    focal = (camera.K[0, 0] + camera.K[1, 1]) / 2
    zero = np.zeros_like(roll)
    R_roll = se3.exp_so3(np.stack([zero, zero, roll], axis=-1))
    in_plane = np.concatenate([offsets / (focal * factor[:, None]), zero[:, None]], axis=-1)
    direction = (R_roll @ in_plane[..., None])[..., 0] + [0, 0, 1]
    # Seen off the central ray an object shows the side it would show turned by that angle.
    axis = np.cross(np.broadcast_to([0.0, 0, 1], direction.shape), direction)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    R_off_axis = se3.exp_so3(axis / np.maximum(sine, 1e-12) * np.arctan(sine))
    R = R_off_axis @ R_roll @ rotations @ frame.rotation
    centre = direction * (factor * frame.sod_mm)[:, None]
    return se3.rigid(R, centre - R @ frame.centre_lps_mm)
