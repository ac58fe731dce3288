"""Missing packages: asked once with sizes, the panel opens without them."""

from __future__ import annotations

import pytest
from SOPIRegistrationLib.dependencies import Dependencies, ensure_torch
from SOPIRegistrationLib.errors import InputError


class Pip:
    """Stands for pip and for what is installed."""

    def __init__(self, *installed, fails=None, agrees=True):
        self.modules, self.fails, self.agrees = set(installed), fails, agrees
        self.questions, self.installed = [], []

    def install(self, requirements):
        if self.fails:
            raise self.fails
        self.installed += requirements
        self.modules |= {"numba", "cma", "array_api_compat", "torch"}

    def confirm(self, question):
        self.questions.append(question)
        return self.agrees

    def has(self, module):
        return module in self.modules


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\narray-api-compat>=1.9\ncma>=3.3\nnumba>=0.60\n")
    return path


def _dependencies(requirements, pip):
    return Dependencies(requirements, pip.install, pip.confirm, pip.has)


def test_nothing_is_asked_where_nothing_is_missing(requirements):
    pip = Pip("numba", "cma", "array_api_compat")
    assert _dependencies(requirements, pip).ensure()
    assert not pip.questions


def test_missing_packages_are_named_with_their_size_and_installed_once(requirements):
    pip = Pip("array_api_compat")
    assert _dependencies(requirements, pip).ensure()
    assert pip.installed == ["cma>=3.3", "numba>=0.60"]
    assert len(pip.questions) == 1
    assert "cma, numba (about 60 MB)" in pip.questions[0]


def test_declining_installs_nothing(requirements):
    pip = Pip(agrees=False)
    assert not _dependencies(requirements, pip).ensure()
    assert not pip.installed


def test_without_network_the_message_says_what_to_do(requirements):
    pip = Pip(fails=RuntimeError("Could not fetch URL"))
    with pytest.raises(InputError, match="check the network or proxy"):
        _dependencies(requirements, pip).ensure()


def test_torch_comes_through_its_extension_where_there_is_one():
    class TorchUtils:
        asked = False

        def installTorch(self, askConfirmation):
            self.asked = askConfirmation
            return object()

    utils, pip = TorchUtils(), Pip()
    assert ensure_torch(utils, pip.install, pip.confirm, pip.has)
    assert utils.asked
    assert not pip.installed


def test_torch_through_pip_otherwise():
    pip = Pip()
    assert ensure_torch(None, pip.install, pip.confirm, pip.has)
    assert pip.installed == ["torch"]
    assert "200 MB" in pip.questions[0]
    assert not ensure_torch(None, pip.install, Pip(agrees=False).confirm, Pip().has)
    with pytest.raises(InputError, match="PyTorch extension"):
        ensure_torch(None, Pip(fails=OSError("no network")).install, pip.confirm, Pip().has)


def test_the_panel_opens_without_the_packages(host, module, monkeypatch):
    pip = Pip(agrees=True)
    monkeypatch.setattr(
        module,
        "Dependencies",
        lambda path, install, confirm: Dependencies(path, pip.install, pip.confirm, pip.has),
    )
    host.scene.Clear()
    host.messages.clear()
    widget = host.open_module(module, module.__file__)
    try:
        assert widget.panel is None
        assert not widget.ui.dependencyFrame.isHidden()
        assert "numba" in widget.ui.dependencyLabel.text
        assert not widget.ui.inputsSection.enabled
        pip.fails = OSError("Network is unreachable")
        widget.ui.installButton.click()
        assert "check the network" in host.messages[-1][1]
        pip.fails = None
        widget.ui.installButton.click()
        assert widget.panel is not None
        assert widget.ui.dependencyFrame.isHidden()
        assert widget.ui.inputsSection.enabled
    finally:
        widget.cleanup()
