"""Reference projector in plain torch: any device, differentiable in pose and volume, twice.

The ProST projector (Gao et al., MICCAI 2020): trilinear samples at a fixed step along the ray of every
pixel. Slow and simple; the fused backends are held to it.
"""

from __future__ import annotations

import torch

# Samples of one chunk of rays: bounds the memory that autograd keeps alive at once.
_SAMPLES_PER_CHUNK = 4_000_000


def render(voxels, camera_to_padded, K_inverse, shape, step_mm, support) -> torch.Tensor:
    """Line integrals.

    Args:
        voxels: (k, j, i) zero-padded volume (tensor, may require gradients).
        camera_to_padded: (B, 4, 4) camera mm to padded index (tensor, may require gradients).
        K_inverse: (3, 3) tensor.
        shape: (rows, columns).
        step_mm: sampling step along the ray, mm; samples stand at n * step from the source.
        support: (2, 3) padded indices (i, j, k) outside which the volume is zero.

    Returns:
        (B, rows, columns) tensor.
    """
    rows, columns = shape
    options = {"dtype": voxels.dtype, "device": voxels.device}
    v, u = torch.meshgrid(torch.arange(rows, **options), torch.arange(columns, **options), indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).reshape(-1, 3) @ K_inverse.T
    rays = rays / rays.norm(dim=-1, keepdim=True)
    first, last = _sample_range(camera_to_padded.detach(), rays, step_mm, support)
    if last < first:
        return voxels.new_zeros(len(camera_to_padded), rows, columns) + 0 * camera_to_padded.sum()
    distances = step_mm * torch.arange(first, last + 1, **options)

    images = []
    rays_per_chunk = max(1, _SAMPLES_PER_CHUNK // len(distances))
    for A in camera_to_padded:
        chunks = []
        for chunk in rays.split(rays_per_chunk):
            points = (chunk @ A[:3, :3].T)[:, None, :] * distances[:, None] + A[:3, 3]
            chunks.append(_trilinear(voxels, points).sum(dim=-1) * step_mm)
        images.append(torch.cat(chunks).reshape(rows, columns))
    return torch.stack(images)


def _trilinear(voxels, points) -> torch.Tensor:
    """Values at (..., 3) indices (i, j, k), zero outside the grid.

    Written out because torch's 3D ``grid_sample`` has neither a double backward nor forward mode.
    """
    nk, nj, ni = voxels.shape
    cells = points.detach().floor()
    last = torch.tensor([ni - 2, nj - 2, nk - 2], dtype=points.dtype, device=points.device)
    inside = ((cells >= 0) & (cells <= last)).all(dim=-1)
    cells = torch.where(inside[..., None], cells, torch.zeros_like(cells))
    fx, fy, fz = torch.where(inside[..., None], points - cells, torch.zeros_like(cells)).unbind(-1)
    i, j, k = cells.long().unbind(-1)
    base = (k * nj + j) * ni + i
    flat = voxels.reshape(-1)

    def along_i(offset):
        return flat[base + offset] * (1 - fx) + flat[base + offset + 1] * fx

    def along_j(offset):
        return along_i(offset) * (1 - fy) + along_i(offset + ni) * fy

    return torch.where(inside, along_j(0) * (1 - fz) + along_j(nj * ni) * fz, 0.0)


def _sample_range(camera_to_padded, rays, step_mm, support) -> tuple[int, int]:
    """First and last sample of any ray near the support's circumscribed sphere."""
    low, high = torch.as_tensor(support, dtype=torch.float64, device=rays.device)
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))
    inverse = torch.linalg.inv(camera_to_padded.double())
    points = corners @ inverse[:, :3, :3].mT + inverse[:, None, :3, 3]
    centre = points.mean(dim=1)
    radius = (points - centre[:, None]).norm(dim=-1).max()
    distance = centre.norm(dim=-1)
    first = max(0.0, float((distance.min() - radius) / step_mm))
    last = float((distance.max() + radius) / step_mm)
    if bool((high <= low).any()):
        return 0, -1
    return int(first), int(last) + 1
