"""Networks and their weights. Imports torch: what must run without it imports this package only when used."""

from SOPIRegistrationLib.networks.comparing import ComparingConfig, ComparingRTPI
from SOPIRegistrationLib.networks.composite import CompositeConfig, CompositeSimilarity
from SOPIRegistrationLib.networks.patient import PatientConfig, PatientNetwork
from SOPIRegistrationLib.networks.prost import ProstConfig, ProstSimilarity
from SOPIRegistrationLib.networks.two_branch import TwoBranchConfig, TwoBranchRTPI
from SOPIRegistrationLib.networks.weights import load_weights, model_card, save_weights

__all__ = [
    "ComparingConfig",
    "ComparingRTPI",
    "CompositeConfig",
    "CompositeSimilarity",
    "PatientConfig",
    "PatientNetwork",
    "ProstConfig",
    "ProstSimilarity",
    "TwoBranchConfig",
    "TwoBranchRTPI",
    "load_weights",
    "model_card",
    "save_weights",
]
