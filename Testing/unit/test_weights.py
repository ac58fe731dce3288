"""Weights come back as they were written, and nothing else passes for weights."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from SOPIRegistrationLib import installed
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import has_weights, installed_weights
from SOPIRegistrationLib.networks import weights
from SOPIRegistrationLib.networks.two_branch import CONFIGURATIONS, TwoBranchRTPI
from SOPIRegistrationLib.networks.weights import (
    CARD_HEADINGS,
    load_weights,
    model_card,
    save_weights,
)
from torch import nn

CARD = {
    "name": "Pose initialisation",
    "intended_use": "A first pose for lumbar X-rays.",
    "limits": ["Not for hips.", "No figures on patients."],
    "data": "96 phantoms",
    "steps": 20000,
    "hours": 1.5,
    "machine": "two CPU cores",
    "figures": {"rotation, median": "3.1 deg", "depth, median": "12 mm"},
    "licence": "BSD-3-Clause",
}


@dataclass(frozen=True)
class TinyConfig:
    widths: tuple[int, ...] = (3, 5)
    scale: float = 0.5


class Tiny(nn.Module):
    """The least a network needs: a configuration, matrices, a vector, a counter."""

    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(*config.widths)
        self.norm = nn.BatchNorm1d(config.widths[-1])


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    """The known kinds, with the tiny one among them."""
    for kind in ("tiny", "other"):
        monkeypatch.setitem(weights.KINDS, kind, (TinyConfig, Tiny))
    torch.manual_seed(0)
    return weights.KINDS


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def tiny(path) -> Tiny:
    network = Tiny(TinyConfig())
    network.norm.running_var.fill_(1e-9)
    save_weights(path, network, CARD)
    return network


def test_round_trip(tiny, path):
    loaded = load_weights(path)
    assert type(loaded.network) is Tiny
    assert loaded.network.config == TinyConfig()
    assert not loaded.network.training
    assert loaded.card == CARD
    state = loaded.network.state_dict()
    for name, tensor in tiny.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


def test_round_trip_of_the_published_network(path):
    config = replace(
        CONFIGURATIONS["light"], volume_size=32, theta_half_range=(1.0, 0.9, 0.8, 90.0, 60.0, 300.0)
    )
    network = TwoBranchRTPI(config)
    save_weights(path, network, CARD)
    loaded = load_weights(path).network
    assert loaded.config == config
    inputs = torch.rand(2, 1, 64, 64), torch.rand(1, 1, 32, 32, 32), torch.randn(2, 5)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), network.eval()(*inputs))


def test_half_precision_halves_the_file_and_spares_the_vectors(tmp_path):
    network = TwoBranchRTPI(replace(CONFIGURATIONS["light"], volume_size=32))
    network.localisation[0].running_var.fill_(1e-9)
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_weights(full, network, CARD)
    save_weights(half, network, CARD, half=True)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    state, loaded = network.state_dict(), load_weights(half).network.state_dict()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        if tensor.ndim < 2:
            assert torch.equal(loaded[name], tensor), name
        else:
            torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-7)
            assert torch.equal(loaded[name], tensor.half().float())


def test_networks_in_another_memory_layout_are_saved_alike(path):
    config = replace(CONFIGURATIONS["light"], volume_size=32)
    network = TwoBranchRTPI(config)
    network.xray_branch.to(memory_format=torch.channels_last)
    save_weights(path, network, CARD)
    loaded = load_weights(path).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"no weights file .*tiny\.safetensors.*--weights"):
        load_weights(path)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert path.name in message
    assert "--weights" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("share", [0.0, 0.005, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tiny, path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refused(path)


def test_files_with_something_appended_are_refused(tiny, path):
    path.write_bytes(path.read_bytes() + b"\0" * 4)
    assert "damaged" in refused(path)


def test_every_flipped_bit_is_noticed(tiny, path):
    """In the header, which names everything, and in the numbers alike."""
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        refused(path)


def test_other_numbers_under_the_same_header_are_noticed(tiny, path):
    whole = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", whole[:8])
    data = whole[8 + header :]
    path.write_bytes(whole[: 8 + header] + data[::-1])
    assert "checksum" in refused(path)


def test_foreign_files_are_refused(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    assert "not a file of weights" in refused(path)
    torch.save(nn.Linear(2, 2).state_dict(), path)
    assert "not a file of weights" in refused(path)
    save_file(nn.Linear(2, 2).state_dict(), path)
    assert "holds no weights of this program" in refused(path)


def test_a_newer_format_is_refused(path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(weights, "FORMAT_VERSION", 2)
        save_weights(path, Tiny(TinyConfig()), CARD)
    message = refused(path)
    assert "format 2, this version reads 1" in message
    assert "update SOPIRegistration" in message


def test_an_unknown_kind_is_refused(tiny, path, kinds):
    del kinds["tiny"]
    message = refused(path)
    assert "of kind 'tiny', known are" in message
    assert "two_branch" in message


def test_a_network_that_has_changed_since_is_refused(tiny, path, kinds):
    class Changed(Tiny):
        def __init__(self, config):
            super().__init__(config)
            self.more = nn.Linear(2, 2)

    kinds["tiny"] = TinyConfig, Changed
    assert "do not fit" in refused(path)

    @dataclass(frozen=True)
    class Renamed:
        sizes: tuple[int, ...] = (3, 5)

    kinds["tiny"] = Renamed, Tiny
    assert "do not fit" in refused(path)


def test_registration_is_one_line(path, kinds):
    @weights.registered("other", TinyConfig)
    class Other(Tiny):
        pass

    save_weights(path, Other(TinyConfig(widths=(2, 4))), CARD)
    loaded = load_weights(path).network
    assert type(loaded) is Other
    assert loaded.config.widths == (2, 4)


def test_unusable_networks_are_not_written(tmp_path, path):
    with pytest.raises(ValueError, match="Linear is not registered"):
        save_weights(path, nn.Linear(2, 2), CARD)
    network = Tiny(TinyConfig())
    with torch.no_grad():
        network.layer.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"layer\.weight is not finite in half precision"):
        save_weights(path, network, CARD, half=True)
    with torch.no_grad():
        network.layer.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layer\.weight is not finite"):
        save_weights(path, network, CARD)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path):
    path = tmp_path / "nowhere" / "tiny.safetensors"
    with pytest.raises(InputError, match=r"cannot write weights .*tiny\.safetensors"):
        save_weights(path, Tiny(TinyConfig()), CARD)


@pytest.mark.parametrize("key", ["name", *CARD_HEADINGS])
def test_a_card_must_be_complete(path, key):
    card = {**CARD, key: ""}
    with pytest.raises(ValueError, match=f"lacks {key}"):
        save_weights(path, Tiny(TinyConfig()), card)
    del card[key]
    with pytest.raises(ValueError, match=f"lacks {key}"):
        model_card(card)


def test_zero_is_an_entry_of_a_card():
    assert "## Training steps\n\n0\n" in model_card({**CARD, "steps": 0})


def test_model_card_is_markdown_with_everything():
    text = model_card(CARD)
    assert text.startswith("# Pose initialisation\n\n## Intended use\n\nA first pose for lumbar X-rays.\n")
    assert "## Limits\n\n- Not for hips.\n- No figures on patients.\n" in text
    assert "| rotation, median | 3.1 deg |\n| depth, median | 12 mm |\n" in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(CARD_HEADINGS.values())


def test_installed_weights(tmp_path, monkeypatch):
    package = Path(installed.__file__).parent
    # Of a wheel, of a checkout.
    assert installed.SHIPPED in (package / "Weights", package.parent / "Resources" / "Weights")
    assert has_weights("rtpi")
    monkeypatch.setenv("SOPI_WEIGHTS", str(tmp_path / "Weights"))
    with pytest.raises(InputError, match=r"no weights 'rtpi' are installed \(there are: none\).*--weights"):
        installed_weights("rtpi")
    (tmp_path / "Weights").mkdir()
    save_weights(tmp_path / "Weights" / "rtpi.safetensors", Tiny(TinyConfig()), CARD)
    assert load_weights(installed_weights("rtpi")).card == CARD
    assert has_weights("rtpi")
    assert not has_weights("ifr")
    with pytest.raises(InputError, match=r"there are: rtpi"):
        installed_weights("ifr")


def test_shipped_weights_are_whole_small_and_described():
    files = sorted(installed.SHIPPED.glob("*.safetensors"))
    assert [path.stem for path in files] == ["deep-reg", "ifr-masked", "ifr", "rtpi"]
    assert sum(path.stat().st_size for path in files) < 40e6
    for path in files:
        card = load_weights(path).card
        described = path.with_name(f"MODEL_CARD_{path.stem.upper()}.md").read_text(encoding="utf-8")
        assert described == model_card(card)
        assert "ct_abdomen" not in str(card["data"]), "the CT that is reported on was trained on"
