"""Initialisers and refinements at the panel: from one list, and those that need PyTorch or weights."""

from __future__ import annotations

import pytest
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.installed import RTPI

NETWORK = "Network (RTPI)"


@pytest.fixture
def tasks():
    """What the panel asked to be registered; nothing is."""
    return []


@pytest.fixture
def without_torch(open_with, demo_case, tasks):
    """Somebody before the panel with the demo case chosen and no PyTorch installed."""
    from SOPIRegistrationLib.registration.logic import RegistrationLogic

    def run(task, report):
        tasks.append(task)
        raise InputError("no more than this is needed")

    torch = Torch()
    user = open_with(ensure_torch=torch.ensure, logic=RegistrationLogic(run=run))
    user.torch = torch
    user.take_demo(demo_case)
    return user


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


def test_a_name_in_the_list_is_a_choice_that_asks_for_torch_once(without_torch):
    user = without_torch
    _choose(user, "Nominal view")
    assert user.torch.asked == 0
    _choose(user, NETWORK)
    assert user.torch.asked == 1
    # Declined: the former choice is back, and the panel says why.
    assert user.ui.initialiserCombo.currentText == "Nominal view"
    assert user.parameters.initialiser == "nominal"
    assert "needs PyTorch" in user.ui.stageLabel.text
    assert user.host.messages == []
    user.torch.fails = True
    _choose(user, NETWORK)
    assert "check the network" in user.last_message()
    assert user.ui.initialiserCombo.currentText == "Nominal view"
    user.torch.fails, user.torch.agrees = False, True
    _choose(user, NETWORK)
    assert user.ui.initialiserCombo.currentText == NETWORK
    assert user.ui.stageLabel.text == ""


def test_register_hands_the_chosen_network_on(without_torch, tasks):
    user = without_torch
    # As a scene that was saved with the choice: nobody asked yet.
    user.parameters.initialiser = RTPI
    user.click("registerButton")
    user.wait()
    assert user.torch.asked == 1
    assert "nothing was started" in user.ui.stageLabel.text
    assert tasks == []
    user.torch.agrees = True
    user.click("registerButton")
    user.wait()
    settings = tasks[0].settings
    assert (settings.init, settings.refine, tasks[0].start) == (RTPI, "opt", None)
    user.click("refineButton")
    user.wait()
    settings = tasks[1].settings
    assert (settings.init, settings.refine) == (methods.GIVEN, methods.LEARNED_REFINEMENT)
    assert tasks[1].start.shape == (4, 4)
