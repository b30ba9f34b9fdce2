"""Pictures of any size and kind as the levels that a model takes; Pillow, which does it, is imported when needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def fitted(picture: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as levels of the shape (H, W, C) that a model takes; see :meth:`Predictor.predict_images`."""
    *size, channels = shape
    if not hasattr(picture, "convert"):
        picture = np.asarray(picture)
        if picture.dtype != np.uint8:
            raise TypeError(
                f"predict_images: expected Pillow images or arrays of uint8, got {picture.dtype}; open a file by "
                "PIL.Image.open(path), multiply what lies in [0, 1] by 255"
            )
        if picture.shape == shape:
            return picture
        if picture.ndim == 3 and picture.shape[-1] == 1:
            picture = picture[..., 0]
        if not picture.size or picture.shape[2:] not in ((), (3,), (4,)) or channels not in (1, 3):
            raise ValueError(
                f"predict_images: got an array of shape {picture.shape}, expected (height, width), (height, width, 3), "
                f"(height, width, 4) with transparency, or {shape}, as the model takes it"
            )
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("predict_images: Pillow scales pictures, and is missing; pip install pillow") from error
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stored = png_mode(image)
    return as_levels(in_channels(ImageOps.exif_transpose(image), channels, stored), size)


def png_mode(image) -> str:
    """How a PNG that is not loaded yet stores its pixels, as Pillow calls it: ``"L;2"``, ``"RGB;16B"``, …"""
    return image.tile[0].args if image.format == "PNG" and image.tile else ""


def in_channels(image, channels: int, stored: str):
    """As a Pillow image of mode L or RGB: 16 bits a channel scaled to 8; what is transparent laid over white; palettes,
    CMYK and the like converted to RGB, and RGB to grey by its luma (ITU-R 601). ``stored`` is what :func:`png_mode`
    said before the image was loaded. ``ValueError`` for pixels of 32 bits or a transparent colour of 16 bits a channel.
    """
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted and not image.has_transparency_data:
        return image  # as most are: Pillow's conversion would copy it
    from PIL import Image

    clear = image.info.get("transparency")  # of a PNG without alpha the transparent level, in bits as the file's
    if image.mode == "F":
        raise ValueError("pixels of 32-bit floats, expected 8 or 16 bits a channel")
    if stored == "RGB;16B" and clear is not None:
        raise ValueError("a transparent colour of 16 bits a channel, expected transparency as an alpha channel")
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip levels at 255.
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels of 32 bits, expected 8 or 16 bits a channel")
        scaled = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        image = Image.fromarray(scaled if clear is None else np.where(levels == clear, np.uint8(255), scaled))
    elif image.has_transparency_data:
        if stored in ("L;2", "L;4") and clear is not None:
            image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[stored]
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(wanted)


def as_levels(image, size: Sequence[int] | None) -> np.ndarray:
    """The levels (H, W, C) of a Pillow image of mode L or RGB, scaled so that it just covers ``size`` (H, W), if that
    is given, and its middle cut out. For a square that is the shorter side scaled to it, and a centre crop."""
    if size is not None and image.size != (size[1], size[0]):
        from PIL import Image, ImageOps

        # fit crops and scales in one pass, so a strip of 1×10000 is never scaled to 32×320000.
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    width, height = image.size
    # A tenth faster, file and decoding included, than np.asarray(image).
    return np.frombuffer(bytearray(image.tobytes()), np.uint8).reshape(height, width, len(image.mode))
