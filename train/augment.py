"""Random crops and flips, on the device and on uint8 images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key, UInt8


def augment(images: UInt8[Array, "b h w c"], keys: Key[Array, " b"], kind: str) -> UInt8[Array, "b h w c"]:
    """Augment a batch as a recipe names it: ``"none"``, ``"crop"`` or ``"flip-crop"``.

    Args:
        images: ``(B, H, W, C)`` uint8.
        keys: one an image; the same key makes the same of an image.
        kind: ``"crop"`` pads by an eighth of the height (4 pixels at 32) and crops back, ``"flip-crop"`` then
            mirrors half of the images.

    Returns:
        the shape and dtype of ``images``.
    """
    if kind == "none":
        return images
    padding = images.shape[1] // 8
    for_offsets, for_flips = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1))(for_offsets)
    images = crop(images, offsets, padding)
    if kind.startswith("flip-crop"):
        images = flip(images, jax.vmap(jax.random.bernoulli)(for_flips))
    return images


def crop(images: UInt8[Array, "b h w c"], offsets: Integer[Array, "b 2"], padding: int) -> UInt8[Array, "b h w c"]:
    """Pad each image with black and cut its old size out at its own offset (rows, columns) in 0..2·padding."""
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image, at):
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def flip(images: UInt8[Array, "b h w c"], mirrored: Array) -> UInt8[Array, "b h w c"]:
    """Mirror left to right the images for which ``mirrored`` (B,) is true."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
