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
    try:
        options: dict[str, Any] = {
            "puppeteer_options": json.loads(config.puppeteer_options),
            "measurement": pj.Measure(**measurement(config)),
            "rngs": nnx.Rngs(config.seed),
        }
        if config.compression is not None:
            options["compression"] = config.compression
        if config.model is None:
            return pj.create(
                config.preset or "",
                puppeteer=config.puppeteer,
                num_classes=num_classes,
                in_channels=in_channels,
                dtype=jnp.dtype(config.dtype),
                width=config.width,
                **options,
            )
        function = named_function(config.model)
        module = function(num_classes=num_classes, in_channels=in_channels, rngs=nnx.Rngs(config.seed))
        if image_size is None:
            raise ValueError("what image size it was traced on is not told")
        height, width = image_size
        shape = (height, width, in_channels)
        model = pj.puppetize(module, config.puppeteer, image_shape=shape, batch_norm=config.batch_norm, **options)
        _check_logits(model, (1, *shape), num_classes)
        return model
    except jax.errors.ConcretizationTypeError:  # no fault of the options: it was asked for shapes alone
        raise
    except (TypeError, ValueError) as error:
        net = f"--model {config.model} --batch-norm {config.batch_norm} " if config.model else ""
        compression = f" --compression {config.compression:g}" if config.compression is not None else ""
        raise UserError(
            f"{net}--puppeteer {config.puppeteer} --puppeteer-options {config.puppeteer_options!r}{compression} "
            f"--measurement {config.measurement!r}: {error}"
        ) from error


def outline(config: ResolvedConfig, **shape: Any) -> pj.PuppetCNN:
    """The model of :func:`build` with shapes in place of arrays, as far as that can be: made without computing."""
    try:
        return nnx.eval_shape(lambda: build(config, **shape))
    except jax.errors.ConcretizationTypeError:  # the user's function computes with numbers while it makes its net
        return build(config, **shape)


def measurement(config: ResolvedConfig) -> dict[str, Any]:
    """The arguments of :class:`puppet_jax.Measure`: ``--measurement`` goes before ``--bin`` and the preset."""
    preset = pj.PRESETS.get(config.preset or "")  # none of an unknown name, which create refuses
    return {"bin": config.bin, "depth": preset.depth if preset else "complexity"} | json.loads(config.measurement)


def _check_logits(model: pj.PuppetCNN, images: tuple[int, ...], num_classes: int) -> None:
    """Raise ``ValueError`` unless the model gives one logit a class."""
    run = lambda model, images: model(images)  # noqa: E731
    found = nnx.eval_shape(run, model, jax.ShapeDtypeStruct(images, jnp.uint8))
    shape = getattr(found, "shape", None)
    if shape != (1, num_classes):
        raise ValueError(
            f"the module gives {shape or type(found).__name__} for images {images}, expected logits "
            f"(1, {num_classes}): the trainer trains classifiers; for other outputs use puppet_jax.puppetize and a "
            "loop of your own"
        )
