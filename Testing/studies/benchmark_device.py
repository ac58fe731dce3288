"""Frames and training steps a second on a device: this projector beside others, and the two trainings.

    python Testing/studies/benchmark_device.py projectors --pixels 128 200 256 512 1024 --out DIR
    python Testing/studies/benchmark_device.py training --out DIR

``projectors``: images, and images with their pose gradients (ours: the whole Jacobian), of batches of poses
of a lumbar phantom; voxels, poses and results stay on the device. Peers take as many samples a ray as our
step puts into the depth of the volume. All renderers are timed in turn on each image size, so that ratios
are of one run. Sizes that DIR holds already are not measured again. *Agreement* is the correlation with our
image. ``training``: steps and X-rays a second of RTPI and IFR, and the share of time that rendering takes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from SOPIRegistrationLib.cli.benchmark import phantom_volumes
from SOPIRegistrationLib.evaluation.benchmark import SOD_MM, THETA, benchmark_camera, processor
from SOPIRegistrationLib.evaluation.peers import DiffDrr, NanoDrr
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.networks.comparing import ComparingConfig
from SOPIRegistrationLib.networks.composite import CONFIGURATIONS, CompositeSimilarity
from SOPIRegistrationLib.projector import ProjectorVolume
from SOPIRegistrationLib.projector.autograd import project_tensors
from SOPIRegistrationLib.training.ifr import START_DEVIATION, EmbeddingTask
from SOPIRegistrationLib.training.muon import Muon
from SOPIRegistrationLib.training.pairs import draw_pairs
from SOPIRegistrationLib.training.patients import PatientPool
from SOPIRegistrationLib.training.rtpi import ComparingTask, Stopwatch
from SOPIRegistrationLib.training.settings import PairOptions, PatientMix
from SOPIRegistrationLib.whole_files import written_aside

PROJECTOR_COLUMNS = (
    *("content", "pixels", "poses", "renderer", "operation", "frames_per_second", "ratio", "agreement"),
    "note",
)
TRAINING_COLUMNS = ("network", "steps_per_second", "xrays_per_second", "rendering_share", "device")


class Ours:
    """This projector on a device."""

    name = "ours"

    def __init__(self, volume: Volume, camera: Camera, T: torch.Tensor, samples: int):
        self._volume, self._camera, self._T = ProjectorVolume(volume), camera, T

    def image(self) -> torch.Tensor:
        return project_tensors(self._volume, self._camera, self._T)[0]

    def image_and_gradient(self) -> torch.Tensor:
        return project_tensors(self._volume, self._camera, self._T, with_jacobian=True)[0]


class Peer:
    """A renderer whose poses are matrices camera -> LPS, differentiated by autograd."""

    def __init__(self, render: Callable[[torch.Tensor], torch.Tensor], T: torch.Tensor):
        self._render, self._T = render, torch.linalg.inv(T).float()

    @torch.no_grad()
    def image(self) -> torch.Tensor:
        return self._render(self._T)

    def image_and_gradient(self) -> torch.Tensor:
        T = self._T.clone().requires_grad_()
        image = self._render(T)
        image.sum().backward()
        return image


def nanodrr(volume: Volume, camera: Camera, T: torch.Tensor, samples: int) -> Peer:
    """Its fused kernel on a GPU, else its torch path."""
    return Peer(NanoDrr(volume, camera, samples).to(T.device).render, T)


def diffdrr(volume: Volume, camera: Camera, T: torch.Tensor, samples: int) -> Peer:
    """Its trilinear renderer."""
    return Peer(DiffDrr(volume, camera, "trilinear", samples).to(T.device).render, T)


def flashdrr(volume: Volume, camera: Camera, T: torch.Tensor, samples: int) -> Peer:
    """Its fused Triton renderer; CUDA only."""
    if T.device.type != "cuda":
        raise ImportError("it runs on CUDA devices alone")
    from flashdrr.rendering import FusedVolumeRenderer

    density = torch.from_numpy(np.ascontiguousarray(volume.array.T, dtype=np.float32)).to(T.device)
    shape = torch.tensor(density.shape, device=T.device)
    density = density.expand(len(T), 1, *density.shape)
    lps_to_index = torch.from_numpy(volume.lps_to_index).float().to(T.device)
    # Depths are along the central ray: its rays need not be of unit length.
    rays = camera.unit_rays()
    rays = torch.from_numpy((rays / rays[..., 2:]).astype(np.float32)).to(T.device)
    corners = volume.points_lps(np.array(list(np.ndindex(2, 2, 2))) * np.array(volume.array.shape[::-1]))
    T_numpy = T.cpu().numpy()
    depth = T_numpy[:, 2, :3] @ corners.T + T_numpy[:, 2, 3:]
    near, far = (torch.from_numpy(d).float().to(T.device) for d in (depth.min(axis=1), depth.max(axis=1)))
    renderer = FusedVolumeRenderer(samples)

    def render(T_camera_to_lps: torch.Tensor) -> torch.Tensor:
        return renderer(density, T_camera_to_lps, near, far, lps_to_index, shape, rays, return_tau=True)[:, 0]

    return Peer(render, T)


RENDERERS = {"ours": Ours, "nanodrr": nanodrr, "flashdrr": flashdrr, "DiffDRR trilinear": diffdrr}


def projectors(options) -> None:
    """A table of frames a second for each image size."""
    path = options.out / "projectors.csv"
    rows = _known(path)
    for content, volume in phantom_volumes(options.voxels).items():
        for pixels in options.pixels:
            if any((row["content"], int(row["pixels"])) == (content, pixels) for row in rows):
                continue
            rows += compare(content, volume, pixels, options)
            _write(path, PROJECTOR_COLUMNS, rows)
    for row in rows:
        print(", ".join(f"{name} {row[name]}" for name in PROJECTOR_COLUMNS if row[name] != ""))


def compare(content: str, volume: Volume, pixels: int, options) -> Iterator[dict]:
    """Rows of one volume and image size."""
    camera, frame = benchmark_camera(pixels), PoseFrame(volume.centre_lps_mm, SOD_MM)
    # Batches of large images are smaller: what a peer keeps for its gradient must fit.
    poses = max(1, min(options.poses, options.poses * 256**2 // pixels**2))
    theta = THETA * np.random.default_rng(0).uniform(-1, 1, (poses, 6))
    T = torch.from_numpy(frame.T_from_theta(theta)).to(options.device)
    samples = max(volume.array.shape)
    ours, first = None, {}
    for name, make in RENDERERS.items():
        row = {"content": content, "pixels": pixels, "poses": poses, "renderer": name, "operation": ""}
        row |= dict.fromkeys(("frames_per_second", "ratio", "agreement", "note"), "")
        try:
            renderer = make(volume, camera, T, samples)
            image = renderer.image().detach()
        except (ImportError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            # A peer that is missing, or whose interface has changed, does not stop the others.
            yield row | {"note": f"not measured: {str(error).splitlines()[0] if str(error) else type(error)}"}
            continue
        ours = image if ours is None else ours
        agreement = float(torch.corrcoef(torch.stack([image.flatten(), ours.flatten()]).float())[0, 1])
        for operation in ("image", "image_and_gradient"):
            try:
                rate = poses / seconds(getattr(renderer, operation), T.device, options.seconds)
            except RuntimeError as error:
                yield row | {"operation": operation, "note": str(error).splitlines()[0]}
                continue
            first.setdefault(operation, rate)
            yield row | {
                "operation": operation,
                "frames_per_second": f"{rate:.1f}",
                "ratio": f"{first[operation] / rate:.2f}",
                "agreement": f"{agreement:.4f}",
            }


def seconds(call: Callable, device: torch.device, least: float) -> float:
    """Of one call, on the average of so many seconds; compiled before."""
    call()
    count, elapsed, began = 0, 0.0, _now(device)
    while elapsed < least:
        call()
        count += 1
        elapsed = _now(device) - began
    return elapsed / count


def training(options) -> None:
    """Steps a second of both trainings."""
    device = torch.device(options.device)
    pool = PatientPool(options.patients, 4, mix=PatientMix(structures=0.5, regions=0.5), seed=0)
    pool.fill()
    small = CONFIGURATIONS["light"]
    tasks = {
        "RTPI": (ComparingTask(ComparingConfig()), PairOptions(starts=3)),
        "IFR": (EmbeddingTask(CompositeSimilarity, small), PairOptions(start_deviation=START_DEVIATION)),
    }
    rows = []
    for name, (task, pair_options) in tasks.items():
        network = task.network().to(device).train()
        optimizer = Muon(network, 0.01)
        rng, rendering = np.random.default_rng(0), Stopwatch()

        def step(
            task=task,
            network=network,
            optimizer=optimizer,
            pair_options=pair_options,
            rng=rng,
            rendering=rendering,
        ):
            with rendering.running(), _finished(device):
                pairs = draw_pairs(pool.patients, options.group, task.pixels, pair_options, rng, device)
            for loss in task.losses(network, pairs, rendering):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        step()
        rendering.seconds, began, count = 0.0, _now(device), 0
        while _now(device) - began < options.seconds:
            step()
            count += 1
        elapsed = _now(device) - began
        xrays = count * options.patients * options.group / elapsed
        values = (
            f"{count / elapsed:.2f}",
            f"{xrays:.1f}",
            f"{rendering.seconds / elapsed:.2f}",
            _device_name(device),
        )
        rows.append(dict(zip(TRAINING_COLUMNS, (name, *values), strict=True)))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    _write(options.out / "training.csv", TRAINING_COLUMNS, rows)


@contextmanager
def _finished(device: torch.device) -> Iterator[None]:
    """Whatever was begun inside has ended when it is left."""
    yield
    _now(device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def _known(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_subparsers(required=True)
    for run in (projectors, training):
        part = what.add_parser(run.__name__)
        part.set_defaults(run=run)
        part.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        part.add_argument("--out", type=Path, required=True, help="folder of the table")
        part.add_argument("--seconds", type=float, default=2.0, help="of each measurement (2)")
    what.choices["projectors"].add_argument(
        "--pixels", type=int, nargs="+", default=[128, 200, 256, 512, 1024]
    )
    what.choices["projectors"].add_argument("--voxels", type=int, default=128)
    what.choices["projectors"].add_argument(
        "--poses", type=int, default=64, help="in a batch, up to 256 pixels (64)"
    )
    what.choices["training"].add_argument("--patients", type=int, default=8)
    what.choices["training"].add_argument("--group", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.run(options)


if __name__ == "__main__":
    main()
