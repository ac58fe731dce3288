"""A scene of real MRML nodes with the logics that the application would have, without its windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

try:
    import slicer
    from SOPIRegistrationLib.scene import RAS_FROM_LPS
    from support.mrml import MrmlHost
except ImportError:
    # A conftest cannot skip: the tests, which import the same, are left out (the header of the run says so).
    collect_ignore_glob = ["test_*.py"]

from support.objects import oblique_grid


@pytest.fixture(scope="session")
def application() -> MrmlHost:
    """One scene with its logics for all tests, as in the application."""
    return MrmlHost()


@pytest.fixture
def host(application, monkeypatch) -> Iterator[MrmlHost]:
    """An empty scene, its slice views and layout."""
    monkeypatch.setattr(slicer, "mrmlScene", application.scene, raising=False)
    yield application
    application.scene.Clear(False)


@pytest.fixture
def scene(host):
    return host.scene


@pytest.fixture
def add_volume(scene):
    """Make a volume node of an array."""

    def add(array, ijk_to_ras=None, name="image", class_name="vtkMRMLScalarVolumeNode"):
        node = scene.AddNewNodeByClass(class_name, name)
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array))
        if ijk_to_ras is not None:
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
        node.CreateDefaultDisplayNodes()
        return node

    return add


@pytest.fixture
def oblique_ct(add_volume):
    """A CT node on an oblique, anisotropic grid, unlike along every axis."""
    grid = oblique_grid()
    k, j, i = np.indices(grid.array.shape)
    return add_volume((i + 3 * j - 7 * k).astype(np.int16), RAS_FROM_LPS @ grid.index_to_lps, "CT")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    """Where pictures to be looked at go."""
    return tmp_path_factory.mktemp("screenshots")
