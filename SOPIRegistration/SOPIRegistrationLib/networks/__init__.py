"""Networks and their weights. Imports torch: what must run without it imports this package only when used."""

from SOPIRegistrationLib.networks.comparing import ComparingConfig, ComparingRTPI
from SOPIRegistrationLib.networks.two_branch import TwoBranchConfig, TwoBranchRTPI
from SOPIRegistrationLib.networks.weights import load_weights, model_card, save_weights

__all__ = [
    "ComparingConfig",
    "ComparingRTPI",
    "TwoBranchConfig",
    "TwoBranchRTPI",
    "load_weights",
    "model_card",
    "save_weights",
]
