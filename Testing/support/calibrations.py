"""An object in a calibrated set, its cameras, and calibrations written and read."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation
from SOPIRegistrationLib.geometry import se3
from SOPIRegistrationLib.geometry.camera import Camera
from SOPIRegistrationLib.images.volume import Volume

from support.objects import GaussianBlobs, oblique_grid

WIDTH, HEIGHT = 64, 48


def grid_about(centre) -> Volume:
    grid = oblique_grid((1.2, 1.2, 1.6), (56, 50, 38))
    index_to_lps = grid.index_to_lps.copy()
    index_to_lps[:3, 3] += np.array(centre) - grid.centre_lps_mm
    return Volume(grid.array, index_to_lps)


# Near the world's origin, as what lies in a calibrated set does, but not at it.
GRID = grid_about([6.0, -9.0, 12.0])


OBJECT = GaussianBlobs.asymmetric(GRID)


def placed(seed: int) -> np.ndarray:
    """T_world_to_camera that sees the object from some side, turned in every way."""
    rng = np.random.default_rng(seed)
    R = Rotation.random(random_state=rng.integers(99)).as_matrix()
    place = np.array([4.0, -3.0, 700 + 20 * seed])
    return se3.rigid(R, place - R @ GRID.centre_lps_mm)


def camera(seed: int = 1, skew: float = 0.0, square: bool = False) -> Camera:
    fx, fy = 1000 / 1.9, 1000 / (1.9 if square else 1.6)
    K = np.array([[fx, skew, 27.3], [0, fy, 26.1], [0, 0, 1]])
    return Camera(K, WIDTH, HEIGHT, 1000.0, placed(seed), f"cam{seed:02d}")


def seen(camera: Camera) -> np.ndarray:
    """The object's exact projection, in a world that is the object's."""
    return OBJECT.line_integrals(camera, camera.T_world_to_camera)


MAYACAM_2 = """image size
1760,1760

camera matrix
6167.35342293,0,803.741292437
0,6165.63244754,865.698104164
0,0,1

rotation
0.792589225007,-0.0592057161733,-0.606874784099
0.0545361218268,0.998169197702,-0.0261546205154
0.607312219389,-0.0123667267546,0.794367000982

translation
-16.6293306327
-77.8355084182
901.390251307
"""


OPENCV = """%YAML:1.0
---
calibration_time: "Thu"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.5e+03, 0., 310., 0., 5400.,
       250., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -2.0, 30., 1.0e-03, -2.0e-03, 0. ]
"""


XML = """<?xml version="1.0"?>
<opencv_storage>
<calibration_time>"Thu"</calibration_time>
<image_width>640</image_width>
<image_height>480</image_height>
<camera_matrix type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    5.5e+03 0. 310. 0. 5400. 250. 0. 0. 1.</data></camera_matrix>
<distortion_coefficients type_id="opencv-matrix">
  <rows>5</rows>
  <cols>1</cols>
  <dt>d</dt>
  <data>
    -2. 30. 1.0e-03 -2.0e-03 0.</data></distortion_coefficients>
</opencv_storage>
"""


VTK = {
    "@schema": "https://autoscoperm.slicer.org/vtk-schema-1.0.json",
    "version": 1.0,
    "camera-position": [104.0, -800.0, -180.0],
    "focal-point": [-8.0, -45.0, -150.0],
    "view-up": [0.1, 0.0, 1.0],
    "view-angle": 24.0,
    "image-width": 640,
    "image-height": 480,
}
