"""Whether 3D views can be rendered."""

from __future__ import annotations

import subprocess
import sys
from functools import cache


@cache
def can_render() -> bool:
    """Whether VTK can open a 3D view here: without the system's OpenGL libraries it ends the process."""
    program = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(True); w.Render()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120).returncode == 0
