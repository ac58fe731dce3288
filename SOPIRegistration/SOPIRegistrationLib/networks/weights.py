"""Files of trained weights: safetensors with the network's sizes, a model card and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import installed_weights
from SOPIRegistrationLib.whole_files import written_aside

FORMAT_VERSION = 1
# What a model card must say, in this order, and under which heading.
CARD_HEADINGS = {
    "intended_use": "Intended use",
    "limits": "Limits",
    "data": "Training data",
    "steps": "Training steps",
    "hours": "Hours of training",
    "machine": "Machine",
    "figures": "Figures",
    "licence": "Licence",
}
_METADATA = ("format", "kind", "config", "card", "sha256")
_REMEDY = "install or copy it again, or give another file with --weights"

# Class of its configuration and class of a network, by the kind that its file tells.
KINDS: dict[str, tuple[type, type[nn.Module]]] = {}


class Weights(NamedTuple):
    """A network ready for use (in evaluation mode, float32, on the CPU) and its model card."""

    network: nn.Module
    card: dict[str, Any]


def registered(kind: str, config_class: type) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: networks made from a ``config_class``, which they keep as ``config``, are saved and
    loaded as ``kind``."""

    def register(network_class: type[nn.Module]) -> type[nn.Module]:
        KINDS[kind] = config_class, network_class
        return network_class

    return register


def save_weights(path: str | Path, network: nn.Module, card: Mapping[str, Any], half: bool = False) -> None:
    """Write a network of a registered class; aside first, then renamed.

    Args:
        path: of the file, ``*.safetensors``.
        network: what to write.
        card: entries of the model card: ``name`` and the keys of ``CARD_HEADINGS``; values that JSON takes.
        half: write matrices and kernels in half precision. Vectors (biases, norms and their statistics) stay
            as they are: they are small, and variances may be beyond half precision.

    Raises:
        ValueError: a class that is not registered, a card that lacks an entry, tensors that are not finite
            (as stored).
        InputError: the file cannot be written.
    """
    path = Path(path)
    _check_card(card)
    tensors = {name: _stored(name, tensor, half) for name, tensor in network.state_dict().items()}
    metadata = {
        "format": str(FORMAT_VERSION),
        "kind": _kind_of(network),
        "config": json.dumps(asdict(network.config)),
        "card": json.dumps(dict(card)),
    }
    metadata["sha256"] = _checksum(tensors, metadata)
    try:
        with written_aside(path) as aside:
            save_file(tensors, aside, metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write weights {path} ({error}): choose another folder") from None


def load_weights(path: str | Path) -> Weights:
    """Read weights and build their network.

    Raises:
        InputError: no such file, not a file of weights, damaged, or of an unknown kind or newer format.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    if any(key not in metadata for key in _METADATA):
        raise InputError(f"{path} holds no weights of this program: {_REMEDY}")
    if metadata["format"] != str(FORMAT_VERSION):
        raise InputError(
            f"weights {path} have format {metadata['format']}, this version reads {FORMAT_VERSION}: "
            "update SOPIRegistration, or give another file with --weights"
        )
    if metadata["sha256"] != _checksum(tensors, metadata):
        raise InputError(f"weights {path} are damaged, their checksum does not agree: {_REMEDY}")
    if metadata["kind"] not in KINDS:
        raise InputError(
            f"weights {path} are of kind '{metadata['kind']}', known are {', '.join(sorted(KINDS))}: "
            "update SOPIRegistration, or give another file with --weights"
        )
    config_class, network_class = KINDS[metadata["kind"]]
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in json.loads(metadata["config"]).items()
    }
    try:
        network = network_class(config_class(**values))
        network.load_state_dict({name: _restored(tensor) for name, tensor in tensors.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"weights {path} do not fit this version's network ({reason}): update SOPIRegistration, or give "
            "another file with --weights"
        ) from None
    return Weights(network.eval(), json.loads(metadata["card"]))


def network_of(path: str | Path | None, name: str, kind: type, what: str) -> nn.Module:
    """The network of a file of weights, or, by its name, the installed one; read once.

    Raises:
        InputError: no such weights, damaged, or not of ``kind``, a class or union, ``what`` in words.
    """
    path = Path(path) if path is not None else installed_weights(name)
    network = _network(path, path.stat().st_mtime_ns if path.exists() else 0)
    if not isinstance(network, kind):
        raise InputError(f"{path} holds weights of another network than the {what}: give others")
    return network


@lru_cache(maxsize=4)
def _network(path: Path, modified: int) -> nn.Module:
    return load_weights(path).network.requires_grad_(False)


def model_card(card: Mapping[str, Any]) -> str:
    """A model card as Markdown, of a card as for :func:`save_weights`; mappings are tables, sequences lists.

    Raises:
        ValueError: the card lacks an entry.
    """
    _check_card(card)
    sections = [f"# {card['name']}"]
    for key, heading in CARD_HEADINGS.items():
        sections.append(f"## {heading}\n\n{_markdown(card[key])}")
    return "\n\n".join(sections) + "\n"


def _markdown(value) -> str:
    if isinstance(value, Mapping):
        rows = [f"| {key} | {entry} |" for key, entry in value.items()]
        return "\n".join(["| | |", "|---|---|", *rows])
    if isinstance(value, list | tuple):
        return "\n".join(f"- {entry}" for entry in value)
    return str(value)


def _check_card(card: Mapping[str, Any]) -> None:
    if missing := [key for key in ("name", *CARD_HEADINGS) if card.get(key) in (None, "", [], {})]:
        raise ValueError(f"the model card lacks {', '.join(missing)}")


def _kind_of(network: nn.Module) -> str:
    for kind, (_, network_class) in KINDS.items():
        if type(network) is network_class:
            return kind
    raise ValueError(f"{type(network).__name__} is not registered as a kind of weights")


def _stored(name: str, tensor: torch.Tensor, half: bool) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if half and tensor.is_floating_point() and tensor.ndim > 1:
        tensor = tensor.half()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} is not finite{' in half precision' if half else ''}: nothing was written")
    return tensor


def _restored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise InputError(
            f"there is no weights file {path}: give an existing .safetensors file with --weights"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # Copies: the file is mapped, and may be gone while the network is in use.
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a file of weights, or is damaged ({reason}): {_REMEDY}") from None


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata, but for the checksum itself, and the tensors: names, types, shapes, bytes."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"sha256"}):
        digest.update(json.dumps([key, metadata[key]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
