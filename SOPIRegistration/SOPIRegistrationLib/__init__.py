"""Numerical core of SOPIRegistration: 2D/3D registration of a CT to X-rays. Imports neither slicer nor qt."""

__version__ = "0.1.0"
