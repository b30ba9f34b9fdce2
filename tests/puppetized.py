"""Nets as users write them, puppetized for tests: their parameters drawn in NumPy, their own kernels kept."""

import functools

import jax.numpy as jnp
import numpy as np
import own_cnn
import small
from flax import nnx

import puppet_jax as pj
from bench import nets

SMALL = {"basis": 4, "hidden": 8}
FULL = pj.Measure(depth="full")
NETS = {
    "resnet": lambda: nets.ResNet(4, width=4, rngs=nnx.Rngs(0)),
    "mobilenet": lambda: nets.MobileNet(4, width=4, rngs=nnx.Rngs(0)),
    "unet": lambda: nets.UNet(2, width=4, rngs=nnx.Rngs(0)),
    "small": lambda: own_cnn.Net(4, 3, (0.3, 0.3), nnx.Rngs(0)),
}


def images_of(channels):
    """8×8 images of depths from 1 up, in no order."""
    return np.asarray(small.images_of(channels, (256, 2, 1, 16, 4, 256)))


original = nnx.jit(lambda net, x: net(x))


@functools.cache
def net_of(name):
    """A net in evaluation mode whose running averages, scales and shifts are not those they start from."""
    net = small.drawn(NETS[name])
    net.eval()
    return net


def puppet_of(net, puppeteer="continuous", shape=(8, 8, 3), batch_norm="running", **options):
    if puppeteer == "continuous":
        options = {"puppeteer_options": SMALL, **options}
    return pj.puppetize(net, puppeteer, image_shape=shape, batch_norm=batch_norm, rngs=nnx.Rngs(1), **options)


def stored(shapes, rngs):
    """A stored puppeteer whose kernels are yet to be set."""
    return nnx.eval_shape(lambda: pj.StoredPuppeteer(shapes, standardise=False, rngs=nnx.Rngs(0)))


def holding_its_own(net, **options):
    """The net puppetized with a puppeteer that holds its own kernels."""
    model = puppet_of(net, stored, **options)
    for name, kernel in zip(model.puppet.names, model.puppeteer.kernels, strict=True):
        conv, part = net, ...
        for key in name.split("."):
            if key.isdigit() and isinstance(conv, nnx.Conv):
                part = int(key)  # of a stack
            else:
                conv = conv[int(key)] if key.isdigit() else getattr(conv, key)
        kernel.set_value(as_made(np.asarray(conv.kernel[part])))
    return model


def as_made(kernel):
    """A kernel (*space, C_in, C_out) as puppeteers make it, the first of three axes a part of the input channels."""
    *space, c_in, c_out = kernel.shape
    k_h, k_w = (1, *space)[-2:]
    by_depth = kernel.reshape(-1, k_h, k_w, c_in, c_out)
    return jnp.asarray(np.moveaxis(by_depth, (4, 0, 3), (0, 1, 2)).reshape(c_out, -1, k_h, k_w))
