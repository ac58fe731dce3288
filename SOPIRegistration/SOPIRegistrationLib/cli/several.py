"""``sopi register`` of several bodies: CTs, the parts of a labelled CT, and surfaces."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from SOPIRegistrationLib.cli.bodies import body_names, materials_of, read_body
from SOPIRegistrationLib.cli.common import progress_bar, staged
from SOPIRegistrationLib.cli.request import (
    open_views,
    pose_frame,
    prepared_views,
    request_of,
    say_contradictions,
    with_depth_of_start,
)
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.itk_reading import require_file
from SOPIRegistrationLib.registration import warm_up
from SOPIRegistrationLib.registration.bodies import register_bodies
from SOPIRegistrationLib.registration.bodies_result import BodiesResult
from SOPIRegistrationLib.registration.outputs import write_bodies_results
from SOPIRegistrationLib.registration.pose_files import read_start
from SOPIRegistrationLib.settings import choices, option
from SOPIRegistrationLib.subject import Subject
from SOPIRegistrationLib.subject.bodies import Bodies, RigidBody
from SOPIRegistrationLib.subject.labelled import cut_up, label_names
from SOPIRegistrationLib.subject.surface import is_surface

# What --init may name instead of a file.
_WAYS_TO_START = choices(option("init"))


def is_of_several(args: argparse.Namespace) -> bool:
    """Whether a command line is of several bodies."""
    return args.labels is not None or bool(args.xray and args.xrays)


def run_several(args: argparse.Namespace) -> int:
    """Register several bodies, print a summary, write the results.

    Raises:
        InputError: an input is unusable.
    """
    began = time.perf_counter()
    paths = _bodies_asked_for(args)
    starts = start_files(args.init)
    # Starts of single bodies are told apart later: what is not given is sought.
    if starts:
        args.init = str(starts.get("", "auto"))
    request = request_of(args)
    radiographs, geometry, all_cameras = open_views(request)
    bodies = read_bodies(paths, args.labels, args.material, request.mask, request.bone_threshold)
    bodies = bodies.held([_hold(word) for word in args.held], args.fixed)
    settings = request.settings
    views = prepared_views(request, radiographs, geometry, bodies.are_metal)
    of_whom = (bodies.whole or bodies.bodies[0].subject).ct
    first = starts.get("") or next(iter(starts.values()), None)
    if first is not None:
        geometry = with_depth_of_start(geometry, of_whom, first, all_cameras)
    frame = pose_frame(geometry, of_whom, request.geometry)
    poses = {}
    for name in bodies.names:
        if (file := starts.get(name, starts.get(""))) is not None:
            poses[name] = read_start(file, frame, all_cameras, geometry.camera)
    bodies.require(filter(None, starts))
    say_contradictions(radiographs, geometry)
    for subject in [bodies.whole] if bodies.whole else [body.subject for body in bodies.bodies]:
        warm_up(subject, settings)
    seconds_preparation = time.perf_counter() - began
    with staged(args.out) as folder:
        with progress_bar("registration") as update:
            result = register_bodies(
                bodies, views, frame, settings, poses, lambda state: update(state.fraction, state.stage)
            )
        files = write_bodies_results(folder, result, bodies, geometry, seconds_preparation)
    print(summary(result, seconds_preparation, files, args.out))
    return 0


def _bodies_asked_for(args: argparse.Namespace) -> list[Path]:
    """Files of the bodies; what stands after the first is one where ``--xrays`` names the X-rays.

    Raises:
        InputError: no X-ray.
    """
    if not args.xrays and not args.xray:
        raise InputError(f"{args.ct}: no X-ray is given: name it after --xrays")
    paths = [args.ct, *args.xray] if args.xrays else [args.ct]
    args.xrays, args.xray = args.xrays or args.xray, []
    return paths


def start_files(words: str | Sequence[str]) -> dict[str, Path]:
    """Start poses by body, of the words of ``--init``; of all bodies by an empty name.

    Raises:
        InputError: a file that is not there, or two for one body.
    """
    if isinstance(words, str) or (len(words) == 1 and words[0] in _WAYS_TO_START):
        return {}
    files: dict[str, Path] = {}
    for word in words:
        name, separator, file = word.partition("=")
        if not separator or Path(word).exists():
            name, file = "", word
        if name in files:
            raise InputError(f"--init {word}: two start poses for {name or 'all bodies'}: give one")
        files[name] = require_file(Path(file), "start pose")
    return files


def read_bodies(
    paths: Sequence[Path],
    labels_of_ct: str | None,
    materials: Sequence[str],
    mask: Path | None,
    bone_threshold_hu: float | None,
) -> Bodies:
    """The bodies of a command line, read and prepared.

    Args:
        paths: CTs and surfaces.
        labels_of_ct: word of ``--labels``, which cuts up the one CT; None for CTs as they are.
        materials: words of ``--material``.
        mask: label map of the CTs' bones.
        bone_threshold_hu: threshold of the CTs' bones.

    Raises:
        InputError: one is unusable, or an option does not go with them.
    """
    names = body_names(paths)
    cts = [path for path in paths if not is_surface(path)]
    if labels_of_ct is not None and len(cts) != 1:
        raise InputError(f"--labels {labels_of_ct} cuts up one CT, and {len(cts)} are given: give one CT")
    made: list[RigidBody] = []
    labelled: Bodies | None = None
    for path, name in zip(paths, names, strict=True):
        surface = is_surface(path)
        material = materials_of(materials, path, name, names)
        # One body's mask and threshold are not another's.
        of_ct = (None, None) if surface and len(paths) > 1 else (mask, bone_threshold_hu)
        prepared = read_body(path, *of_ct, material)
        if surface or labels_of_ct is None:
            made.append(RigidBody(name, Subject(prepared)))
            continue
        file, words = labels_word(labels_of_ct)
        labels = replace(read_volume(file, "label map"), name=str(file))
        for note in labels.notes:
            print(f"note: {note}", file=sys.stderr)
        labelled = cut_up(prepared, labels, label_names(file, labels, words))
        made.extend(labelled.bodies)
    bodies = Bodies(tuple(made))
    if labelled is not None:
        bodies = replace(labelled, bodies=tuple(made))
    return bodies


def labels_word(word: str) -> tuple[Path, list[str]]:
    """The file and the names of ``--labels FILE[:NAME,...]``."""
    if Path(word).exists():
        return Path(word), []
    file, separator, names = word.rpartition(":")
    if not separator:
        return require_file(Path(word), "label map"), []
    return require_file(Path(file), "label map"), [name.strip() for name in names.split(",") if name.strip()]


def _hold(word: str) -> tuple[str, str]:
    body, separator, parent = word.partition("=")
    if not (body and separator and parent):
        raise InputError(f"--held {word}: write BODY=PARENT")
    return body, parent


def summary(result: BodiesResult, seconds_preparation: float, files: Sequence[str], out: Path) -> str:
    """What a person wants to know of a registration of several bodies."""
    width = max(len(body.name) for body in result.bodies)
    lines = []
    for body in result.bodies:
        verdict, shift = body.verdict, ""
        if verdict.predicted_error_mm is not None:
            x, y, z = verdict.predicted_error_mm
            shift = f"; predicted error {x:.2f}, {y:.2f}, {z:.2f} mm along x, y, depth"
        lines.append(f"{body.name:<{width}}  {verdict.status.upper()}: {'; '.join(verdict.reasons)}{shift}")
        lines += [f"{body.name:<{width}}  or: {one.summary}" for one in body.alternatives]
    for pair in result.pairs:
        error = np.linalg.norm(pair.predicted_error_mm), np.linalg.norm(pair.predicted_error_deg)
        told = f"predicted error {error[0]:.2f} mm, {error[1]:.2f} deg"
        lines.append(f"{pair.body:<{width}}  against {pair.parent}: {told}")
    lines.append(f"time     {result.seconds:.1f} s, reading and preparing {seconds_preparation:.1f} s")
    lines.append(f"written  {out}: {', '.join(files)}")
    return "\n".join(lines)
