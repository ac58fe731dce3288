"""Fused CPU projector: line integral and exact pose Jacobian of every pixel in one pass (numba).

Along the ray of a pixel, with unit direction d in the camera frame, the samples stand at c = s d,
s = n * step (n integer, so that they do not move with the pose). With mu the trilinear interpolant and
g its gradient in camera axes::

    I = step * sum mu(c)
    dI = -step * sum g . (w x c + v)        for the pose perturbed by the twist (w, v) in the camera frame
       = -(d x step * sum s g) . w - (step * sum g) . v

so six sums per pixel give the whole Jacobian. Each of a ray's sums is kept in ``_LANES`` parts, part l that
of the samples l, l + _LANES, ...: the loop over them becomes one of vector instructions, in an order of sums
that is written here and not chosen by the compiler.
"""

from __future__ import annotations

import threading

import numba
import numpy as np

from SOPIRegistrationLib.projector.kernel_cache import compiled
from SOPIRegistrationLib.projector.lanes import load_pair, stack_float32
from SOPIRegistrationLib.projector.volume import BRICK

_TILE = 8
# Samples of a ray that are computed at once; and the sums of a ray: the image's, and the six of its Jacobian.
_LANES = 8
_SUMS = 7
_SCRATCH = _SUMS * _LANES
# Multiply and add in one instruction, and no other liberty. Free to order sums as well, the compiler orders
# them in one way when it compiles and in another when it links the cached kernel: the images of a process
# would depend on whether it was the first.
_CONTRACT = {"contract"}
# Of numba's threading layers the one that is always there ("workqueue") ends the process when two threads
# use it at once. A projection uses all cores anyway.
_ONE_AT_A_TIME = threading.Lock()


@numba.njit(fastmath=_CONTRACT, inline="always")
def _exit_parameter(position, inverse_rate, low, high):
    """How far (in steps) until a coordinate leaves [low, high]."""
    return ((high if inverse_rate > 0 else low) - position) * inverse_rate


@numba.njit(fastmath=_CONTRACT, inline="always", error_model="numpy")
def _samples_inside(A, dx, dy, dz, step, support):
    """First and number of the samples of a ray inside the support; in double, for the source is far off."""
    first = 0.0
    last = 1e9
    for axis in range(3):
        rate = (A[axis, 0] * dx + A[axis, 1] * dy + A[axis, 2] * dz) * step
        low = support[0, axis]
        high = support[1, axis]
        if abs(rate) < 1e-12:
            if A[axis, 3] <= low or A[axis, 3] >= high:
                last = -1.0
        else:
            a = (low - A[axis, 3]) / rate
            b = (high - A[axis, 3]) / rate
            first = max(first, min(a, b))
            last = min(last, max(a, b))
    n_first = int(np.ceil(first))
    return n_first, int(np.floor(last)) - n_first + 1 if last >= first else 0


@numba.njit(fastmath=_CONTRACT, inline="always", error_model="numpy")
def _add_samples(flat, sums, m, final, ox, oy, oz, ex, ey, ez, row, plane, with_jacobian):
    """Add the samples m to m + _LANES - 1 of a ray, as far as ``final``, to its sums, a sample to a lane."""
    # Unsigned offsets spare the test for negative (wrap-around) indices.
    next_row = np.uint32(row)
    next_plane = np.uint32(plane)
    next_both = np.uint32(plane + row)
    for lane in range(_LANES):
        q = np.int32(m + lane)
        weight = np.float32(1.0) if q <= final else np.float32(0.0)
        f = np.float32(min(q, final))
        px = ox + f * ex
        py = oy + f * ey
        pz = oz + f * ez
        i = np.int32(px)
        j = np.int32(py)
        k = np.int32(pz)
        fx = px - np.float32(i)
        fy = py - np.float32(j)
        fz = pz - np.float32(k)
        base = np.uint32(k * plane + j * row + i)
        v000, v001 = load_pair(flat, base)
        v010, v011 = load_pair(flat, base + next_row)
        v100, v101 = load_pair(flat, base + next_plane)
        v110, v111 = load_pair(flat, base + next_both)
        d00 = v001 - v000
        d01 = v011 - v010
        d10 = v101 - v100
        d11 = v111 - v110
        c00 = v000 + fx * d00
        c01 = v010 + fx * d01
        c10 = v100 + fx * d10
        c11 = v110 + fx * d11
        e0 = c01 - c00
        e1 = c11 - c10
        b0 = c00 + fy * e0
        b1 = c10 + fy * e1
        h = b1 - b0
        sums[0, lane] += weight * (b0 + fz * h)
        if with_jacobian:
            x0 = d00 + fy * (d01 - d00)
            x1 = d10 + fy * (d11 - d10)
            gx = weight * (x0 + fz * (x1 - x0))
            gy = weight * (e0 + fz * (e1 - e0))
            gz = weight * h
            sums[1, lane] += gx
            sums[2, lane] += gy
            sums[3, lane] += gz
            sums[4, lane] += f * gx
            sums[5, lane] += f * gy
            sums[6, lane] += f * gz


@compiled(parallel=True, fastmath=_CONTRACT, error_model="numpy")
def _march(
    voxels,
    brick_reach,
    brick_size,
    support,
    camera_to_padded,
    K_inverse,
    step,
    image,
    jacobian,
    with_jacobian,
):
    n_poses, rows, columns = image.shape
    tile_rows = (rows + _TILE - 1) // _TILE
    tile_columns = (columns + _TILE - 1) // _TILE
    tiles = tile_rows * tile_columns
    brick = np.float32(brick_size)
    per_brick = np.float32(1.0 / brick_size)
    flat = voxels.reshape(voxels.size)
    row = np.int32(voxels.shape[2])
    plane = np.int32(voxels.shape[1] * voxels.shape[2])
    tiny = np.float32(1e-9)

    for task in numba.prange(n_poses * tiles):
        pose = task // tiles
        tile = task % tiles
        v0 = (tile // tile_columns) * _TILE
        u0 = (tile % tile_columns) * _TILE
        A = camera_to_padded[pose]
        sums = numba.carray(stack_float32(_SCRATCH), (_SUMS, _LANES))
        for v in range(v0, min(v0 + _TILE, rows)):
            for u in range(u0, min(u0 + _TILE, columns)):
                dx = K_inverse[0, 0] * u + K_inverse[0, 1] * v + K_inverse[0, 2]
                dy = K_inverse[1, 0] * u + K_inverse[1, 1] * v + K_inverse[1, 2]
                dz = K_inverse[2, 0] * u + K_inverse[2, 1] * v + K_inverse[2, 2]
                norm = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
                dx *= norm
                dy *= norm
                dz *= norm

                n_first, count = _samples_inside(A, dx, dy, dz, step, support)
                ex_d = (A[0, 0] * dx + A[0, 1] * dy + A[0, 2] * dz) * step
                ey_d = (A[1, 0] * dx + A[1, 1] * dy + A[1, 2] * dz) * step
                ez_d = (A[2, 0] * dx + A[2, 1] * dy + A[2, 2] * dz) * step
                ox = np.float32(A[0, 3] + n_first * ex_d)
                oy = np.float32(A[1, 3] + n_first * ey_d)
                oz = np.float32(A[2, 3] + n_first * ez_d)
                ex = np.float32(ex_d)
                ey = np.float32(ey_d)
                ez = np.float32(ez_d)
                # A coordinate that does not move leaves after a very long way, not after infinity.
                ix = np.float32(1.0) / (ex if abs(ex) > tiny else tiny)
                iy = np.float32(1.0) / (ey if abs(ey) > tiny else tiny)
                iz = np.float32(1.0) / (ez if abs(ez) > tiny else tiny)

                sums[:] = np.float32(0.0)
                final = np.int32(count - 1)
                m = 0
                while m < count:
                    f = np.float32(m)
                    bi = int((ox + f * ex) * per_brick)
                    bj = int((oy + f * ey) * per_brick)
                    bk = int((oz + f * ez) * per_brick)
                    reach = int(brick_reach[bk, bj, bi])
                    # Boundaries of the cube of bricks that share this brick's state.
                    margin = abs(reach) - 1
                    leave = _exit_parameter(ox, ix, brick * (bi - margin), brick * (bi + 1 + margin))
                    leave = min(
                        leave, _exit_parameter(oy, iy, brick * (bj - margin), brick * (bj + 1 + margin))
                    )
                    leave = min(
                        leave, _exit_parameter(oz, iz, brick * (bk - margin), brick * (bk + 1 + margin))
                    )
                    end = min(count, max(m + 1, int(np.ceil(leave))))
                    if reach < 0:
                        m = end
                        continue
                    # What the last block takes beyond these bricks counts like any other sample.
                    while m < end:
                        _add_samples(flat, sums, m, final, ox, oy, oz, ex, ey, ez, row, plane, with_jacobian)
                        m += _LANES

                image[pose, v, u] = sums[0].sum() * np.float32(step)
                if with_jacobian:
                    gx = sums[1].sum()
                    gy = sums[2].sum()
                    gz = sums[3].sum()
                    # Index-space sums to camera axes (transpose of camera -> index), s = (n_first + m) step.
                    sx = step * (n_first * float(gx) + float(sums[4].sum()))
                    sy = step * (n_first * float(gy) + float(sums[5].sum()))
                    sz = step * (n_first * float(gz) + float(sums[6].sum()))
                    g0 = (A[0, 0] * gx + A[1, 0] * gy + A[2, 0] * gz) * step
                    g1 = (A[0, 1] * gx + A[1, 1] * gy + A[2, 1] * gz) * step
                    g2 = (A[0, 2] * gx + A[1, 2] * gy + A[2, 2] * gz) * step
                    h0 = (A[0, 0] * sx + A[1, 0] * sy + A[2, 0] * sz) * step
                    h1 = (A[0, 1] * sx + A[1, 1] * sy + A[2, 1] * sz) * step
                    h2 = (A[0, 2] * sx + A[1, 2] * sy + A[2, 2] * sz) * step
                    jacobian[pose, 0, v, u] = -(dy * h2 - dz * h1)
                    jacobian[pose, 1, v, u] = -(dz * h0 - dx * h2)
                    jacobian[pose, 2, v, u] = -(dx * h1 - dy * h0)
                    jacobian[pose, 3, v, u] = -g0
                    jacobian[pose, 4, v, u] = -g1
                    jacobian[pose, 5, v, u] = -g2


def march(volume, camera_to_padded, K_inverse, shape, step_mm, with_jacobian):
    """Image and, where asked for, its Jacobian.

    Args:
        volume: :class:`ProjectorVolume`.
        camera_to_padded: (B, 4, 4) camera mm to padded index, float64.
        K_inverse: (3, 3).
        shape: (rows, columns).
        step_mm: sampling step along the ray, mm.
        with_jacobian: whether the Jacobian is wanted.

    Returns:
        image (B, rows, columns) float32; Jacobian (B, 6, rows, columns) float32 or None.
    """
    poses = len(camera_to_padded)
    image = np.empty((poses, *shape), np.float32)
    jacobian = np.empty((poses, 6, *shape) if with_jacobian else (1, 6, 1, 1), np.float32)
    arguments = (
        volume.voxels,
        volume.brick_reach,
        BRICK,
        volume.support,
        np.ascontiguousarray(camera_to_padded),
        np.ascontiguousarray(K_inverse),
        float(step_mm),
        image,
        jacobian,
        with_jacobian,
    )
    with _ONE_AT_A_TIME:
        _march(*arguments)
    return image, jacobian if with_jacobian else None
