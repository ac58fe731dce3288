"""Time and memory of DRR renderers on the same volume, geometry and machine."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from SOPIRegistrationLib.evaluation.peers import DiffDrr, NanoDrr, Ours, Rtk, installed_version
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume

IMAGE, IMAGE_AND_GRADIENT = "image", "image + pose gradient"
# The C-arm of the SOPI paper's experiments (Perlove PLX118F): flat panel of 1024 x 0.19959 mm.
SDD_MM, SOD_MM, DETECTOR_MM = 1011.7, 700.0, 1024 * 0.19959
# Off the nominal AP view, so that no ray runs along a row of voxels.
THETA = np.array([*np.deg2rad([5.0, -4.0, 3.0]), 4.0, -3.0, 10.0])
# A call is repeated until it has run this long: one call of a few ms says little.
_SECONDS_A_MEASUREMENT = 0.2
_SAMPLES_BY_DEFAULT = 500


@dataclass(frozen=True)
class Measurement:
    """One renderer doing one thing.

    Attributes:
        content: name of the volume.
        pixels: edge of the square image.
        renderer: name of the renderer.
        operation: ``IMAGE`` or ``IMAGE_AND_GRADIENT`` (of a scalar loss, by the pose).
        seconds: (repeats,) of one call, the same repeat of all renderers taken within moments of each other.
        peak_mb: memory that one call added at its peak, MB; None where the system does not tell.
        agreement: with ours: correlation of the images, or cosine of the pose gradients.
    """

    content: str
    pixels: int
    renderer: str
    operation: str
    seconds: np.ndarray
    peak_mb: float | None
    agreement: float

    @property
    def is_ours(self) -> bool:
        return self.renderer.startswith("ours")

    def over(self, other: Measurement) -> tuple[float, float, float]:
        """Median, least and greatest of the times of ``other`` that this takes, repeat by repeat."""
        ratios = self.seconds / other.seconds
        return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def benchmark_camera(pixels: int) -> Camera:
    """The whole detector in ``pixels`` x ``pixels``."""
    pitch = DETECTOR_MM / pixels
    return Camera.from_c_arm(SDD_MM, (pitch, pitch), pixels, pixels)


def build_renderers(volume: Volume, camera: Camera, T_lps_to_camera) -> tuple[list, dict[str, str]]:
    """Every renderer that is installed, and why the others are missing.

    Sampling peers appear twice: with as many samples as our step (a voxel) puts into the depth of the
    volume, and with the number they take by default.
    """
    corners = volume.points_lps(np.array(list(np.ndindex(2, 2, 2))) * np.array(volume.array.shape[::-1]))
    depth_mm = np.ptp(corners @ T_lps_to_camera[2, :3])
    samples = round(depth_mm / volume.spacing_mm.min())
    makers = {
        "RTK": [Rtk],
        "nanodrr": [partial(NanoDrr, samples=n) for n in (samples, _SAMPLES_BY_DEFAULT)],
        "DiffDRR": [
            DiffDrr,
            *(partial(DiffDrr, renderer="trilinear", samples=n) for n in (samples, _SAMPLES_BY_DEFAULT)),
        ],
    }
    renderers, missing = [Ours(volume, camera)], {}
    for package, variants in makers.items():
        try:
            renderers += [make(volume, camera) for make in variants]
        except ImportError as error:
            missing[package] = str(error)
    return renderers, missing


def compare(
    content: str, volume: Volume, pixels: int, repeats: int, tick: Callable[[], None]
) -> tuple[list[Measurement], dict[str, str]]:
    """Measure all installed renderers on one volume and image size, their calls interleaved.

    Args:
        content: name of the volume in the results.
        volume: attenuation, 1/mm.
        pixels: edge of the square image.
        repeats: how often each is measured.
        tick: called after every round over the renderers, ``repeats + 1`` times.

    Returns:
        measurements, ours first, and the packages that are not installed with the reason.
    """
    camera, frame = benchmark_camera(pixels), PoseFrame(volume.centre_lps_mm, SOD_MM)
    T = frame.T_from_theta(THETA)
    renderers, missing = build_renderers(volume, camera, T)
    ours = renderers[0]
    image = ours.image(T)
    # The gradient of a registration's loss: weighted by a residual.
    weights = image - ours.image(frame.T_nominal)
    gradient = ours.image_and_gradient(T, weights)[1]

    calls, agreements = [], []
    for renderer in renderers:
        calls.append((renderer, IMAGE, partial(renderer.image, T)))
        agreements.append(_correlation(calls[-1][2](), image))
        if renderer.has_gradient:
            calls.append((renderer, IMAGE_AND_GRADIENT, partial(renderer.image_and_gradient, T, weights)))
            agreements.append(_cosine(calls[-1][2]()[1], gradient))
    # Every call has run once: what it loads or compiles the first time is not counted.
    peaks = [_peak_memory_mb(call) for _, _, call in calls]
    tick()
    seconds = np.empty((repeats, len(calls)))
    for repeat in range(repeats):
        for column, (_, _, call) in enumerate(calls):
            seconds[repeat, column] = _seconds(call)
        tick()
    figures = zip(calls, seconds.T, peaks, agreements, strict=True)
    return [
        Measurement(content, pixels, renderer.name, operation, times, peak_mb, agreement)
        for (renderer, operation, _), times, peak_mb, agreement in figures
    ], missing


def _seconds(call) -> float:
    count, elapsed, start = 0, 0.0, perf_counter()
    while not count or elapsed < _SECONDS_A_MEASUREMENT:
        call()
        count += 1
        elapsed = perf_counter() - start
    return elapsed / count


def _correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def _cosine(a, b) -> float:
    """Between gradients whose rotations count as displacements at the source-object distance."""
    scale = np.array([1 / SOD_MM] * 3 + [1.0] * 3)
    a, b = a * scale, b * scale
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _peak_memory_mb(call) -> float | None:
    """Resident memory added at the peak of a call, by Linux's resettable high-water mark."""
    try:
        # Freed blocks go back to the system first, or the call would reuse them unseen.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError, TypeError):
        return None
    before = _status_mb("VmRSS")
    call()
    return max(0.0, _status_mb("VmHWM") - before)


def _status_mb(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def machine() -> dict[str, str]:
    """What the figures depend on besides the programs, for the report."""
    import torch

    threads = {"torch": torch.get_num_threads()}
    with suppress(ImportError):
        import numba

        threads["numba"] = numba.get_num_threads()
    with suppress(ImportError):
        import itk

        threads["ITK"] = itk.MultiThreaderBase.GetGlobalDefaultNumberOfThreads()
    distributions = (Ours, Rtk, NanoDrr, DiffDrr)
    packages = [*(renderer.distribution for renderer in distributions), "torch", "numba", "numpy"]
    versions = {package: installed_version(package) or "not installed" for package in packages}
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores{load}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "threads": ", ".join(f"{name} {count}" for name, count in threads.items()),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }


def source_commit() -> str:
    """Commit of the checkout that this program runs from, with "-dirty" where files differ from it; empty
    where it was installed otherwise."""
    root = Path(__file__).resolve().parents[3]
    git = ("git", "-C", str(root))
    options = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], **options).stdout.strip()
        if Path(top).resolve() != root:
            return ""
        return subprocess.run([*git, "describe", "--always", "--dirty"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
