"""Networks of one patient for the configurations ``Resources/Evaluation/configs/patient*.toml``.

    python Testing/studies/train_patient_networks.py --ct CT.nii.gz --budget 10 --out DIR
    python Testing/studies/train_patient_networks.py --wrist ../shared/data/wrist --budget 10 --out DIR

With a CT: every configuration as Zhang et al. (MICCAI 2023) have it is trained on the CT's bones for so many
minutes, or on if it was: A: EfficientNet-B0, B: autoencoder, C: attention, *: a set of DRRs that grows
(incremental learning) in place of a fixed one; "light" is a small network for CPUs in place of
EfficientNet-B0. Salehi: A with the geodesic loss. Grimm: A with pose-dependent weights and the full domain
randomisation; the others have half of it.

With the wrist data: a network for each camera, trained on the radius alone about a rough view some 20 degrees
off. ``sopi evaluate --config Resources/Evaluation/configs/patient.toml`` looks for them in ``networks``
beside it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from SOPIRegistrationLib.evaluation.simulated import SimulatedCases
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.networks.patient import CONFIGURATIONS
from SOPIRegistrationLib.networks.weights import CARD_HEADINGS, save_weights
from SOPIRegistrationLib.training.patient import configured, patient_trainer
from SOPIRegistrationLib.training.settings import PatientTrainingSettings
from tqdm import tqdm

FIXED_SET = 4096


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how."""

    network: str
    grows: bool = False
    loss: str = "correction"
    strength: float = 0.5

    def settings(self, budget_minutes: float, **others) -> PatientTrainingSettings:
        settings = PatientTrainingSettings(
            budget_seconds=60 * budget_minutes, loss=self.loss, strength=self.strength, **others
        )
        return settings if self.grows else replace(settings, first_drrs=FIXED_SET, new_drrs=0)


RECIPES = {
    "Salehi": Recipe("A", loss="geodesic"),
    "Grimm": Recipe("A", loss="pose-dependent", strength=1.0),
    "light Salehi": Recipe("light", loss="geodesic"),
    "light Grimm": Recipe("light", loss="pose-dependent", strength=1.0),
    **{network: Recipe(network) for network in CONFIGURATIONS},
    **{f"[{network}]*": Recipe(network, grows=True) for network in CONFIGURATIONS},
}


def trained(
    out: Path,
    recipe: Recipe,
    ct: PreparedCT,
    camera: Camera,
    T_reference: np.ndarray,
    budget: float,
    **settings,
) -> Path:
    """Weights of a network in a folder, trained on if its budget is not used up."""
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configured(CONFIGURATIONS[recipe.network], ct, camera, T_reference)
    with tqdm(
        total=100, desc=f"training {out.name}", bar_format="{l_bar}{bar:20}| {elapsed} {postfix}"
    ) as bar:

        def report(progress) -> bool:
            bar.n = round(100 * progress.fraction)
            if progress.row is not None:
                bar.set_postfix_str(
                    "{rotation_deg:.1f} deg {in_plane_mm:.1f} mm {depth_mm:.0f} mm".format(**progress.row)
                )
            return False

        done = patient_trainer(ct, config, recipe.settings(budget, **settings), out, device, report).run()
    path = out / "patient.safetensors"
    save_weights(path, done.network, dict.fromkeys(("name", *CARD_HEADINGS), "study"), half=True)
    return path


def train_ct(options) -> None:
    """A folder for each configuration."""
    case = SimulatedCases("wide", "ours", (options.ct,), content="bone").make(0)
    camera = case.radiographs[0].camera
    for label in options.configurations:
        folder = options.out / label.replace("[", "").replace("]*", " growing")
        reference = case.frame.T_nominal
        trained(folder, RECIPES[label], case.ct, camera, reference, options.budget, content="bone")


def train_wrist(options) -> None:
    """A folder for each camera."""
    ct = prepare_ct(read_volume(options.wrist / "radius.nii.gz"))
    geometry = load_geometry(options.wrist / "cameras.json")
    gold = json.loads((options.wrist / "gold_0099.json").read_text(encoding="utf-8"))
    T_gold = np.array(gold["T_radius_lps_to_world"])
    rng = np.random.default_rng(options.seed)
    for camera in geometry.cameras:
        # Some 20 degrees and 15 mm from the truth: who holds the wrist knows that much.
        direction = rng.normal(size=(2, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        offset = (direction * [[np.deg2rad(20.0)], [15.0]]).ravel()
        T_true = camera.T_world_to_camera @ T_gold
        T_rough = se3.move_about(T_true[None], offset[None], ct.rotation_centre_lps_mm)[0]
        trained(
            options.out / f"wrist {camera.name}",
            Recipe(options.wrist_network, grows=True, strength=1.0),
            ct,
            camera,
            T_rough,
            options.budget,
            deviation=(15.0, 15.0, 15.0, 12.0, 12.0, 30.0),
        )


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ct", type=Path, help="CT, anything SimpleITK reads")
    what.add_argument("--wrist", type=Path, help="folder of the wrist data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of training, each")
    parser.add_argument("--configurations", nargs="+", choices=RECIPES, default=["[light]*"])
    parser.add_argument("--wrist-network", choices=CONFIGURATIONS, default="light")
    parser.add_argument("--seed", type=int, default=1, help="of the wrist's rough views")
    options = parser.parse_args()
    if options.ct:
        train_ct(options)
    else:
        train_wrist(options)


if __name__ == "__main__":
    main()
