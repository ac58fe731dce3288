"""What networks see of an image: its values, freed of gain, offset and intensity curve."""

from __future__ import annotations

import torch

FIXED_CHANNELS = 4
# Edge of the window of the local normalisation, as a share of the image's width.
_WINDOW = 0.2


def fixed_channels(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, 4, N, N) float32 of X-rays (B, N, N), bone bright: standardised, ranks -1 to 1, locally
    standardised, mask."""
    values = standardised(image, valid)
    channels = [values, ranks(image, valid), locally_standardised(values, valid), valid.float()]
    return torch.stack(channels, dim=1)


def standardised(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, N, N) less the mean and over the deviation of the valid pixels; zero where invalid."""
    count = valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    image = torch.where(valid, image.float(), 0)
    mean = image.sum(dim=(1, 2), keepdim=True) / count
    centred = torch.where(valid, image - mean, 0)
    # Clamped before the root, whose derivative at zero is infinite.
    variance = (centred.square().sum(dim=(1, 2), keepdim=True) / count).clamp(min=1e-12)
    return (centred / variance.sqrt()).clamp(-4, 4)


def locally_standardised(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, N, N) less the mean and over the deviation of the valid pixels in a window; zero where invalid."""
    window = _window(image.shape[-1]).to(image)
    weights = valid.float()

    def average(x: torch.Tensor) -> torch.Tensor:
        return window @ x @ window

    share = average(weights).clamp(min=1e-3)
    centred = image - average(image * weights) / share
    deviation = (average((centred * weights).square()) / share).clamp(min=1e-12).sqrt()
    # What hardly varies is noise: it is not blown up.
    return torch.where(valid, centred / (deviation + 0.02), 0).clamp(-4, 4)


def _window(pixels: int) -> torch.Tensor:
    """(pixels, pixels) matrix that averages over the window along an axis, with zeros beyond the image."""
    reach = round(_WINDOW * pixels / 2)
    index = torch.arange(pixels)
    return ((index[:, None] - index).abs() <= reach) / (2 * reach + 1)


def ranks(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, N, N) ranks among the valid pixels, -1 to 1; 0 elsewhere. Equal values share the mean of theirs."""
    shape = image.shape
    flat = torch.where(valid, image.float(), torch.inf).flatten(1)
    ordered = flat.sort(dim=1).values
    rank = (torch.searchsorted(ordered, flat) + torch.searchsorted(ordered, flat, right=True) - 1) / 2
    count = valid.flatten(1).sum(dim=1, keepdim=True).clamp(min=2)
    return torch.where(valid.flatten(1), 2 * rank / (count - 1) - 1, 0).float().view(shape)
