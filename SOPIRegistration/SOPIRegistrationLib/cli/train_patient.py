"""``sopi train patient``: a pose network for one CT and C-arm, within a budget of time."""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from SOPIRegistrationLib.cli.common import (
    add_bone_arguments,
    add_settings,
    add_view_argument,
    has_cuda,
    make_folder,
    read_ct,
    require_range,
    require_ranges,
)
from SOPIRegistrationLib.cli.request import one_camera, pose_frame
from SOPIRegistrationLib.errors import Cancelled, InputError
from SOPIRegistrationLib.evaluation.benchmark import processor
from SOPIRegistrationLib.geometry.files import load_geometry
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.patient_models import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WEIGHTS,
    PatientModel,
    TrainingStatus,
    forget_request,
    is_asked_to_stop,
    reached,
)
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.training.settings import PatientTrainingSettings

if TYPE_CHECKING:
    from SOPIRegistrationLib.training.trainer import Trained

# Names in networks.patient.CONFIGURATIONS, which needs torch.
NETWORKS = tuple(name + parts for name in ("light", "A") for parts in ("", "+B", "+C", "+B+C"))
_BUDGET_MINUTES = {"cpu": 10.0, "cuda": 2.0}
# Between two writings of the status.
_STATUS_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sopi train patient``."""
    parser.add_argument(
        "--ct",
        type=Path,
        required=True,
        metavar="CT",
        help="DICOM series folder, NIfTI, NRRD or MHA, in HU: the only thing that is learned from",
    )
    parser.add_argument(
        "--geometry",
        required=True,
        metavar="FILE",
        help="geometry JSON (mm, pixels) with width and height, or the name of a C-arm preset",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("patient-model"),
        metavar="DIR",
        help="folder of weights, checkpoint and log.csv; goes on from a checkpoint there (patient-model)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="time to train, earlier runs in the folder included (10, on a GPU 2)",
    )
    parser.add_argument(
        "--range",
        type=float,
        nargs=6,
        metavar=("RX", "RY", "RZ", "TX", "TY", "TZ"),
        help="standard deviations of the poses to expect about the nominal view: deg and mm in camera axes, "
        "TZ is depth (22 deg, about a fifth of the field of view, 15 %% of the distance)",
    )
    parser.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="result.json or transform file of the pose to expect, instead of the nominal view",
    )
    parser.add_argument("--camera", metavar="NAME", help="camera, where the geometry has several (the first)")
    add_view_argument(parser)
    add_bone_arguments(parser)
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        default="light",
        help="a small one for CPUs (light), or EfficientNet-B0 (A); with autoencoder (B), with attention (C)",
    )
    add_settings(parser, PatientTrainingSettings, ("content", "loss", "strength", "steps", "seed"))
    parser.add_argument(
        "--drrs",
        type=int,
        metavar="N",
        help="learn from so many DRRs, instead of ever more (incremental learning)",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(auto)")
    parser.add_argument("--name", metavar="TEXT", help="of the CT, for people (its file's name)")
    parser.set_defaults(train=train)


def train(args: argparse.Namespace) -> int:
    """Train; leaves weights, model card and log in the folder.

    Raises:
        InputError: an option or a file is unusable.
        Cancelled: stopped before anything was learned.
    """
    began = time.monotonic()
    require_ranges(args, PatientTrainingSettings)
    if args.drrs is not None:
        require_range("drrs", args.drrs, 1)
    make_folder(args.out)
    forget_request(args.out)
    watched = _Watched(args.out, args.name or args.ct.name)
    try:
        return _train(args, watched, began)
    except InputError as error:
        watched.end(FAILED, str(error))
        raise
    except (Cancelled, KeyboardInterrupt):
        watched.end(STOPPED, "stopped before anything was learned")
        raise
    except Exception as error:
        watched.end(FAILED, f"{type(error).__name__}: {error}")
        raise


class _Watched:
    """Keeps the status file of a training, and prints its lines."""

    def __init__(self, folder: Path, ct_name: str):
        self._folder = folder
        self._status = TrainingStatus(RUNNING, "starting", ct_name=ct_name)
        self._written = 0.0
        self.tell("reading the CT", at_once=True)

    def tell(self, stage: str, at_once: bool = False, **values) -> None:
        """What it does now, and other attributes of the status that changed."""
        self._status = replace(self._status, stage=stage, **values)
        now = time.monotonic()
        if at_once or now - self._written > _STATUS_SECONDS:
            self._status.write(self._folder)
            self._written = now

    def add_to_curve(self, row: dict[str, float]) -> None:
        """Figures of the held-out poses."""
        point = (row["seconds"] / 60, row["rotation_deg"], row["in_plane_mm"], row["depth_mm"])
        self._status = replace(self._status, curve=(*self._status.curve, point))

    def end(self, state: str, stage: str) -> None:
        """The last status."""
        self.tell(stage, at_once=True, state=state, seconds_left=None)


def _train(args: argparse.Namespace, watched: _Watched, began: float) -> int:
    known = load_geometry(args.geometry, view=args.view)
    chosen = one_camera(known, args.camera or known.camera.name, args.geometry)
    if args.about is not None:
        require_file(args.about, "pose")

    import torch

    from SOPIRegistrationLib.networks.patient import CONFIGURATIONS
    from SOPIRegistrationLib.training.patient import configured, patient_trainer

    device = torch.device("cuda" if has_cuda(args.device) else "cpu")
    budget_minutes = _BUDGET_MINUTES[device.type] if args.budget is None else args.budget
    settings = _settings(args, 60 * budget_minutes)
    ct = read_ct(args.ct, args.mask, args.bone_threshold)
    frame = pose_frame(chosen, ct, args.geometry)
    camera = chosen.camera
    T_reference = frame.T_nominal
    if args.about is not None:
        T_reference = camera.T_world_to_camera @ read_start(args.about, frame, known.cameras, camera)
    config = configured(CONFIGURATIONS[args.network], ct, camera, T_reference)
    watched.tell("making the first X-rays", at_once=True, ct_identity=config.ct_identity)

    def report(progress) -> bool:
        if progress.row is not None:
            watched.add_to_curve(progress.row)
            line = f"step {progress.step}, held-out medians {reached(progress.row)}"
            watched.tell(line, True, fraction=progress.fraction, seconds_left=progress.seconds_left)
            print(f"progress {progress.fraction:.4f} {line}", flush=True)
        else:
            watched.tell("training", fraction=progress.fraction, seconds_left=progress.seconds_left)
        return is_asked_to_stop(args.out)

    # What is read and prepared belongs to the time that a person waits.
    left = max(1.0, settings.budget_seconds - (time.monotonic() - began))
    settings = replace(settings, budget_seconds=left)
    trained = patient_trainer(ct, config, settings, args.out, device, report).run()
    if not trained.best:
        raise Cancelled("stopped before anything was learned")
    _write(args, trained, _card(args, trained, budget_minutes, frame.view, device.type), frame.view)
    watched.end(STOPPED if trained.stopped else DONE, f"reached {reached(trained.best)}")
    print(f"held-out poses, median: {reached(trained.best)}")
    weights = args.out / WEIGHTS
    print(
        f"wrote {weights}, MODEL_CARD.md and log.csv; use: sopi register --init patient --weights {weights}"
    )
    return 0


def _settings(args: argparse.Namespace, budget_seconds: float) -> PatientTrainingSettings:
    growing = {field.name: field.default for field in fields(PatientTrainingSettings)}
    return PatientTrainingSettings(
        budget_seconds=budget_seconds,
        steps=args.steps,
        first_drrs=args.drrs or growing["first_drrs"],
        new_drrs=0 if args.drrs else growing["new_drrs"],
        deviation=None if args.range is None else tuple(args.range),
        content=args.content,
        strength=args.strength,
        loss=args.loss,
        seed=args.seed,
    )


def _write(args: argparse.Namespace, trained: Trained, card: dict, view: str) -> None:
    """Weights, their card, and what the panel lists of the model."""
    from SOPIRegistrationLib.networks.weights import model_card, save_weights

    save_weights(args.out / WEIGHTS, trained.network, card, half=True)
    (args.out / "MODEL_CARD.md").write_text(model_card(card), encoding="utf-8")
    keys = ("rotation_deg", "in_plane_mm", "depth_mm")
    PatientModel(
        ct_identity=trained.network.config.ct_identity,
        ct_name=args.name or args.ct.name,
        network=args.network,
        view=view if args.about is None else f"about {args.about.name}",
        minutes=round(trained.log[-1]["seconds"] / 60, 1),
        date=datetime.now().isoformat(timespec="minutes"),
        figures={key: trained.best[key] for key in keys},
        folder=args.out,
    ).write()


def _card(args, trained, budget_minutes: float, view: str, device: str) -> dict:
    figures, last = trained.best, trained.log[-1]
    return {
        "name": f"Pose network of one patient ({args.network})",
        "intended_use": f"Start poses for X-rays of one patient, CT {args.name or args.ct.name} "
        f"(identity {trained.network.config.ct_identity}), view {view}; always followed by refinement and "
        "verification.",
        "limits": [
            "Knows one CT and no other: it is refused for others.",
            "Trained on simulated X-rays, by a C-arm like the one given.",
            "Not a medical device. Its poses are to be verified.",
        ],
        "data": [
            f"{last['drrs']:.0f} DRRs of the CT",
            f"content {args.content}, degradations up to {args.strength:g}",
            f"range of poses (deg, mm): {args.range or 'default'}",
        ],
        "steps": int(last["step"]),
        "hours": round(last["seconds"] / 3600, 3),
        "machine": f"{processor()}, {platform.system()} {platform.machine()}, {device}, "
        f"budget {budget_minutes:g} minutes",
        "figures": {
            "held-out poses, median": reached(figures),
            "90th percentile": "{rotation_p90_deg:.1f} deg, {in_plane_p90_mm:.1f} mm, "
            "{depth_p90_mm:.0f} mm".format(**figures),
            "at step": f"{figures['step']:.0f} of {last['step']:.0f}",
        },
        "licence": "that of the CT it was made from",
    }
