"""What a user writes: a CNN that computes while it is made, normalises by batch and draws; a puppeteer; a measure."""

import jax.numpy as jnp
from flax import nnx

import puppet_jax as pj


class Block(nnx.Module):
    def __init__(self, width, rate, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.conv(x))))


class Net(nnx.Module):
    """Of everything a little: a strided stem, residual blocks that normalise by batch, dropout."""

    def __init__(self, num_classes, in_channels, rates, rngs):
        self.stem = nnx.Conv(in_channels, 8, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(8, rate, rngs) for rate in rates])
        self.classifier = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((1, 2)))


def make(*, num_classes, in_channels, rngs):
    rates = [float(rate) for rate in jnp.linspace(0.1, 0.2, 2)]  # as stochastic depth is often written
    return Net(num_classes, in_channels, rates, rngs)


def puppeteer(kernel_shapes, *, rngs, **options):
    return pj.ContinuousPuppeteer(kernel_shapes, **options, rngs=rngs)


def measure(images):
    return pj.complexity(images) / 2


def maps(*, num_classes, in_channels, rngs):
    """Of no classifier: it returns maps."""
    return nnx.Conv(in_channels, num_classes, (3, 3), rngs=rngs)
