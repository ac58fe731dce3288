"""Registration of a CT to X-rays (2D/3D): the numerical core of SOPIRegistration, without slicer and qt.

The names below are what a script may rely on; Docs/python.md shows them at work. Each is imported from its
home when it is first asked for: importing the package costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

# name: the module it lives in
_HOMES = {
    "Bodies": "subject.bodies",
    "BodiesResult": "registration.bodies_result",
    "CArmGeometry": "geometry",
    "Camera": "geometry",
    "Cancelled": "errors",
    "InputError": "errors",
    "NOMINAL_VIEWS": "geometry",
    "PRESETS": "geometry",
    "PoseFrame": "geometry",
    "PreparedCT": "images",
    "PreparedRadiograph": "images",
    "Progress": "progress",
    "ProjectorVolume": "projector",
    "Radiograph": "images",
    "RigidBody": "subject.bodies",
    "RegistrationResult": "registration",
    "RegistrationSettings": "settings",
    "Subject": "subject",
    "Verdict": "registration",
    "Volume": "images",
    "cut_up": "subject.labelled",
    "load_geometry": "geometry",
    "open_radiograph": "images",
    "prepare_ct": "images",
    "prepare_radiograph": "images",
    "project": "projector",
    "project_with_jacobian": "projector",
    "read_radiograph": "images",
    "read_volume": "images",
    "register": "registration",
    "register_bodies": "registration.bodies",
    "warm_up": "registration",
    "write_geometry": "geometry",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    """A public name, from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
