"""One image file: checked before it is trusted, and decoded into an array of levels."""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

# The formats that are tried. Not those that Pillow opens with another program (EPS), or that are not pictures.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF")

# Larger images are refused by their header, before memory is allocated: 67 million pixels, 0.25 GiB as RGBA. Lower than
# Pillow's own limit, so that images that Pillow would only warn about are refused too.
MAX_PIXELS = 2**26

_ORIENTATION = 0x0112
# Where an orientation may be stored, besides the tags of a TIFF.
_TELLING = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
A_FOLDER = "a folder that cannot be listed, or is called as an image"  # see train.data.walk
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


class ImageError(ValueError):
    """Why a file cannot be read as an image, in a few words and without its path."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself before it is decoded: its size as it is shown, and whether it is stored as grey."""

    height: int
    width: int
    grey: bool


def read_image(source: str | Path | bytes, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Decode one image, whatever it is stored as.

    The first frame of an animation; turned as its EXIF orientation says; 16 bits a channel scaled to 8; what is
    transparent laid over white; palettes, CMYK and the like converted to RGB, and RGB to grey by its luma (ITU-R 601)
    if one channel is wanted.

    Args:
        source: a path, or a file's bytes.
        size: ``(H, W)`` to scale to: see :func:`resize`. ``None`` for the image's own.

    Returns:
        ``(H, W, channels)`` uint8, of 1 or 3 channels.

    Raises:
        ImageError: the file is not there, may not be read, is no regular file, is no image in one of ``FORMATS``, has
            more than ``MAX_PIXELS``, or is damaged. Nothing else is raised.
    """
    from PIL import ImageOps

    from puppet_jax._pictures import as_levels, in_channels, png_mode

    with _opened(source) as image:
        if size is not None and image.format in ("JPEG", "MPO") and min(image.size) >= 4 * max(size):
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster. At least twice the
            # pixels wanted are left to resample from.
            image.draft(None, (2 * max(size),) * 2)
        stored = png_mode(image)
        image.load()
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        try:
            image = in_channels(image, channels, stored)
        except ValueError as error:
            raise ImageError(str(error)) from error
        return as_levels(image, size)


def read_header(source: str | Path | bytes) -> Header:
    """What can be known without decoding, in a fraction of the time; an :class:`ImageError` as of
    :func:`read_image`, but for damage beyond the header."""
    from puppet_jax._pictures import png_mode

    with _opened(source) as image:
        width, height = image.size
        # Orientations from five on are quarter turns, which Pillow has applied to the size of a TIFF.
        if _orientation(image) in range(5, 9) and image.format != "TIFF":
            width, height = height, width
        return Header(height, width, image.mode in _GREY or png_mode(image) == "LA;16B")


def resize(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale so that the image just covers ``size``, and cut the middle out.

    For a square that is the shorter side scaled to it, and a centre crop. Bicubic, over as many pixels as become one
    (no aliasing). ``(h, w, C)`` uint8, C = 1 or 3, to ``(H, W, C)``; as it is if it has the size already.
    """
    from PIL import Image

    from puppet_jax._pictures import as_levels

    return as_levels(Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels), size)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of damaged or large images in the whole process: an ImageError says what matters.

    Not part of :func:`read_image`, because warning filters must not be changed from several threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextlib.contextmanager
def _opened(source: str | Path | bytes) -> Iterator:
    """The image, its header read and checked; whatever goes wrong before the end is an :class:`ImageError`."""
    from PIL import Image

    try:
        file: BinaryIO
        if isinstance(source, bytes):
            if not source:
                raise ImageError("empty")
            file = io.BytesIO(source)
        else:
            _check_regular(source)
            file = open(source, "rb")  # noqa: SIM115, closed below
        with file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width}x{height} pixels, more than the limit of {MAX_PIXELS:,}")
            yield image
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError("not an image, or its header is damaged") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more than the limit of {MAX_PIXELS:,} pixels") from error
    # Damage makes decoders raise anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise ImageError(_reason(error)) from error


def _check_regular(path: str | Path) -> None:
    """Refuse what is no regular file, or empty: opening a named pipe would wait for ever."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(A_FOLDER if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise ImageError("empty")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error).split())[:200]
    return f"damaged: {text or type(error).__name__}"


def _orientation(image) -> int:
    if _TELLING.isdisjoint(image.info) and not hasattr(image, "tag_v2"):
        return 1  # as in most files; looking for it would take as long as opening the file
    from PIL import Image

    try:
        # The base class's method, which reads what is loaded already: a PNG's own would decode the image.
        return Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data are ignored: the image itself may be sound
        return 1
