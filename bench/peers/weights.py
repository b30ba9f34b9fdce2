"""A puppet_jax model as plain data: NumPy arrays by name, and a JSON-able description of its shapes and options."""

import numpy as np

_PUPPETEER = ("depthwise", "depthwise_bias", "pointwise", "pointwise_bias", "initial_out", "initial_in", "initial_tap")


def export(model) -> tuple[dict, dict[str, np.ndarray]]:
    """Configuration and weights of a ``PuppetCNN`` that has a plain puppet and an ODE or stored puppeteer.

    Raises:
        ValueError: an option that the peers do not have: they compute what :func:`bench.case.make_model` makes.
    """
    puppet, puppeteer = model.puppet, model.puppeteer
    config = {
        "strides": [layer.stride for layer in puppet.layers],
        "kernel_shapes": [list(shape) for shape in puppet.kernel_shapes],
        "norm_groups": puppet.norm_groups,
        "bin": model.measurement.bin,
    }
    known = puppet.residual and puppeteer.standardise and all(layer.pool == 1 for layer in puppet.layers)
    arrays = {"head": puppet.head, "head_bias": puppet.head_bias}
    for layer, (scale, shift) in enumerate(zip(puppet.norm_scale, puppet.norm_shift, strict=True)):
        arrays |= {f"norm_scale/{layer}": scale, f"norm_shift/{layer}": shift}
    if hasattr(puppeteer, "kernels"):
        arrays |= {f"stored/{layer}": kernel for layer, kernel in enumerate(puppeteer.kernels)}
    else:
        known &= (type(puppeteer.solver).__name__, puppeteer.steps_per_layer) == ("Euler", 1)
        known &= puppeteer.initial == "low_rank"
        arrays |= {name: getattr(puppeteer, name) for name in _PUPPETEER if known}
    if not known:
        raise ValueError("export: expected residuals, no pooling, standardised kernels and Euler's method")
    return config, {name: np.asarray(array[...]) for name, array in arrays.items()}
