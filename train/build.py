"""The model that a configuration describes: a preset's, or the puppet of the user's own CNN."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import puppet_jax as pj
from puppet_jax._named_function import named_function
from train.config import ResolvedConfig
from train.errors import UserError


def build(
    config: ResolvedConfig, *, num_classes: int, in_channels: int, image_size: Sequence[int] | None = None
) -> pj.PuppetCNN:
    """A freshly initialised model of a resolved configuration, its parameters drawn from ``config.seed``.

    Args:
        image_size: (height, width) in pixels, which the user's own CNN is traced on; presets take any.

    Raises:
        UserError: the puppeteer refuses its options, or the user's function cannot be imported or makes no module that
            gives logits; names the option as the library does.
    """
    sizes: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        options: dict[str, Any] = {
            "puppeteer": config.puppeteer,
            "puppeteer_options": json.loads(config.puppeteer_options),
            "measurement": pj.Measure(**measurement(config)),
            "rngs": nnx.Rngs(config.seed),
        }
        if config.compression is not None:
            options["compression"] = config.compression
        if config.model is None:
            return pj.create(config.preset or "", **sizes, dtype=jnp.dtype(config.dtype), width=config.width, **options)
        module = named_function(config.model)(**sizes, rngs=nnx.Rngs(config.seed))
        if image_size is None:
            raise ValueError("what image size it was traced on is not told")
        height, width = image_size
        shape = (height, width, in_channels)
        model = pj.puppetize(module, image_shape=shape, batch_norm=config.batch_norm, **options)
        logits = nnx.eval_shape(lambda model, images: model(images), model, jax.ShapeDtypeStruct((1, *shape), "uint8"))
        if getattr(logits, "shape", None) != (1, num_classes):
            raise ValueError(
                f"the module gives {getattr(logits, 'shape', type(logits).__name__)} for images {(1, *shape)}, "
                f"expected logits {(1, num_classes)}: the trainer trains classifiers; for other outputs use "
                "puppet_jax.puppetize and a loop of your own"
            )
        return model
    except jax.errors.ConcretizationTypeError:  # no fault of the options: it was asked for shapes alone
        raise
    except (TypeError, ValueError) as error:
        given = {name: getattr(config, name) for name in ("model", "batch_norm", "compression", "puppeteer")}
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
