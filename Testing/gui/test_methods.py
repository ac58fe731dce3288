"""Initialisers and refinements at the panel: from one list, and those that need PyTorch or weights."""

from __future__ import annotations

import pytest
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import IFR, has_weights


def test_refine_says_that_there_are_no_weights(user, demo_case):
    if has_weights(IFR):
        pytest.skip("its weights are installed")
    user.take_demo(demo_case)
    assert user.ui.optimiseButton.enabled
    assert not user.ui.refineButton.enabled
    assert "weights" in user.ui.refineButton.toolTip
    assert "none are installed" in user.ui.refineButton.toolTip


@pytest.fixture
def with_networks(user_of_networks, demo_case):
    """Their user with the demo case chosen and no PyTorch installed."""
    user_of_networks.torch = Torch()
    user_of_networks.install_torch(user_of_networks.torch.ensure)
    user_of_networks.take_demo(demo_case)
    return user_of_networks


class Torch:
    """Stands for the question whether to install PyTorch, and for what comes of it."""

    def __init__(self):
        self.installed, self.agrees, self.fails, self.asked = False, False, False, 0

    def ensure(self):
        if self.installed:
            return True
        self.asked += 1
        if self.fails:
            raise InputError("PyTorch could not be installed: check the network")
        self.installed = self.agrees
        return self.installed


def _choose(user, text):
    combo = user.ui.initialiserCombo
    combo.setCurrentText(text)
    combo.activated.emit(combo.currentIndex)


def test_a_name_in_the_list_is_a_choice_that_asks_for_torch_once(with_networks):
    user = with_networks
    _choose(user, "Nominal view")
    assert user.torch.asked == 0
    _choose(user, user.initialiser.name)
    assert user.torch.asked == 1
    # Declined: the former choice is back, and the panel says why.
    assert user.ui.initialiserCombo.currentText == "Nominal view"
    assert user.parameters.initialiser == "nominal"
    assert "needs PyTorch" in user.ui.stageLabel.text
    assert user.host.messages == []
    user.torch.fails = True
    _choose(user, user.initialiser.name)
    assert "check the network" in user.last_message()
    assert user.ui.initialiserCombo.currentText == "Nominal view"
    user.torch.fails, user.torch.agrees = False, True
    _choose(user, user.initialiser.name)
    assert user.ui.initialiserCombo.currentText == user.initialiser.name
    assert user.ui.stageLabel.text == ""


def test_register_hands_the_chosen_network_on(with_networks, monkeypatch):
    user, seen = with_networks, []

    def stand_in(subject, radiographs, frame, settings, start, report):
        seen.append((settings.init, settings.refine, start))
        raise InputError("no more than this is needed")

    monkeypatch.setattr("SOPIRegistrationLib.registration.logic.register", stand_in)
    # As a scene that was saved with the choice: nobody asked yet.
    user.parameters.initialiser = user.initialiser.name
    user.click("registerButton")
    user.wait()
    assert user.torch.asked == 1
    assert "nothing was started" in user.ui.stageLabel.text
    assert seen == []
    user.torch.agrees = True
    user.click("registerButton")
    user.wait()
    assert seen == [(user.initialiser.name, "opt", None)]
    user.click("refineButton")
    user.wait()
    init, refine, start = seen[1]
    assert (init, refine) == (methods.GIVEN, methods.LEARNED_REFINEMENT)
    assert start.shape == (4, 4)
