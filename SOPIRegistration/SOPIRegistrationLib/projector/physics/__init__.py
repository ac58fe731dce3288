"""Physics-based projection (Diff-DeepDRR): a beam of many energies through soft tissue, bone and metal."""

from SOPIRegistrationLib.projector.physics.beam import Beam, Spectrum
from SOPIRegistrationLib.projector.physics.polychromatic import BeamResponse, PolychromaticVolume
from SOPIRegistrationLib.projector.physics.seen import Opacity, SeenVolume

__all__ = ["Beam", "BeamResponse", "Opacity", "PolychromaticVolume", "SeenVolume", "Spectrum"]
