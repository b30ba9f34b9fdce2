"""A puppet_jax model as plain data: NumPy arrays by name, and a JSON-able description of its shapes and options."""

import dataclasses

import numpy as np

_PUPPETEER = (
    "depthwise",
    "depthwise_bias",
    "pointwise",
    "pointwise_bias",
    "initial_out",
    "initial_in",
    "initial_tap",
    "initial_full",
)


def export(model) -> tuple[dict, dict[str, np.ndarray]]:
    """Configuration and weights of a ``PuppetCNN`` that has a plain puppet and an ODE or stored puppeteer.

    Raises:
        ValueError: the ODE is not integrated by one Euler step a layer, the only scheme that the peers have.
    """
    puppet, puppeteer = model.puppet, model.puppeteer
    config = {
        "layers": [dataclasses.asdict(layer) for layer in puppet.layers],
        "kernel_shapes": [list(shape) for shape in puppet.kernel_shapes],
        "norm_groups": puppet.norm_groups,
        "residual": puppet.residual,
        "bin": model.measurement.bin,
        "standardise": puppeteer.standardise,
    }
    arrays = {"head": puppet.head, "head_bias": puppet.head_bias}
    for layer, (scale, shift) in enumerate(zip(puppet.norm_scale, puppet.norm_shift, strict=True)):
        arrays |= {f"norm_scale/{layer}": scale, f"norm_shift/{layer}": shift}
    if hasattr(puppeteer, "kernels"):
        arrays |= {f"stored/{layer}": kernel for layer, kernel in enumerate(puppeteer.kernels)}
    else:
        if type(puppeteer.solver).__name__ != "Euler" or puppeteer.steps_per_layer != 1:
            raise ValueError("export: the peers integrate by Euler, one step a layer; the puppeteer does otherwise")
        config |= {"initial": puppeteer.initial, "activation": puppeteer.activation}
        arrays |= {name: getattr(puppeteer, name) for name in _PUPPETEER if hasattr(puppeteer, name)}
    return config, {name: np.asarray(array[...]) for name, array in arrays.items()}
