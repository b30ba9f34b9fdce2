"""The model that a configuration describes: a preset's, or the puppet of the user's own CNN."""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

import puppet_jax as pj
from puppet_jax import _pretrained
from train.config import Config, Measurement, ResolvedConfig
from train.errors import UserError


def build(
    config: ResolvedConfig, *, num_classes: int, in_channels: int, image_size: Sequence[int] = ()
) -> pj.PuppetCNN:
    """A new model of a resolved configuration, its parameters drawn from ``config.seed``. The user's own CNN is traced
    on images of ``image_size``, (height, width) in pixels. What the model refuses is a :class:`UserError` that begins
    with the flags that were given."""
    given = {name: getattr(config, name) for name in ("model", "batch_norm", "compression", "puppeteer")}
    described = {
        **given,
        "name": config.preset,
        "width": config.width,
        "exits": config.exit_depths,
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
        usual = vars(Config()) | vars(Measurement())
        given |= {
            "puppeteer_options": config.puppeteer_options,
            "preset": config.preset,
            "width": config.width,
            "exits": config.exits,
        }
        told = {name: value for name, value in given.items() if value not in (None, usual[name])}
        told |= {f"measurement.{k}": v for k, v in vars(config.measurement).items() if v != usual[k]}
        flags = " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in told.items())
        flag = lambda found: f"--{found[1].replace('_', '-')}" + (f" {found[3]}" if found[2] else "")  # noqa: E731
        arguments = r'\b(batch_norm|compression|exits|puppeteer_options)\b(="?(\w+)"?)?'
        text = re.sub(arguments, flag, str(error).removeprefix("puppetize: "))
        raise UserError(f"{flags}: {text}") from error


def measurement(config: ResolvedConfig) -> dict[str, Any]:
    """The arguments of :class:`puppet_jax.Measure`: of the preset where the configuration leaves it the choice."""
    given = vars(config.measurement)
    preset = pj.PRESETS.get(config.preset or "")  # none of an unknown name, which create refuses
    depth = (preset.depth if preset else "complexity") if given["depth"] is None else given["depth"]
    return given | {"depth": depth}
