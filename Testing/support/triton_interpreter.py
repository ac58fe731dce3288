"""Triton's kernels run on the CPU, by its interpreter, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def interpreted(program: str, folder: Path, volume, camera, T: np.ndarray, **more) -> dict[str, np.ndarray]:
    """The arrays that a program saves (``sys.argv[2]``) of a case that it loads (``sys.argv[1]``)."""
    case, result = folder / "case.npz", folder / "result.npz"
    np.savez(
        case,
        voxels=volume.volume.array,
        index_to_lps=volume.volume.index_to_lps,
        T=T,
        K_inverse=camera.K_inverse,
        shape=camera.shape,
        step_mm=volume.default_step_mm,
        **more,
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(case), str(result)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(result))
