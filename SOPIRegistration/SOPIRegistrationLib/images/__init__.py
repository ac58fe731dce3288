"""CTs and X-rays with their geometry: reading them, and preparing them for projection and comparison."""

from SOPIRegistrationLib.images.ct_preparation import bone_only, prepare_ct
from SOPIRegistrationLib.images.files import open_radiograph, read_radiograph, read_volume
from SOPIRegistrationLib.images.prepared_ct import PreparedCT
from SOPIRegistrationLib.images.radiograph import PreparedRadiograph, Radiograph
from SOPIRegistrationLib.images.radiograph_preparation import prepare_radiograph
from SOPIRegistrationLib.images.volume import Volume

__all__ = [
    "PreparedCT",
    "PreparedRadiograph",
    "Radiograph",
    "Volume",
    "bone_only",
    "open_radiograph",
    "prepare_ct",
    "prepare_radiograph",
    "read_radiograph",
    "read_volume",
]
