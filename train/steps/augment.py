"""Random crops and flips, on the device and on uint8 images.

Each image has its own key, so the result depends neither on the rest of its batch nor on how the batch is divided over
devices.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key, UInt8

from train.config import Augmentation


def augment(images: UInt8[Array, "b h w c"], keys: Key[Array, " b"], kind: Augmentation) -> UInt8[Array, "b h w c"]:
    """Augment a batch as a recipe names it.

    Args:
        images: ``(B, H, W, C)`` uint8.
        keys: ``(B,)``, a key for each image; the same image and key give the same result.
        kind: ``"none"``; ``"flip"`` mirrors half of the images, which leaves complexity as it is; ``"crop"`` pads by an
            eighth of the height (4 pixels at 32), mirroring the image at its border, and crops back; ``"flip-crop"``
            does both; ``"strong"``: see :func:`strong`.

    Returns:
        the shape and dtype of ``images``.
    """
    if kind == "none":
        return images
    if kind == "strong":
        return jax.vmap(strong)(images, keys)
    padding = images.shape[1] // 8

    def one(image, key):
        for_offset, for_flip = jax.random.split(key)
        if "crop" in kind:
            image = crop(image, jax.random.randint(for_offset, (2,), 0, 2 * padding + 1), padding)
        if "flip" in kind:
            image = jnp.where(jax.random.bernoulli(for_flip), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, keys)


def crop(image: UInt8[Array, "h w c"], offset: Integer[Array, "2"], padding: int) -> UInt8[Array, "h w c"]:
    """Pad with the image mirrored at its border pixels and cut the old size out at ``offset`` (row, column) in
    0..2·padding. A black border would change the complexity that kernels are generated from."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    return jax.lax.dynamic_slice(padded, (offset[0], offset[1], 0), image.shape)


def strong(image: UInt8[Array, "h w c"], key: Key[Array, ""]) -> UInt8[Array, "h w c"]:
    """What few images need, so that the net does not know them by their colours and places.

    Turned by up to 30 degrees, scaled by 1/1.3 to 1.3 and a tenth more in one direction, moved by up to an eighth and
    mirrored, with the image mirrored at its borders; contrast and brightness changed, in all and in each channel. Half
    get their channels in a random order and, apart from that, a quarter the negative: most keep the kind of colours
    that they have, which may tell the class.
    """
    keys = iter(jax.random.split(key, 12))
    between = lambda most, shape=(): jax.random.uniform(next(keys), shape, minval=-most, maxval=most)  # noqa: E731
    height, width, channels = image.shape
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    angle, scale, stretch = between(math.pi / 6), jnp.exp(between(math.log(1.3))), jnp.exp(between(math.log(1.1)))
    move = between(1 / 8, (2,)) * jnp.array([height, width])
    y, x = jnp.meshgrid(*(jnp.arange(n) - at for n, at in zip((height, width), middle, strict=True)), indexing="ij")
    x = x * jax.random.rademacher(next(keys), ())
    rows = (jnp.cos(angle) * y - jnp.sin(angle) * x) * scale * stretch + (middle + move)[0]
    columns = (jnp.sin(angle) * y + jnp.cos(angle) * x) * scale / stretch + (middle + move)[1]
    sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, [rows, columns], 1, mode="mirror")  # noqa: E731
    levels = jax.vmap(sample, -1, -1)(image.astype(jnp.float32))
    gain = jnp.exp(between(0.3) + between(0.15, (channels,)))
    mean = levels.mean((0, 1))
    levels = (levels - mean) * gain + mean + between(20) + between(20, (channels,))
    shuffled = levels[..., jax.random.permutation(next(keys), channels)]
    levels = jnp.where(jax.random.bernoulli(next(keys)), shuffled, levels)
    levels = jnp.where(jax.random.bernoulli(next(keys), 0.25), 255 - levels, levels)
    return jnp.clip(jnp.rint(levels), 0, 255).astype(jnp.uint8)
