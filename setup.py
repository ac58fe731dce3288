"""Puts the trained weights into the wheel. Everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Slicer wants them beside the package, a wheel can only bring what is inside.
WEIGHTS = Path("SOPIRegistration", "Resources", "Weights")


class BuildWithWeights(build_py):
    """Copies the weights to where ``SOPIRegistrationLib.installed`` looks in an installed package."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "SOPIRegistrationLib", "Weights")
        self.mkpath(str(folder))
        for file in sorted(WEIGHTS.iterdir()):
            self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithWeights})
