"""What the panel offers to choose from: the text shown, and what it stands for."""

# Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.installed import PATIENT

CURRENT_POSE = "current"
# The network of a patient is trained at the panel: nothing of it is ever installed.
INITIALISERS = {
    method.label: method.name
    for method in methods.INITIALISERS
    if method.is_installed or method.name == PATIENT
}
INITIALISERS |= {"Current pose": CURRENT_POSE}
METHODS = {method.label: method.name for method in methods.REFINEMENTS if method.is_installed}
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
