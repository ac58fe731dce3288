"""Fused CUDA projector (Triton): line integral and exact pose Jacobian of every pixel in one pass.

The sums of :mod:`.fused_cpu`, with the same samples; one thread a ray, one program a tile of pixels
of one pose. Used only where a CUDA device and Triton are present (:func:`availability`).
"""

from __future__ import annotations

from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# Pixels of a program: neighbouring rays read the same voxels.
_TILE_ROWS = 8
_TILE_COLUMNS = 16


def availability() -> tuple[bool, str]:
    """Whether this backend can run here, and if not, why."""
    if triton is None:
        return False, "triton is not installed (pip install triton)"
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device"
    if torch.version.cuda and torch.cuda.get_device_capability() < (7, 0):
        return False, "the CUDA device is older than Triton supports (compute capability 7.0)"
    return True, ""


@cache
def _kernel():
    return triton.jit(_march)


def _march(
    voxels,
    camera_to_padded,
    constants,
    image,
    jacobian,
    rows,
    columns,
    row_stride,
    slice_stride,
    WITH_JACOBIAN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    """Kernel. Positions start in float64 (the source is far from the volume) and march in float32.

    ``constants`` (float64): K_inverse (9), support low and high (6), step (1).
    """
    tile_columns = tl.cdiv(columns, TILE_COLUMNS)
    tiles = tl.cdiv(rows, TILE_ROWS) * tile_columns
    pose = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    lane = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    v = (tile // tile_columns) * TILE_ROWS + lane // TILE_COLUMNS
    u = (tile % tile_columns) * TILE_COLUMNS + lane % TILE_COLUMNS
    inside = (v < rows) & (u < columns)

    A = camera_to_padded + pose * 16
    a00, a01, a02, a03 = tl.load(A), tl.load(A + 1), tl.load(A + 2), tl.load(A + 3)
    a10, a11, a12, a13 = tl.load(A + 4), tl.load(A + 5), tl.load(A + 6), tl.load(A + 7)
    a20, a21, a22, a23 = tl.load(A + 8), tl.load(A + 9), tl.load(A + 10), tl.load(A + 11)
    low_x, low_y, low_z = tl.load(constants + 9), tl.load(constants + 10), tl.load(constants + 11)
    high_x, high_y, high_z = tl.load(constants + 12), tl.load(constants + 13), tl.load(constants + 14)
    h = tl.load(constants + 15)

    ud = u.to(tl.float64)
    vd = v.to(tl.float64)
    dx = tl.load(constants) * ud + tl.load(constants + 1) * vd + tl.load(constants + 2)
    dy = tl.load(constants + 3) * ud + tl.load(constants + 4) * vd + tl.load(constants + 5)
    dz = tl.load(constants + 6) * ud + tl.load(constants + 7) * vd + tl.load(constants + 8)
    norm = 1.0 / tl.sqrt(dx * dx + dy * dy + dz * dz)
    dx *= norm
    dy *= norm
    dz *= norm

    # Index-space step of a sample, and the range of samples inside the support.
    ex = (a00 * dx + a01 * dy + a02 * dz) * h
    ey = (a10 * dx + a11 * dy + a12 * dz) * h
    ez = (a20 * dx + a21 * dy + a22 * dz) * h
    # A rate too small to matter becomes one that puts both crossings far away, on the right sides.
    rx = tl.where(tl.abs(ex) < 1e-12, 1e-12, ex)
    ry = tl.where(tl.abs(ey) < 1e-12, 1e-12, ey)
    rz = tl.where(tl.abs(ez) < 1e-12, 1e-12, ez)
    x0, x1 = (low_x - a03) / rx, (high_x - a03) / rx
    y0, y1 = (low_y - a13) / ry, (high_y - a13) / ry
    z0, z1 = (low_z - a23) / rz, (high_z - a23) / rz
    first = tl.maximum(tl.maximum(tl.minimum(x0, x1), tl.minimum(y0, y1)), tl.minimum(z0, z1))
    last = tl.minimum(tl.minimum(tl.maximum(x0, x1), tl.maximum(y0, y1)), tl.maximum(z0, z1))
    first = tl.ceil(tl.maximum(first, 0.0))
    last = tl.floor(last)
    count = tl.where(inside & (last >= first), last - first + 1, 0).to(tl.int32)

    ox = (a03 + first * ex).to(tl.float32)
    oy = (a13 + first * ey).to(tl.float32)
    oz = (a23 + first * ez).to(tl.float32)
    fex = ex.to(tl.float32)
    fey = ey.to(tl.float32)
    fez = ez.to(tl.float32)

    last_i = high_x.to(tl.int32) - 1
    last_j = high_y.to(tl.int32) - 1
    last_k = high_z.to(tl.int32) - 1
    total = tl.zeros_like(ox)
    gx = tl.zeros_like(ox)
    gy = tl.zeros_like(ox)
    gz = tl.zeros_like(ox)
    mx = tl.zeros_like(ox)
    my = tl.zeros_like(ox)
    mz = tl.zeros_like(ox)
    f = tl.zeros_like(ox)
    for _ in range(0, tl.max(count)):
        active = f < count
        px = ox + f * fex
        py = oy + f * fey
        pz = oz + f * fez
        # Rounding must not carry a sample on the support's far face into the cell behind it.
        i = tl.minimum(px.to(tl.int32), last_i)
        j = tl.minimum(py.to(tl.int32), last_j)
        k = tl.minimum(pz.to(tl.int32), last_k)
        fx = px - i.to(tl.float32)
        fy = py - j.to(tl.float32)
        fz = pz - k.to(tl.float32)
        base = voxels + k.to(tl.int64) * slice_stride + j * row_stride + i
        v000 = tl.load(base, mask=active, other=0.0)
        v001 = tl.load(base + 1, mask=active, other=0.0)
        v010 = tl.load(base + row_stride, mask=active, other=0.0)
        v011 = tl.load(base + row_stride + 1, mask=active, other=0.0)
        v100 = tl.load(base + slice_stride, mask=active, other=0.0)
        v101 = tl.load(base + slice_stride + 1, mask=active, other=0.0)
        v110 = tl.load(base + slice_stride + row_stride, mask=active, other=0.0)
        v111 = tl.load(base + slice_stride + row_stride + 1, mask=active, other=0.0)
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
        sz = c10 + fy * e1 - b0
        total += b0 + fz * sz
        if WITH_JACOBIAN:
            sx0 = d00 + fy * (d01 - d00)
            sx = sx0 + fz * (d10 + fy * (d11 - d10) - sx0)
            sy = e0 + fz * (e1 - e0)
            gx += sx
            gy += sy
            gz += sz
            mx += f * sx
            my += f * sy
            mz += f * sz
        f += 1.0

    pixel = v * columns + u
    pixels = rows * columns
    tl.store(image + pose * pixels + pixel, (total * h).to(tl.float32), mask=inside)
    if WITH_JACOBIAN:
        # Index-space sums to camera axes; the moments by s = (first + m) step.
        gx64 = gx.to(tl.float64)
        gy64 = gy.to(tl.float64)
        gz64 = gz.to(tl.float64)
        mx64 = h * (first * gx64 + mx)
        my64 = h * (first * gy64 + my)
        mz64 = h * (first * gz64 + mz)
        h0 = a00 * mx64 + a10 * my64 + a20 * mz64
        h1 = a01 * mx64 + a11 * my64 + a21 * mz64
        h2 = a02 * mx64 + a12 * my64 + a22 * mz64
        out = jacobian + pose * 6 * pixels + pixel
        tl.store(out, (-h * (dy * h2 - dz * h1)).to(tl.float32), mask=inside)
        tl.store(out + pixels, (-h * (dz * h0 - dx * h2)).to(tl.float32), mask=inside)
        tl.store(out + 2 * pixels, (-h * (dx * h1 - dy * h0)).to(tl.float32), mask=inside)
        for axis in tl.static_range(3):
            g = tl.load(A + axis) * gx64 + tl.load(A + 4 + axis) * gy64 + tl.load(A + 8 + axis) * gz64
            tl.store(out + (3 + axis) * pixels, (-h * g).to(tl.float32), mask=inside)


# Device copies of the voxels, as long as their volume lives.
_uploaded: WeakKeyDictionary = WeakKeyDictionary()


def _voxels_on(device, volume) -> torch.Tensor:
    copies = _uploaded.setdefault(volume, {})
    if device not in copies:
        copies[device] = torch.as_tensor(volume.voxels, device=device)
    return copies[device]


def march(volume, camera_to_padded, K_inverse, shape, step_mm, with_jacobian):
    """Image and, where asked for, its Jacobian: the signature of ``fused_cpu.march``.

    Poses given as a numpy array return numpy arrays; as a tensor, tensors on its device.
    """
    if not isinstance(camera_to_padded, torch.Tensor):
        poses = torch.as_tensor(camera_to_padded, device="cuda")
        image, jacobian = march(volume, poses, K_inverse, shape, step_mm, with_jacobian)
        return image.cpu().numpy(), jacobian.cpu().numpy() if with_jacobian else None

    device = camera_to_padded.device
    poses = len(camera_to_padded)
    rows, columns = shape
    options = {"dtype": torch.float32, "device": device}
    image = torch.zeros(poses, rows, columns, **options)
    jacobian = torch.zeros(poses, 6, rows, columns, **options) if with_jacobian else image
    if not volume.is_empty:
        voxels = _voxels_on(device, volume)
        constants = np.concatenate([np.ravel(K_inverse), volume.support.ravel(), [step_mm]])
        tiles = triton.cdiv(rows, _TILE_ROWS) * triton.cdiv(columns, _TILE_COLUMNS)
        _kernel()[(poses * tiles,)](
            voxels,
            camera_to_padded.double().contiguous(),
            torch.as_tensor(constants, dtype=torch.float64, device=device),
            image,
            jacobian,
            rows,
            columns,
            voxels.stride(1),
            voxels.stride(0),
            WITH_JACOBIAN=with_jacobian,
            TILE_ROWS=_TILE_ROWS,
            TILE_COLUMNS=_TILE_COLUMNS,
        )
    return image, jacobian if with_jacobian else None
