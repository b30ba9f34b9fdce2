"""Random crops, flips and cutouts, on the device and on uint8 images.

Each image has its own key, so the result depends neither on the rest of its batch nor on how the batch is divided over
devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer, Key, UInt8

KINDS = ("none", "flip", "crop", "flip-crop", "flip-crop-cutout")

# What a cut-out square is filled with.
GREY = 128


def augment(images: UInt8[Array, "b h w c"], keys: Key[Array, " b"], kind: str) -> UInt8[Array, "b h w c"]:
    """Augment a batch as a recipe names it.

    Args:
        images: ``(B, H, W, C)`` uint8.
        keys: ``(B,)``, a key for each image; the same image and key give the same result.
        kind: ``"none"``; ``"flip"`` mirrors half of the images, which leaves complexity as it is; ``"crop"`` pads by an
            eighth of the height (4 pixels at 32), mirroring the image at its border, and crops back; ``"flip-crop"``
            does both; ``"flip-crop-cutout"`` then paints a square over, of a quarter of the shorter side (8 pixels at
            32), in mid-grey: :func:`cutout`.

    Returns:
        the shape and dtype of ``images``.

    Raises:
        ValueError: another ``kind``.
    """
    if kind not in KINDS:
        raise ValueError(f"augment: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "none":
        return images
    height, width = images.shape[1:3]
    padding = height // 8

    def one(image, key):
        for_offset, for_flip, for_cutout = jax.random.split(key, 3)
        if kind != "flip":
            image = crop(image, jax.random.randint(for_offset, (2,), 0, 2 * padding + 1), padding)
        if kind != "crop":
            image = flip(image, jax.random.bernoulli(for_flip))
        if kind == "flip-crop-cutout":
            centre = jax.random.randint(for_cutout, (2,), 0, jnp.array([height, width]))
            image = cutout(image, centre, max(1, min(height, width) // 4))
        return image

    return jax.vmap(one)(images, keys)


def crop(image: UInt8[Array, "h w c"], offset: Integer[Array, "2"], padding: int) -> UInt8[Array, "h w c"]:
    """Pad with the image mirrored at its border pixels and cut the old size out at ``offset`` (row, column) in
    0..2·padding. A black border would change the complexity that kernels are generated from."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    return jax.lax.dynamic_slice(padded, (offset[0], offset[1], 0), image.shape)


def flip(image: UInt8[Array, "h w c"], mirrored: Bool[Array, ""]) -> UInt8[Array, "h w c"]:
    """Mirror left to right if ``mirrored``."""
    return jnp.where(mirrored, image[:, ::-1], image)


def cutout(image: UInt8[Array, "h w c"], centre: Integer[Array, "2"], side: int) -> UInt8[Array, "h w c"]:
    """Paint a square in mid-grey over the image: DeVries and Taylor, arXiv:1708.04552.

    As there, every pixel is as likely to be the centre, so that a part of the square may lie outside; with an even
    ``side`` the centre is the upper left of the middle four. Mid-grey (128) stands for the mean, whatever the data.

    Pixels of one level change an image's complexity, and with it depth. On CIFAR-10 a square of 8, theirs for
    CIFAR-100, does so by -0.05 bits in the mean and at most 0.30 either way; one of 16, theirs for CIFAR-10, by -0.37
    in the mean.
    """
    # Distances to the centre from -(side-1)//2 to side//2.
    rows, columns = (jnp.arange(n) - at for n, at in zip(image.shape[:2], centre, strict=True))
    inside = lambda distance: (distance >= -((side - 1) // 2)) & (distance <= side // 2)  # noqa: E731
    covered = inside(rows)[:, None] & inside(columns)[None, :]
    return jnp.where(covered[..., None], jnp.uint8(GREY), image)
