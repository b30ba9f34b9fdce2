"""The model that a configuration describes."""

import json

import jax.numpy as jnp
from flax import nnx

import puppet_jax as pj
from train.config import Config
from train.errors import UserError


def build(config: Config, *, num_classes: int, in_channels: int) -> pj.PuppetCNN:
    """A freshly initialised model of a resolved configuration, its parameters drawn from ``config.seed``.

    Raises:
        UserError: the puppeteer refuses its options; names the option as the library does.
    """
    try:
        return pj.create(
            config.preset,
            puppeteer=config.puppeteer,
            num_classes=num_classes,
            in_channels=in_channels,
            dtype=jnp.dtype(config.dtype),
            width=config.width,
            puppeteer_options=json.loads(config.puppeteer_options),
            measurement=pj.Measure(**{"bin": config.bin, **json.loads(config.measurement)}),
            rngs=nnx.Rngs(config.seed),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--puppeteer {config.puppeteer} --puppeteer-options {config.puppeteer_options!r} --measurement "
            f"{config.measurement!r}: {error}"
        ) from error
