"""What the panel offers to choose from: the text shown, and what it stands for."""

# Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.installed import PATIENT

CURRENT_POSE = "current"
_LABELS = {
    "auto": "Automatic",
    "rtpi": "Network (RTPI)",
    "patient": "Network of this patient",
    "search": "Search all poses",
    "nominal": "Nominal view",
    "opt": "Optimise (coarse to fine)",
    "physics": "Optimise, DRRs of a beam",
    "physics+opt": "DRRs of a beam, then optimise",
    "sopi+opt": "Learned, then optimise",
    "sopi": "Learned (SOPI)",
    "none": "None",
}


def _labelled(chosen) -> dict[str, str]:
    """Names by what a person reads; a method without a label is shown by its name."""
    return {_LABELS.get(method.name, method.name): method.name for method in chosen}


# The network of a patient is trained at the panel: nothing of it is ever installed.
INITIALISERS = _labelled(
    method
    for method in methods.INITIALISERS
    if (method.is_installed or method.name == PATIENT) and method.name != methods.GIVEN
)
INITIALISERS |= {"Current pose": CURRENT_POSE}
METHODS = _labelled(method for method in methods.REFINEMENTS if method.is_installed)
NEEDS_TORCH = {method.name for method in (*methods.INITIALISERS, *methods.REFINEMENTS) if method.needs_torch}
CONTENTS = {"Automatic": "auto", "Whole body": "body", "Bones alone": "bone"}
POLARITIES = {"Detect": "auto", "Bones dark": "bone-dark", "Bones bright": "bone-bright"}
# In the order of the keys 1 to 5.
OVERLAY_MODES = {
    "DRR edges on the X-ray": "edges",
    "Two colours": "fusion",
    "Curtain": "curtain",
    "Checkerboard": "checkerboard",
    "Blink": "blink",
}
