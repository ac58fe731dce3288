"""The panel of the Slicer module: a session over the scene, and one controller for each section."""
