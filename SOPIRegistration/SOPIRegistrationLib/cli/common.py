"""What the subcommands share: arguments, progress, and outputs that are whole or not there."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.settings import GIVEN, NETWORKS, choices, option, options


def add_ct_arguments(
    parser: argparse.ArgumentParser,
    metavar: str = "CT",
    text: str = "DICOM series folder, NIfTI, NRRD or MHA, in HU",
) -> None:
    """The CT, or a body of whatever kind, and what a CT's bones are.

    Args:
        parser: of the subcommand.
        metavar: what the body is called.
        text: what it may be.
    """
    parser.add_argument("ct", type=Path, metavar=metavar, help=text)
    add_bone_arguments(parser)


def add_bone_arguments(parser: argparse.ArgumentParser) -> None:
    """What a CT's bones are."""
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="label map of the bones of a single CT (every label above 0 counts)",
    )
    parser.add_argument(
        "--bone-threshold", type=float, metavar="HU", help="threshold of the bones without a mask, HU (200)"
    )


def add_setting_arguments(parser: argparse.ArgumentParser, several_starts: bool = False) -> None:
    """How to register: every setting that is a choice among names, and the networks' weights.

    Args:
        parser: of the subcommand.
        several_starts: whether several bodies may have a start pose each.
    """
    for setting in options():
        known = choices(setting)
        named = {"choices": known}
        if setting.name == "init":
            given = "|".join(name for name in known if name != GIVEN)
            named = {"metavar": f"{given}|FILE"}
            if several_starts:
                named = {"metavar": f"{given}|[BODY=]FILE", "nargs": "+"}
        elif setting.name == "device":
            named["type"] = _not_yet("cuda", " or ".join(known))
        parser.add_argument(
            f"--{setting.name}",
            default=setting.default,
            help=f"{setting.metadata['help']} ({setting.default})",
            **named,
        )
    limit = option("time_limit")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=limit.default,
        metavar=limit.metadata["unit"],
        help=f"{limit.metadata['help']} ({limit.default:g})",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NETWORK=FILE",
        help=f"other weights than the installed ones, of {', '.join(NETWORKS)}; a plain FILE is of the "
        f"network of --init, else of {NETWORKS[0]}",
    )


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: type,
    names: Iterable[str],
    **defaults: Any,
) -> None:
    """Fields of settings as options, with the unit, help and choices of their ``metadata``.

    Args:
        parser: of the subcommand, or a group of its options.
        settings: a dataclass (``training.settings``).
        names: of the fields.
        defaults: in place of those of the fields.
    """
    known = {one.name: one for one in fields(settings)}
    for name in names:
        told = known[name].metadata
        default = defaults.get(name, known[name].default)
        several = isinstance(default, tuple)
        shown = "all" if several else f"{default:g}" if isinstance(default, float) else default
        parser.add_argument(
            _option_name(name),
            type=told.get("type"),
            choices=told.get("choices"),
            nargs="+" if several else None,
            default=default,
            metavar=told["unit"],
            help=told["help"] if default is None else f"{told['help']} ({shown})",
        )


def require_ranges(args: argparse.Namespace, settings: type) -> None:
    """Raise InputError unless the options that are fields of settings are in the ranges of these."""
    for one in fields(settings):
        if "range" in one.metadata and getattr(args, one.name, None) is not None:
            require_range(one.name, getattr(args, one.name), *one.metadata["range"])


def require_range(name: str, value: float, least: float, most: float | None = None) -> None:
    """Raise InputError unless an option's value lies between two, or above one."""
    if not least <= value <= (math.inf if most is None else most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise InputError(f"{_option_name(name)} is {value:g}: give {wanted}")


def _option_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _not_yet(word: str, instead: str):
    """Argument type that refuses the word of a choice that does not exist yet."""

    def value(text: str) -> str:
        if text == word:
            raise argparse.ArgumentTypeError(f"{text} is not available in this version: use {instead}")
        return text

    return value


def add_view_argument(parser: argparse.ArgumentParser) -> None:
    """The nominal view."""
    parser.add_argument(
        "--view",
        type=str.upper,
        choices=list(NOMINAL_VIEWS),
        help="nominal view, over what the files say (AP: source in front of the patient)",
    )


def parse_weights(words: Sequence[str], networks: Sequence[str]) -> dict[str, Path]:
    """Files of weights by network.

    Args:
        words: of ``--weights``: ``NETWORK=FILE``, or a plain ``FILE`` for the first network.
        networks: names that may be given.

    Raises:
        InputError: another name, or two files for one network.
    """
    files: dict[str, Path] = {}
    for word in words:
        name, separator, file = word.partition("=")
        if not separator or Path(word).exists():
            name, file = networks[0], word
        if name not in networks:
            raise InputError(f"--weights {word} is for no network: name one of {', '.join(networks)}")
        if name in files:
            raise InputError(f"--weights names two files for {name}: give one")
        files[name] = Path(file)
    return files


def read_ct(path: Path, mask: Path | None, bone_threshold_hu: float | None) -> PreparedCT:
    """Read and prepare a CT, and its mask where there is one, showing how far it is.

    What was assumed or mended in them is printed to stderr, a line each.

    Raises:
        InputError: either is unusable.
    """
    with progress_bar("CT") as update:
        update(0.0, "reading")
        volume = read_volume(path)
        labels = None if mask is None else read_volume(mask, "mask")
        prepared = prepare_ct(volume, labels, bone_threshold_hu, progress=update)
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    return prepared


def has_cuda(device: str) -> bool:
    """Whether to train on a GPU, by "auto", "cpu" or "cuda"; needs torch.

    Raises:
        InputError: a GPU was asked for, and none is usable.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda: no usable GPU here: use cpu, or install a CUDA build of torch")
    return available and device != "cpu"


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr, on a terminal only, gone when done; call with the fraction done and what is done."""
    layout = "{desc}: {percentage:3.0f}% |{bar:30}| {elapsed}{postfix}"
    with tqdm(total=100, desc=title, bar_format=layout, leave=False, disable=None) as bar:

        def update(fraction: float, what: str = "") -> None:
            bar.n = 100 * fraction
            bar.set_postfix_str(what)

        yield update


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to ``folder`` if all goes well, and vanish if not.

    It lies beside where they go, on the same file system: moving is renaming. Files of other names that are
    in ``folder`` stay; what an earlier run wrote is replaced at the end only.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(None, "it is a file")
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        aside = tempfile.TemporaryDirectory(prefix=".sopi-", dir=existing)
    except OSError as error:
        raise _unwritable(folder, error) from None
    with aside:
        written = Path(aside.name)
        yield written
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in written.iterdir():
                if (folder / file.name).is_dir():
                    raise IsADirectoryError(None, f"{file.name} is a folder in it")
            for file in sorted(written.iterdir()):
                file.replace(folder / file.name)
        except OSError as error:
            raise _unwritable(folder, error) from None


def make_folder(folder: Path) -> None:
    """Make a folder for outputs, and those it lies in; raise InputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write to the output folder {folder} ({error.strerror or error}): choose another with --out"
    )
