"""The peers render the same thing as the projector; `sopi benchmark` measures and reports them."""

from __future__ import annotations

import argparse
import csv
import sys
from functools import partial

import numpy as np
import pytest
from SOPIRegistrationLib.cli import benchmark as command
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.evaluation import benchmark
from SOPIRegistrationLib.evaluation.peers import DiffDrr, NanoDrr, Ours, Rtk, installed_version
from SOPIRegistrationLib.geometry.camera import Camera
from support.objects import GaussianBlobs, oblique_grid
from support.projections import oblique_poses, off_centre_camera, relative_difference


def needs(package: str):
    return pytest.mark.skipif(not installed_version(package), reason=f"{package} is not installed")


# Siddon takes the nearest voxel where the others interpolate.
PEERS = [
    pytest.param(Rtk, 5e-3, marks=needs("itk-rtk"), id="rtk"),
    pytest.param(NanoDrr, 2e-3, marks=needs("nanodrr"), id="nanodrr"),
    pytest.param(partial(DiffDrr, renderer="trilinear"), 2e-3, marks=needs("diffdrr"), id="trilinear"),
    pytest.param(DiffDrr, 3e-2, marks=needs("diffdrr"), id="siddon"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "tolerance"), PEERS)
def test_peers_render_our_geometry(peer, tolerance):
    """Oblique anisotropic grid, non-square pixels, principal point off centre: image and gradient."""
    grid = oblique_grid()
    volume = GaussianBlobs.asymmetric(grid).sampled(grid)
    camera, (T,) = off_centre_camera(), oblique_poses(grid, 1)
    renderer, ours = peer(volume, camera), Ours(volume, camera)
    image = renderer.image(T)
    assert image.dtype == np.float32
    assert relative_difference(image, ours.image(T)) < tolerance

    if renderer.has_gradient:
        v, u = np.indices(camera.shape, dtype=np.float32)
        weights = np.sin(u / 7) + np.cos(v / 5)
        again, gradient = renderer.image_and_gradient(T, weights)
        np.testing.assert_allclose(again, image, rtol=1e-5, atol=1e-6)
        expected = ours.image_and_gradient(T, weights)[1]
        for part in (slice(0, 3), slice(3, 6)):
            assert relative_difference(gradient[part], expected[part]) < 5 * tolerance


@needs("itk-rtk")
def test_rtk_refuses_what_it_cannot_represent():
    grid = oblique_grid()
    sheared = grid.index_to_lps.copy()
    sheared[:3, 0] += 0.2 * sheared[:3, 1]
    camera = off_centre_camera()
    with pytest.raises(ValueError, match="orthogonal axes"):
        Rtk(type(grid)(grid.array, sheared), camera)
    K = camera.K.copy()
    K[0, 1] = 2.0
    with pytest.raises(ValueError, match="without skew"):
        Rtk(grid, Camera(K, camera.width, camera.height))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.slow
def test_command_writes_table_and_figures(tmp_path, monkeypatch, capsys):
    for module in ("diffdrr.drr", "itk"):
        monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "results"
    options = arguments("--out", str(out), "--pixels", "16", "--voxels", "32", "--repeats", "2")
    assert command.run(options) == 0

    report = (out / "benchmark.md").read_text(encoding="utf-8")
    assert report in capsys.readouterr().out
    assert "DiffDRR: not installed" in report
    assert "RTK: not installed" in report
    assert "not comparable" not in report
    with (out / "benchmark.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["content"] for row in rows} == {"body", "bone"}
    ours = [row for row in rows if row["renderer"].startswith("ours")]
    assert len(ours) == 4
    assert all(float(row["agreement"]) == pytest.approx(1) for row in ours)
    assert all(len(row["repeats_ms"].split()) == 2 for row in rows)
    assert sorted(path.name for path in out.iterdir()) == ["benchmark.csv", "benchmark.md"]


def test_report_flags_an_image_that_is_not_the_same():
    rows = [
        benchmark.Measurement("body", 64, name, operation, np.array([s, 2 * s]), None, agreement)
        for name, operation, s, agreement in (
            ("ours", benchmark.IMAGE, 0.01, 1.0),
            ("ours", benchmark.IMAGE_AND_GRADIENT, 0.02, 1.0),
            ("other", benchmark.IMAGE, 0.04, 0.9),
            ("other", benchmark.IMAGE_AND_GRADIENT, 0.5, 0.9),
        )
    ]
    report = command.markdown(rows, {"RTK": "absent"}, {"processor": "some"}, arguments("--out", "x"))
    assert "other shows another image (correlation 0.900)" in report
    assert "| other | image | 60 [40, 80] | 4 [4, 4] | not known | 0.90000 |" in report
    assert "other: image + pose gradient takes 25 [25, 25] times ours" in report
    assert "RTK: not installed (absent)" in report


def test_unwritable_folder_is_refused_before_the_work(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InputError, match="output folder"):
        command.run(arguments("--out", str(blocker / "results")))


@pytest.mark.parametrize("option", ["--pixels", "--repeats", "--voxels"])
def test_nonsense_numbers_are_refused(option, capsys):
    with pytest.raises(SystemExit) as refusal:
        arguments("--out", "x", option, "0")
    assert refusal.value.code == 2
    assert "not a positive number" in capsys.readouterr().err
