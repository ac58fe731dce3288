"""What is moved: a CT as attenuation at several resolutions, with all that is computed of it once."""

from SOPIRegistrationLib.subject.moving import MovingVolume
from SOPIRegistrationLib.subject.subject import Subject

__all__ = ["MovingVolume", "Subject"]
