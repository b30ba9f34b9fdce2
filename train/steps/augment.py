"""Random crops and flips, on the device and on uint8 images.

Each image has its own key, so the result depends neither on the rest of its batch nor on how the batch is divided over
devices.
"""

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
            does both.

    Returns:
        the shape and dtype of ``images``.
    """
    if kind == "none":
        return images
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
