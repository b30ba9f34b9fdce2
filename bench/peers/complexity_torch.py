"""Complexity and schedule (eqs. 3–7) in PyTorch, for a batch of images (N, C, H, W), uint8."""

import math

import torch


def complexity(images: torch.Tensor) -> torch.Tensor:
    """H in bits, (N,): the mean over channels of ½ E(levels) + ½ E(levels of log(1 + |FFT2|))."""
    magnitude = torch.fft.fft2(images.float() / 255.0).abs().log1p()
    low, high = magnitude.amin((-2, -1), keepdim=True), magnitude.amax((-2, -1), keepdim=True)
    spread = torch.where(high > low, high - low, 1.0)
    frequencies = ((magnitude - low) / spread * 255.0).round().long()
    return 0.5 * (_entropy(images.long()) + _entropy(frequencies)).mean(1)


def _entropy(levels: torch.Tensor) -> torch.Tensor:
    n, c, rows, columns = levels.shape
    row = torch.arange(n * c, device=levels.device)[:, None] * 256
    counts = torch.bincount((levels.view(n * c, -1) + row).view(-1), minlength=n * c * 256).view(n, c, 256).float()
    information = (counts * counts.clamp(min=1.0).log()).sum(-1) / (rows * columns)
    return (math.log(rows * columns) - information).clamp(min=0.0) / math.log(2.0)


def step_size(h: torch.Tensor) -> torch.Tensor:
    return torch.where(h < 0.05, 1.0, (1.0 / h).tanh())


def depth(h: torch.Tensor, max_depth: int) -> torch.Tensor:
    return (1.0 / step_size(h)).floor().long().clamp(1, max_depth)


def initial_value(h: torch.Tensor) -> torch.Tensor:
    return torch.where(h < 0.05, 0.0, (1.0 - h**-2.0).exp())
