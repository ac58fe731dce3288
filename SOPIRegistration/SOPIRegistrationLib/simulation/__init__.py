"""Made-up patients and X-rays with known answers: lumbar CT, X-ray simulator, demonstration case."""

from SOPIRegistrationLib.simulation.demo import DemoCase, demo_case
from SOPIRegistrationLib.simulation.phantom import Phantom, lumbar_phantom
from SOPIRegistrationLib.simulation.xray import (
    XRayDegradation,
    random_degradation,
    simulate_radiograph,
    simulate_xray,
)

__all__ = [
    "DemoCase",
    "Phantom",
    "XRayDegradation",
    "demo_case",
    "lumbar_phantom",
    "random_degradation",
    "simulate_radiograph",
    "simulate_xray",
]
