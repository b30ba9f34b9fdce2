"""The model that a configuration describes: a preset's, or the puppet of the user's own CNN."""

import json
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

import puppet_jax as pj
from puppet_jax import _pretrained
from train.config import ResolvedConfig
from train.errors import UserError


def build(
    config: ResolvedConfig, *, num_classes: int, in_channels: int, image_size: Sequence[int] = ()
) -> pj.PuppetCNN:
    """A freshly initialised model of a resolved configuration, its parameters drawn from ``config.seed``.

    Args:
        image_size: (height, width) in pixels, which the user's own CNN is traced on; presets take any.

    Raises:
        UserError: the puppeteer refuses its options, or the user's function cannot be imported or makes no module that
            gives logits; names the option as the library does.
    """
    given = {name: getattr(config, name) for name in ("model", "batch_norm", "compression", "puppeteer")}
    described = {
        **given,
        "name": config.preset,
        "width": config.width,
        "dtype": config.dtype,
        "puppeteer_options": json.loads(config.puppeteer_options),
        "measurement": measurement(config),
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    try:
        model = _pretrained.build(described, image_size, config.seed)
        if config.model is not None:
            images = jax.ShapeDtypeStruct((1, *image_size, in_channels), "uint8")
            logits = nnx.eval_shape(lambda model, images: model(images), model, images)
            if getattr(logits, "shape", None) != (1, num_classes):
                raise ValueError(
                    f"the module gives {getattr(logits, 'shape', type(logits).__name__)} for images {images.shape}, "
                    f"expected logits {(1, num_classes)}: the trainer trains classifiers; for other outputs use "
                    "puppet_jax.puppetize and a loop of your own"
                )
        return model
    except jax.errors.ConcretizationTypeError:  # no fault of the options: it was asked for shapes alone
        raise
    except (TypeError, ValueError) as error:
        given |= {"puppeteer_options": repr(config.puppeteer_options)}
        given |= {f"measurement.{name}": value for name, value in vars(config.measurement).items()}
        flags = (f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None)
        raise UserError(f"{' '.join(flags)}: {error}") from error


def measurement(config: ResolvedConfig) -> dict[str, Any]:
    """The arguments of :class:`puppet_jax.Measure`: of the preset where the configuration leaves it the choice."""
    given = vars(config.measurement)
    preset = pj.PRESETS.get(config.preset or "")  # none of an unknown name, which create refuses
    depth = (preset.depth if preset else "complexity") if given["depth"] is None else given["depth"]
    return given | {"depth": depth}
