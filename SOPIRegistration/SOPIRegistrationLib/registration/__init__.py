"""From prepared inputs to a verified pose."""

from SOPIRegistrationLib.registration.loop import register, warm_up
from SOPIRegistrationLib.registration.result import RegistrationResult, Verdict

__all__ = ["RegistrationResult", "Verdict", "register", "warm_up"]
