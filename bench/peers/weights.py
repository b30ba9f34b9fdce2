"""A puppet_jax model as plain data: NumPy arrays by name, and a JSON-able description of its shapes and options."""

import numpy as np

_PUPPETEER = ("depthwise", "depthwise_bias", "pointwise", "pointwise_bias", "initial_out", "initial_in", "initial_tap")


def export(model) -> tuple[dict, dict[str, np.ndarray]]:
    """Configuration and weights of what :func:`bench.case.make_model` makes with an ODE or stored puppeteer."""
    puppet, puppeteer = model.puppet, model.puppeteer
    config = {
        "strides": [layer.stride for layer in puppet.layers],
        "kernel_shapes": [list(shape) for shape in puppet.kernel_shapes],
        "norm_groups": puppet.norm_groups,
        "bin": model.measurement.bin,
    }
    arrays = {"head": puppet.head, "head_bias": puppet.head_bias}
    for layer, (scale, shift) in enumerate(zip(puppet.norm_scale, puppet.norm_shift, strict=True)):
        arrays |= {f"norm_scale/{layer}": scale, f"norm_shift/{layer}": shift}
    if hasattr(puppeteer, "kernels"):
        arrays |= {f"stored/{layer}": kernel for layer, kernel in enumerate(puppeteer.kernels)}
    else:
        arrays |= {name: getattr(puppeteer, name) for name in _PUPPETEER}
    return config, {name: np.asarray(array[...]) for name, array in arrays.items()}
