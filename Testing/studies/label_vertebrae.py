"""A label map of the lumbar vertebrae of the abdomen CT: its bones, cut by planes through the discs.

    python Testing/studies/label_vertebrae.py CT OUT

The planes were put by eye into a sagittal slice of ``ct_abdomen_pelvis_3mm.nii.gz``: each is given by two
points of a disc (posterior, anterior), and holds the left-right axis. Labels are those of VerSe: L1 is 20.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from SOPIRegistrationLib.images.ct_preparation import prepare_ct
from SOPIRegistrationLib.images.files import read_volume
from SOPIRegistrationLib.registration.outputs import write_volume

# (posterior, superior), (posterior, superior) LPS mm of two points of each disc, from T12/L1 down to L5/S1.
DISCS_MM = (
    ((-101.3, 396.1), (-140.3, 403.3)),
    ((-110.3, 365.5), (-152.3, 371.5)),
    ((-125.3, 328.3), (-161.3, 334.3)),
    ((-128.3, 296.5), (-166.1, 295.3)),
    ((-125.3, 262.3), (-164.3, 253.3)),
    ((-118.1, 234.1), (-137.3, 218.5)),
)
FIRST_LABEL, CLOSED_VOXELS = 20, 3
# About the spine: left and right of its middle, and from the tips of its processes to its front, LPS mm.
HALF_WIDTH_MM, BACK_MM, FRONT_MM = 48.0, -62.0, -170.0


def main() -> None:
    """Label, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    prepared = prepare_ct(read_volume(args.ct))
    bone = prepared.bone
    k, j, i = np.nonzero(bone.array)
    x, y, z = bone.points_lps(np.stack([i, j, k], axis=-1)).T
    levels = np.array([za + (y - ya) * (zb - za) / (yb - ya) - z for (ya, za), (yb, zb) in DISCS_MM])
    number = (levels > 0).sum(axis=0)
    about = (y < BACK_MM) & (y > FRONT_MM)
    middle = np.median(x[about & (number > 0) & (number < len(DISCS_MM))])
    about &= np.abs(x - middle) < HALF_WIDTH_MM
    labels = np.zeros(bone.array.shape, np.uint8)
    for vertebra in range(1, len(DISCS_MM)):
        one = np.zeros(bone.array.shape, bool)
        chosen = about & (number == vertebra)
        one[k[chosen], j[chosen], i[chosen]] = True
        # Pieces of ribs and of the pelvis are no part of it.
        parts, count = ndimage.label(one, np.ones((3, 3, 3)))
        largest = 1 + int(np.argmax(ndimage.sum_labels(one, parts, np.arange(1, count + 1))))
        whole = ndimage.binary_closing(np.pad(parts == largest, CLOSED_VOXELS), iterations=CLOSED_VOXELS)
        # The marrow is less dense than the threshold of bone.
        whole = ndimage.binary_fill_holes(whole)[(slice(CLOSED_VOXELS, -CLOSED_VOXELS),) * 3]
        labels[whole & (labels == 0)] = FIRST_LABEL + vertebra - 1
    write_volume(args.out, bone.same_grid(labels))
    print(
        ", ".join(
            f"{label}: {count}" for label, count in enumerate(np.bincount(labels.ravel())) if count and label
        )
    )


if __name__ == "__main__":
    main()
