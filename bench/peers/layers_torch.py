"""What a layer does besides convolving, and what is done to a kernel before use, in PyTorch; batches (N, C, H, W)."""

import math

import torch
import torch.nn.functional as F


def pad_same(x: torch.Tensor, size: int, stride: int) -> tuple[torch.Tensor, int]:
    """(images, padding left to the convolution) for SAME as TensorFlow defines it, which may be uneven."""
    pads = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads += [total // 2, total - total // 2]
    if len(set(pads)) == 1:
        return x, pads[0]
    return F.pad(x, pads), 0


def finish(y: torch.Tensor, x: torch.Tensor, scale, shift, groups: int) -> torch.Tensor:
    """Group normalisation, relu and residual of the convolution's output ``y``; ``x`` was its input."""
    y = F.group_norm(y, math.gcd(y.shape[1], groups), scale, shift, 1e-5)
    if torch.is_grad_enabled():
        y = F.relu(y)
        return y + x if y.shape == x.shape else y
    y = F.relu_(y)
    return y.add_(x) if y.shape == x.shape else y


def standardise(kernels: torch.Tensor) -> torch.Tensor:
    """(..., C_out, C_in, K, K) to mean 0 and variance 2 / fan_in of every output channel."""
    flat = kernels.flatten(-3)
    variance, mean = torch.var_mean(flat, -1, correction=0, keepdim=True)
    return ((flat - mean) * (2.0 / flat.shape[-1] / (variance + 1e-6)).sqrt()).view(kernels.shape)


def average_down(state: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Adaptive average pooling of the last ``len(shape)`` axes, one by one; those that fit already are left alone."""
    for axis, length in enumerate(shape, start=-len(shape)):
        if state.shape[axis] != length:
            moved = state.movedim(axis, -1)
            pooled = F.adaptive_avg_pool1d(moved.reshape(-1, 1, moved.shape[-1]), length)
            state = pooled.view(*moved.shape[:-1], length).movedim(-1, axis)
    return state
