"""The static CNN in PyTorch: the puppet at D_max with a stored kernel a layer, as oneDNN likes it."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.peers import layers_torch


class StaticPuppet(nn.Module):
    """From the configuration and weights that ``peers/weights.py`` exports of a model with stored kernels.

    With ``baked`` (inference) the kernels are standardised already, else (training) before every use.
    """

    def __init__(self, config: dict, weights: dict, *, baked: bool, channels_last: bool):
        super().__init__()
        self.config = config
        self.baked = baked
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        count = len(config["strides"])
        kind = "baked" if baked else "stored"
        stored = [torch.from_numpy(weights[f"{kind}/{layer}"].copy()) for layer in range(count)]
        self.kernels = nn.ParameterList([nn.Parameter(k.contiguous(memory_format=self.layout)) for k in stored])
        copy = lambda name: nn.Parameter(torch.from_numpy(weights[name].copy()))  # noqa: E731
        self.norm_scale = nn.ParameterList([copy(f"norm_scale/{layer}") for layer in range(count)])
        self.norm_shift = nn.ParameterList([copy(f"norm_shift/{layer}") for layer in range(count)])
        self.head = nn.Parameter(torch.from_numpy(weights["head"].T.copy()))
        self.head_bias = copy("head_bias")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8."""
        x = ((images.float() / 255.0 - 0.5) * 4.0).contiguous(memory_format=self.layout)
        for index, stride in enumerate(self.config["strides"]):
            kernel = self.kernels[index] if self.baked else layers_torch.standardise(self.kernels[index])
            padded, padding = layers_torch.pad_same(x, kernel.shape[-1], stride)
            y = F.conv2d(padded, kernel, stride=stride, padding=padding)
            x = layers_torch.finish(y, x, self.norm_scale[index], self.norm_shift[index], self.config["norm_groups"])
        mean = x.mean((2, 3))
        return F.linear(F.pad(mean, (0, self.head.shape[1] - mean.shape[1])), self.head, self.head_bias)
