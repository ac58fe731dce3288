"""Registration of a prepared CT to prepared X-rays: stages, verdict, result."""

from SOPIRegistrationLib.registration.pipeline import RegistrationSettings, lay_out, moving_volumes, register
from SOPIRegistrationLib.registration.result import Progress, RegistrationResult, Verdict

__all__ = [
    "Progress",
    "RegistrationResult",
    "RegistrationSettings",
    "Verdict",
    "lay_out",
    "moving_volumes",
    "register",
]
