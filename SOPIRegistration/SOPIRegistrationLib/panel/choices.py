"""What the panel offers to choose from: the text shown, and what it stands for."""

# Needs nothing beyond Python: the module's file reads it before the dependencies are installed.
INITIALISERS = {
    "Automatic": "auto",
    "Search all poses": "search",
    "Nominal view": "nominal",
    "Current pose": "current",
}
METHODS = {"Optimise (coarse to fine)": "opt", "None": "none"}
CONTENTS = {"Automatic": "auto", "Whole body": "body", "Bones alone": "bone"}
POLARITIES = {"Detect": "auto", "Bones dark": "bone-dark", "Bones bright": "bone-bright"}
OVERLAY_MODES = {
    "Two colours": "fusion",
    "DRR edges on the X-ray": "edges",
    "Checkerboard": "checkerboard",
    "Blink": "blink",
}
