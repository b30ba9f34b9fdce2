"""Puppet-CNN's definitions once more, as plain float64 NumPy loops: what the library is compared with."""

import math

import numpy as np


def entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    p = counts / values.size
    return float(-(p * np.log2(p)).sum())


def frequency_levels(channel: np.ndarray) -> np.ndarray:
    y = np.log1p(np.abs(np.fft.fft2(channel.astype(np.float64))))
    spread = y.max() - y.min()
    return np.round(255 * (y - y.min()) / spread) if spread > 1e-5 * y.max() else np.zeros_like(y)


def complexity(image: np.ndarray) -> float:
    """H of one (H, W, C) image, uint8 or float in [0, 1]."""
    levels = image if image.dtype == np.uint8 else np.round(image.astype(np.float64) * 255)
    unit = image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)
    total = 0.0
    for c in range(image.shape[2]):
        total += (entropy(levels[..., c]) + entropy(frequency_levels(unit[..., c]))) / 2
    return total / image.shape[2]


def step_size(h: float) -> float:
    return math.tanh(1 / h) if h > 0 else 1.0


def initial_value(h: float) -> float:
    return math.exp(1 - h**-2) if h > 0.04 else 0.0


def separable_field(state, depthwise, depthwise_bias, pointwise, pointwise_bias):
    """G(P) by the definition: depthwise 3×3 with zero padding, tanh, pointwise."""
    c, rows, columns = state.shape
    padded = np.pad(state, ((0, 0), (1, 1), (1, 1)))
    mixed = np.zeros_like(state)
    for channel in range(c):
        for i in range(rows):
            for j in range(columns):
                window = padded[channel, i : i + 3, j : j + 3]
                mixed[channel, i, j] = (window * depthwise[channel]).sum() + depthwise_bias[channel]
    out = np.zeros_like(state)
    for o in range(c):
        for channel in range(c):
            out[o] += pointwise[o, channel] * np.tanh(mixed)[channel]
        out[o] += pointwise_bias[o]
    return out


def _windows(shape, size, stride, padding):
    """Pads of an image, and for each output position the slice of the padded image that it sees."""
    stride = (stride, stride) if isinstance(stride, int) else stride
    if padding == "SAME":
        pads = []
        for n, k, step in zip(shape, size, stride, strict=True):
            total = max((-(-n // step) - 1) * step + k - n, 0)
            pads.append((total // 2, total - total // 2))
    else:
        pads = [(0, 0), (0, 0)] if padding == "VALID" else list(padding)
    out = [(n + sum(pad) - k) // step + 1 for n, pad, k, step in zip(shape, pads, size, stride, strict=True)]
    seen = {
        (i, j): (slice(i * stride[0], i * stride[0] + size[0]), slice(j * stride[1], j * stride[1] + size[1]))
        for i in range(out[0])
        for j in range(out[1])
    }
    return pads, out, seen


def convolve(image: np.ndarray, kernel: np.ndarray, stride=1, padding="SAME") -> np.ndarray:
    """Cross-correlation of an (H, W, C_in) image with an (C_out, C_in, K, K) kernel."""
    pads, out, seen = _windows(image.shape[:2], kernel.shape[2:], stride, padding)
    image = np.pad(image, (*pads, (0, 0)))
    result = np.zeros((*out, kernel.shape[0]))
    for place, window in seen.items():
        result[place] = np.einsum("hwc,ochw->o", image[window], kernel)
    return result


def convolution_gradients(image, kernel, cotangent, stride=1, padding="SAME") -> tuple[np.ndarray, np.ndarray]:
    """Gradients of Σ cotangent · convolve(image, kernel) in the image and in the kernel."""
    pads, _, seen = _windows(image.shape[:2], kernel.shape[2:], stride, padding)
    padded = np.pad(image, (*pads, (0, 0)))
    of_padded, of_kernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    for place, window in seen.items():
        of_padded[window] += np.einsum("o,ochw->hwc", cotangent[place], kernel)
        of_kernel += np.einsum("o,hwc->ochw", cotangent[place], padded[window])
    (top, _), (left, _) = pads
    return of_padded[top : top + image.shape[0], left : left + image.shape[1]], of_kernel


def group_norm(y: np.ndarray, groups: int, scale, shift) -> np.ndarray:
    """An (H, W, C) map normalised over groups of channels."""
    parts = y.reshape(-1, groups, y.shape[2] // groups)
    parts = (parts - parts.mean((0, 2), keepdims=True)) / np.sqrt(parts.var((0, 2), keepdims=True) + 1e-5)
    return parts.reshape(y.shape) * np.asarray(scale, np.float64) + np.asarray(shift, np.float64)


def mean_pool(y: np.ndarray, size: int) -> np.ndarray:
    """The mean of each window of an (H, W, C) map; what fills none is left out."""
    h, w = (n // size for n in y.shape[:2])
    return y[: h * size, : w * size].reshape(h, size, w, size, -1).mean((1, 3))


def adaptive_average(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's adaptive average pooling, cell by cell, on every axis."""
    out = np.zeros(shape)
    for index in np.ndindex(*shape):
        window = tuple(
            slice(i * n // m, math.ceil((i + 1) * n / m)) for i, n, m in zip(index, x.shape, shape, strict=True)
        )
        out[index] = x[window].mean()
    return out
