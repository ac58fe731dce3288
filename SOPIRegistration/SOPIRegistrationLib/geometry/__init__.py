"""Cameras, poses and views of a C-arm, and where their numbers come from."""

from SOPIRegistrationLib.geometry.c_arm import CArmGeometry
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.geometry.files import geometry_as_dict, load_geometry, write_geometry
from SOPIRegistrationLib.geometry.presets import PRESETS
from SOPIRegistrationLib.geometry.views import NOMINAL_VIEWS, PoseFrame, nominal_view

__all__ = [
    "NOMINAL_VIEWS",
    "PRESETS",
    "CArmGeometry",
    "Camera",
    "PoseFrame",
    "geometry_as_dict",
    "load_geometry",
    "nominal_view",
    "write_geometry",
]
