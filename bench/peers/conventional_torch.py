"""The conventional method in PyTorch: every image's kernels generated layer by layer, Euler's eq. (2), then convolved.

Written as for production: the batch is sorted by depth, so that the images with D ≥ l are a contiguous prefix and layer
l computes nothing for the others; generation is two convolutions over the batch of states; the batch of convolutions
with own kernels is one grouped convolution (oneDNN runs it at nearly the rate of a shared kernel) or, where that is
faster, one batched matrix product of patches; the benchmark takes the faster. States are channels_last, which was the
faster layout at every size.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from bench.peers import layers_torch
from bench.peers.complexity_torch import complexity, depth, initial_value, step_size


class ConventionalPuppet(nn.Module):
    """A Puppet-CNN with an ODE puppeteer, from the configuration and weights that ``peers/weights.py`` exports."""

    def __init__(self, config: dict, weights: dict, convolution: Literal["grouped", "matmul"] = "grouped"):
        super().__init__()
        self.config = config
        self.convolve = {"grouped": _grouped, "matmul": _matmul}[convolution]
        for name in ("initial_out", "initial_in", "initial_tap", "depthwise_bias", "pointwise_bias"):
            setattr(self, name, _parameter(weights[name]))
        self.depthwise = _parameter(weights["depthwise"][:, None])
        self.pointwise = _parameter(weights["pointwise"][:, :, None, None])
        self.layers = count = len(config["strides"])
        self.norm_scale = nn.ParameterList([_parameter(weights[f"norm_scale/{layer}"]) for layer in range(count)])
        self.norm_shift = nn.ParameterList([_parameter(weights[f"norm_shift/{layer}"]) for layer in range(count)])
        self.head = _parameter(weights["head"].T)
        self.head_bias = _parameter(weights["head_bias"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8, all at once."""
        h, d = self._measure(images)
        d, order = d.sort(descending=True, stable=True)
        x = (images.float() / 255.0 - 0.5).mul_(4.0)[order]
        active = _active(d, self.layers)
        exits = []
        for layer, kernels in enumerate(self._kernels(h[order], active)):
            x = self._layer(x[: len(kernels)], kernels, layer)
            mean = x.mean((2, 3))
            exits.append(F.pad(mean, (0, self.head.shape[1] - mean.shape[1])))
        # Layer l's exits are the tail of its prefix, so the deepest images come first again.
        ends = [*active[1:], 0]
        features = torch.cat([m[n:] for m, n in zip(exits[::-1], ends[::-1], strict=True)])
        return F.linear(features, self.head, self.head_bias)[order.argsort()]

    def one_by_one(self, images: torch.Tensor) -> torch.Tensor:
        """The same, image by image: each image's own D layers, its kernels an ordinary convolution's."""
        h, d = self._measure(images)
        features = []
        for image, one_h, one_d in zip(images, h, d.tolist(), strict=True):
            x = (image[None].float() / 255.0 - 0.5) * 4.0
            for layer, kernels in enumerate(self._kernels(one_h[None], [1] * one_d)):
                x = self._layer(x, kernels, layer)
            mean = x.mean((2, 3))
            features.append(F.pad(mean, (0, self.head.shape[1] - mean.shape[1])))
        return F.linear(torch.cat(features), self.head, self.head_bias)

    def generate(self, h: torch.Tensor) -> list[torch.Tensor]:
        """Kernels of every layer, (n_l, C_out, C_in, K, K), for the n_l images with D ≥ l, deepest first."""
        d, order = depth(h, self.layers).sort(descending=True, stable=True)
        return list(self._kernels(h[order], _active(d, self.layers)))

    def _measure(self, images):
        with torch.no_grad():
            h = complexity(images)
        bin = self.config["bin"]  # all that it changes is which kernels and depth an image gets
        h = (torch.floor(h / bin) + 0.5) * bin
        return h, depth(h, self.layers)

    def _kernels(self, h: torch.Tensor, active: list[int]):
        """One layer's kernels after the other, each for the first ``active[layer]`` images."""
        shapes = self.config["kernel_shapes"]
        c_out, c_in, size = (max(shape[axis] for shape in shapes) for axis in range(3))
        start = torch.einsum("ro,ri,rk->oik", self.initial_out, self.initial_in, self.initial_tap)
        dl = step_size(h)[:, None, None, None]
        state = (start + initial_value(h)[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        for layer, n in enumerate(active):
            state, dl = state[:n], dl[:n]
            mixed = torch.tanh(F.conv2d(state, self.depthwise, self.depthwise_bias, padding=1, groups=c_out))
            state = torch.addcmul(state, dl, F.conv2d(mixed, self.pointwise, self.pointwise_bias))
            kernels = layers_torch.average_down(state.reshape(n, c_out, c_in, size, size), shapes[layer])
            yield layers_torch.standardise(kernels)

    def _layer(self, x: torch.Tensor, kernels: torch.Tensor, index: int) -> torch.Tensor:
        convolve = _grouped if len(x) == 1 else self.convolve
        y = convolve(x, kernels, self.config["strides"][index])
        return layers_torch.finish(y, x, self.norm_scale[index], self.norm_shift[index], self.config["norm_groups"])


def _grouped(x: torch.Tensor, kernels: torch.Tensor, stride: int) -> torch.Tensor:
    n, c_out, c_in, size, _ = kernels.shape
    x, padding = layers_torch.pad_same(x, size, stride)
    x = x.reshape(1, n * c_in, *x.shape[2:])
    y = F.conv2d(x, kernels.reshape(n * c_out, c_in, size, size), stride=stride, padding=padding, groups=n)
    return y.view(n, c_out, *y.shape[2:])


def _matmul(x: torch.Tensor, kernels: torch.Tensor, stride: int) -> torch.Tensor:
    n, c_out, _, size, _ = kernels.shape
    x, padding = layers_torch.pad_same(x, size, stride)
    rows, columns = ((length + 2 * padding - size) // stride + 1 for length in x.shape[2:])
    patches = F.unfold(x, size, padding=padding, stride=stride)
    return torch.bmm(kernels.reshape(n, c_out, -1), patches).view(n, c_out, rows, columns)


def _active(d: torch.Tensor, layers: int) -> list[int]:
    """Images that layer 1, 2, … is computed for; the list ends at the batch's greatest depth."""
    counts = [int((d >= layer).sum()) for layer in range(1, layers + 1)]
    return [n for n in counts if n]


def _parameter(array) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array.copy()))
