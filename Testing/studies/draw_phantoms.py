"""Put AP and lateral DRRs of simulated patients beside those of a real one, whole body and bone only.

The real CT is the abdomen and pelvis test file of the TotalSegmentator repository (Apache-2.0), 3 mm voxels;
its bone is everything above 180 HU.

    python Testing/studies/draw_phantoms.py --real CT [--seeds 0 1 2 3 4 5] [--out Resources/Figures]
    python Testing/studies/draw_phantoms.py --regions [--beside knee=XRAY.png wrist=XRAY.tif chest=CT.nii.gz]

``--regions`` draws the phantoms of other regions of the body: two seeds each, from in front and from the
side, and what is given to stand beside them, pictures as they are, CTs as DRRs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from PIL import Image
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.views import PoseFrame
from SOPIRegistrationLib.images.attenuation import BONE_THRESHOLD_HU, MU_WATER, attenuation_of_hu
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom
from SOPIRegistrationLib.simulation.regions import REGIONS, random_region

SDD_MM, SOD_MM = 1300.0, 900.0


def read_real(path: Path) -> tuple[Volume, np.ndarray, np.ndarray]:
    """CT, bone mask, point to look at (LPS mm) of the real patient."""
    image = sitk.ReadImage(str(path))
    index_to_lps = np.eye(4)
    index_to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    index_to_lps[:3, 3] = image.GetOrigin()
    ct = Volume(sitk.GetArrayFromImage(image), index_to_lps)
    # The lumbar spine of this file, in index coordinates.
    return ct, ct.array > 180, ct.points_lps([60.0, 47.0, 70.0])


def drr(ct: Volume, bone: np.ndarray | None, centre, view: str) -> np.ndarray:
    """Line integrals seen by a wide detector."""
    attenuation = attenuation_of_hu(ct.array.astype(np.float32))
    if bone is not None:
        attenuation = np.where(bone, attenuation, np.float32(0))
    camera = Camera.from_c_arm(SDD_MM, (1.2, 1.2), 330, 330)
    frame = PoseFrame(centre, SOD_MM, view)
    return project(ProjectorVolume(ct.same_grid(attenuation)), camera, frame.T_nominal)


def draw(patients, with_bone_only: bool, path: Path) -> None:
    """One row a view, one column a patient."""
    figure, axes = plt.subplots(
        2, len(patients), figsize=(2.0 * len(patients), 4.1), dpi=150, layout="constrained"
    )
    for column, (name, ct, bone, centre) in enumerate(patients):
        for row, view in enumerate(("AP", "LLAT")):
            image = drr(ct, bone if with_bone_only else None, centre, view)
            axis = axes[row, column]
            low = 0 if with_bone_only else np.quantile(image[image > 0], 0.1)
            axis.imshow(image, cmap="gray", vmin=low, vmax=np.quantile(image, 0.998))
            axis.axis("off")
        axes[0, column].set_title(name, fontsize=8)
    figure.canvas.draw()
    grey = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    Image.fromarray(grey).save(path, optimize=True)
    plt.close(figure)


def draw_regions(seeds: list[int], beside: dict[str, list[Path]], spacing_mm: float, path: Path) -> None:
    """One row a region: each seed from in front and from the side, then real images."""
    columns = 2 * len(seeds) + max((len(paths) for paths in beside.values()), default=0)
    figure, axes = plt.subplots(
        len(REGIONS), columns, figsize=(1.9 * columns, 1.95 * len(REGIONS)), dpi=100, layout="constrained"
    )
    for row, name in enumerate(REGIONS):
        images = []
        for seed in seeds:
            made = random_region(name, seed, spacing_mm)
            middle = made.labels.points_lps(np.argwhere(made.labels.array > 0)[:, ::-1].mean(axis=0))
            images += [(f"phantom {seed}", region_drr(made.ct, middle, view)) for view in ("AP", "LLAT")]
        images += [("real", real_image(path)) for path in beside.get(name, [])]
        for axis, (title, image) in zip(axes[row], images, strict=False):
            # Metal is white in a radiograph, and leaves the rest of the picture its contrast.
            shown = image[image > 0.05 * image.max()]
            axis.imshow(
                image, cmap="gray", vmin=0 if image.min() >= 0 else None, vmax=np.quantile(shown, 0.97)
            )
            axis.set_title(title, fontsize=7, pad=2)
        for axis in axes[row]:
            axis.axis("off")
        axes[row, 0].text(
            -0.06, 0.5, name, rotation=90, va="center", transform=axes[row, 0].transAxes, fontsize=8
        )
    figure.canvas.draw()
    grey = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    Image.fromarray(grey).save(path, optimize=True)
    plt.close(figure)


def region_drr(ct: Volume, centre, view: str) -> np.ndarray:
    """Line integrals through all of it, metal as dense as it is."""
    attenuation = MU_WATER * np.maximum(1 + ct.array / np.float32(1000), 0)
    camera = Camera.from_c_arm(SDD_MM, (1.9, 1.9), 200, 200)
    return project(
        ProjectorVolume(ct.same_grid(attenuation)), camera, PoseFrame(centre, SOD_MM, view).T_nominal
    )


def real_image(path: Path) -> np.ndarray:
    """A real X-ray, bone bright, at the size of the others; of a CT its DRR from in front."""
    if path.suffix in (".gz", ".nrrd", ".mha"):
        ct = read_volume(path)
        ct = ct.same_grid(ct.array.astype(np.float32))
        bone = np.argwhere(ct.array > BONE_THRESHOLD_HU)
        return region_drr(ct, ct.points_lps(bone[:, ::-1].mean(axis=0)), "AP")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("F").resize((400, round(400 * picture.height / picture.width))))
    return pixels.max() - pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, help="the real CT")
    parser.add_argument("--regions", action="store_true", help="draw those of other regions")
    parser.add_argument(
        "--beside", nargs="*", default=[], metavar="REGION=FILE", help="real images, bone dark"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--spacing", type=float, default=1.5, help="voxel size of the phantoms, mm")
    parser.add_argument("--out", type=Path, default=Path("Resources/Figures"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.regions:
        beside: dict[str, list[Path]] = {}
        for entry in arguments.beside:
            name, _, file = entry.partition("=")
            beside.setdefault(name, []).append(Path(file))
        draw_regions(arguments.seeds[:2], beside, arguments.spacing, arguments.out / "phantoms_regions.png")
        return
    if arguments.real is None:
        parser.error("give --real CT, or --regions")
    patients = []
    for seed in arguments.seeds:
        phantom = lumbar_phantom(seed, arguments.spacing)
        centre = phantom.T_vertebra_to_lps[22][:3, 3]
        patients.append((f"phantom {seed}", phantom.ct, phantom.labels.array > 0, centre))
    patients.append(("real CT, 3 mm", *read_real(arguments.real)))
    draw(patients, False, arguments.out / "phantoms_whole_body.png")
    draw(patients, True, arguments.out / "phantoms_bone.png")


if __name__ == "__main__":
    main()
