"""Put AP and lateral DRRs of simulated patients beside those of a real one, whole body and bone only.

The real CT is the abdomen and pelvis test file of the TotalSegmentator repository (Apache-2.0), 3 mm voxels;
its bone is everything above 180 HU.

    python Testing/studies/draw_phantoms.py --real CT [--seeds 0 1 2 3 4 5] [--out Resources/Figures]
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
from SOPIRegistrationLib.images.ct_preparation import attenuation_of_hu
from SOPIRegistrationLib.images.volume import Volume
from SOPIRegistrationLib.projector import ProjectorVolume, project
from SOPIRegistrationLib.simulation.phantom import lumbar_phantom

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True, help="the real CT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--spacing", type=float, default=1.5, help="voxel size of the phantoms, mm")
    parser.add_argument("--out", type=Path, default=Path("Resources/Figures"))
    arguments = parser.parse_args()
    patients = []
    for seed in arguments.seeds:
        phantom = lumbar_phantom(seed, arguments.spacing)
        centre = phantom.T_vertebra_to_lps[22][:3, 3]
        patients.append((f"phantom {seed}", phantom.ct, phantom.labels.array > 0, centre))
    patients.append(("real CT, 3 mm", *read_real(arguments.real)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(patients, False, arguments.out / "phantoms_whole_body.png")
    draw(patients, True, arguments.out / "phantoms_bone.png")


if __name__ == "__main__":
    main()
