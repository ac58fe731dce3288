"""What the panel offers to choose from: the text shown, and what it stands for."""

# Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
from SOPIRegistrationLib import methods
from SOPIRegistrationLib.installed import PATIENT
from SOPIRegistrationLib.settings import GIVEN, choices, option

CURRENT_POSE = "current"
# By setting and name; a name without a label is shown as it is.
_LABELS = {
    "init": {
        "auto": "Automatic",
        "rtpi": "Network (RTPI)",
        "patient": "Network of this patient",
        "search": "Search all poses",
        "nominal": "Nominal view",
        CURRENT_POSE: "Current pose",
    },
    "refine": {
        "opt": "Optimise (coarse to fine)",
        "physics": "Optimise, DRRs of a beam",
        "physics+opt": "DRRs of a beam, then optimise",
        "sopi+opt": "Learned, then optimise",
        "sopi": "Learned (SOPI)",
        "none": "None",
    },
    "content": {"auto": "Automatic", "body": "Whole body", "bone": "Bones alone"},
    "polarity": {"auto": "Detect", "bone-dark": "Bones dark", "bone-bright": "Bones bright"},
}


def _labelled(setting: str, names) -> dict[str, str]:
    """Names of a setting by what a person reads."""
    return {_LABELS[setting].get(name, name): name for name in names}


def _usable(chosen) -> list[str]:
    """Methods that can be chosen here; the network of a patient is trained here, and never installed."""
    return [method.name for method in chosen if method.is_installed or method.name == PATIENT]


# At the panel the start pose that is given is the current one.
INITIALISERS = _labelled(
    "init", [name for name in _usable(methods.INITIALISERS) if name != GIVEN] + [CURRENT_POSE]
)
METHODS = _labelled("refine", _usable(methods.REFINEMENTS))
CONTENTS = _labelled("content", choices(option("content")))
POLARITIES = _labelled("polarity", choices(option("polarity")))
NEEDS_TORCH = {method.name for method in (*methods.INITIALISERS, *methods.REFINEMENTS) if method.needs_torch}
# In the order of the keys 1 to 6.
OVERLAY_MODES = {
    "DRR edges on the X-ray": "edges",
    "Two colours": "fusion",
    "Curtain": "curtain",
    "Checkerboard": "checkerboard",
    "Blink": "blink",
    "Lens": "lens",
}

# The parameters of names, and what each offers.
OFFERED = {
    "initialiser": INITIALISERS,
    "method": METHODS,
    "content": CONTENTS,
    "polarity": POLARITIES,
    "overlayMode": OVERLAY_MODES,
}

# Parameters of former versions, and those that have their value now: one opacity stood for mix and edges.
FORMER = {"overlayOpacity": ("mix", "edgeStrength")}


def label_of(offered: dict[str, str], name: str) -> str:
    """What a person reads for a name."""
    return next(label for label, known in offered.items() if known == name)


def name_stored(parameter: str, stored: str) -> str:
    """The name that a scene holds; former versions stored the label."""
    return OFFERED[parameter].get(stored, stored)
