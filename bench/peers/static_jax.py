"""The static CNN in JAX: the puppet at D_max with a stored kernel a layer, one ordinary convolution for the batch."""

import math

import jax
import jax.numpy as jnp


def parameters(config: dict, weights: dict, *, baked: bool) -> dict:
    """Parameters from what ``peers/weights.py`` exports of a model with stored kernels; kernels as (K, K, C_in, C_out).

    With ``baked`` (inference) the kernels are standardised already; :func:`forward` does it otherwise.
    """
    layers = range(len(config["strides"]))
    kind = "baked" if baked else "stored"
    return {
        "kernels": [jnp.asarray(weights[f"{kind}/{layer}"]).transpose(2, 3, 1, 0) for layer in layers],
        "scale": [jnp.asarray(weights[f"norm_scale/{layer}"]) for layer in layers],
        "shift": [jnp.asarray(weights[f"norm_shift/{layer}"]) for layer in layers],
        "head": jnp.asarray(weights["head"]),
        "head_bias": jnp.asarray(weights["head_bias"]),
    }


def forward(params: dict, images, config: dict, *, baked: bool):
    """Logits (N, classes) of images (N, H, W, C), uint8."""
    x = images.astype(jnp.float32) * (4.0 / 255.0) - 2.0
    layers = zip(params["kernels"], params["scale"], params["shift"], config["strides"], strict=True)
    for kernel, scale, shift, stride in layers:
        x = layer(x, kernel if baked else standardise(kernel), scale, shift, stride, config["norm_groups"])
    features = x.mean(axis=(1, 2))
    return features @ params["head"][: features.shape[1]] + params["head_bias"]


def layer(x, kernel, scale, shift, stride: int, groups: int):
    """Convolution (one kernel (K, K, C_in, C_out) for the batch), group normalisation, relu, residual."""
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)
    groups = math.gcd(y.shape[-1], groups)
    # Sums over pixels first, then over a group's channels: several times faster on a CPU than both at once.
    mean = _of_groups(y.mean(axis=(1, 2)), groups)
    factor = jax.lax.rsqrt(_of_groups(((y - mean) ** 2).mean(axis=(1, 2)), groups) + 1e-5) * scale
    y = jax.nn.relu(y * factor + (shift - mean * factor))
    return y + x if y.shape == x.shape else y


def _of_groups(per_channel, groups: int):
    """(N, C) to each group's mean, (N, 1, 1, C)."""
    n, c = per_channel.shape
    means = per_channel.reshape(n, groups, c // groups).mean(axis=2)
    return jnp.repeat(means, c // groups, axis=1)[:, None, None]


def standardise(kernel):
    """(K, K, C_in, C_out) to mean 0 and variance 2 / fan_in of every output channel."""
    variance = kernel.var(axis=(0, 1, 2), keepdims=True)
    fan_in = math.prod(kernel.shape[:3])
    return (kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)) * jnp.sqrt(2.0 / fan_in / (variance + 1e-6))
