"""Reading and running an exported model.

This file imports nothing of its package, only jax and numpy: a copy of it works where the package is not installed.
(jax needs ``flatbuffers`` for it, as for everything of ``jax.export``; pictures are scaled by Pillow.)

An export is a zip file, nothing in it compressed: ``metadata.json``; ``program.stablehlo``, what ``jax.export`` has
serialized, a flatbuffer; ``arrays/NAME.npy``, its parameters; ``README.txt``, how to run it without this file.
Nothing in it is unpickled or executed as Python. A StableHLO program computes, but could ask for functions that are
registered in the process ("custom calls"), Python's own among them: a program with any but the few harmless ones is
refused before it is compiled.
"""

import dataclasses
import hashlib
import io
import json
import math
import operator
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

FORMAT, VERSION = "puppet-jax export", 2
METADATA, PROGRAM, ARRAYS = "metadata.json", "program.stablehlo", "arrays/"

_ROUNDING = 1e-6  # how far beyond [0, 1] floats may lie, as a resize leaves them
_AGAIN = "export the model again with puppet_jax.export"
_OTHERS = "puppet_jax.load_pretrained opens runs, .safetensors files and pretrained models"

# What jax itself writes for a symbolic batch, placement and random numbers. All else that has a name is refused, also
# where jax promises its stability: "tpu_custom_call" and the like run code that the file brings with it.
_HARMLESS = frozenset(
    {
        "shape_assertion",
        "Sharding",
        "annotate_device_placement",
        "cu_threefry2x32_ffi",
        "hip_threefry2x32_ffi",
        "stablehlo.dynamic_reduce_window",
        "stablehlo.dynamic_top_k",
    }
)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a predictor returns, one row for each image, in the order given; of one image, its row. It unpacks:
    ``logits, complexity, depth = prediction``.

    Attributes:
        logits: float32, (B, num_classes); of a puppetized model whatever it returns, with the batch's axis first.
        complexity: float32, (B,), bits: of the centre of each image's bin, where it is measured to bins.
        depth: int32, (B,), D: the number of layers that each image went through, in a plain puppet.
        classes: a name for each logit, or ``None`` where they are not known.
    """

    logits: Any
    complexity: Any
    depth: Any
    classes: tuple[str, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    def __iter__(self) -> Iterator[Any]:
        return iter((self.logits, self.complexity, self.depth))

    @property
    def probabilities(self) -> jax.Array:
        """Softmax of the logits, (B, num_classes).

        Raises:
            ValueError: the model returns something else than logits.
        """
        if not isinstance(self.logits, jax.Array | np.ndarray) or self.logits.ndim > 2:
            raise ValueError("probabilities: the model returns no logits; see .logits for what it does return")
        return jax.nn.softmax(self.logits, axis=-1)

    def top(self, k: int = 1) -> list:
        """The ``k`` most probable classes of each image: a list of (name, probability), the most probable first; a
        number in place of a name where names are not known."""
        rows = np.atleast_2d(np.asarray(self.probabilities))
        names = self.classes or range(rows.shape[-1])
        best = np.argsort(-rows, axis=-1, kind="stable")[:, :k]
        told = [[(names[i], float(row[i])) for i in order] for row, order in zip(rows, best, strict=True)]
        return told if self.logits.ndim == 2 else told[0]


jax.tree_util.register_dataclass(Prediction)


class TakesPictures:
    """What predictors have in common: batches of any size, and pictures of any size."""

    classes: tuple[str, ...] | None
    image_shape: tuple[int, ...] | None
    complexities: tuple[float, float] | None
    dtype = "uint8"
    _largest_batch: int
    _whole = False  # whether there are kernels for every complexity

    def __call__(self, images) -> Prediction:
        raise NotImplementedError

    def __repr__(self) -> str:
        size = "of any size" if self.image_shape is None else "×".join(map(str, self.image_shape))
        names = "" if self.classes is None else f", {len(self.classes)} classes"
        held = " for {:g} to {:g} bits".format(*self.complexities) if self.complexities else " generated for each"
        return f"<{type(self).__name__}: images {size}{names}, kernels{held}>"

    def _run(self, images, count: int) -> Prediction:
        """The answers to a batch, of which ``count`` rows matter."""
        raise NotImplementedError

    def _answer(self, images) -> Prediction:
        """The answers to images that were checked, padded to powers of two and split."""
        if images.ndim == 3:
            return jax.tree.map(lambda rows: rows[0], self._answer(images[None]))
        if isinstance(images, jax.core.Tracer):
            return self._run(images, len(images))
        parts = []
        for start in range(0, len(images), self._largest_batch):
            part = images[start : start + self._largest_batch]
            missing = (1 << (len(part) - 1).bit_length()) - len(part)
            pad = jnp.pad if isinstance(part, jax.Array) else np.pad
            rows = self._run(pad(part, ((0, missing), *[(0, 0)] * 3)) if missing else part, len(part))
            parts.append(jax.tree.map(operator.itemgetter(slice(len(part))), rows) if missing else rows)
        found = parts[0] if len(parts) == 1 else jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
        if self.complexities and not self._whole:
            (low, high), h = self.complexities, np.asarray(found.complexity)
            outside = (h < low) | (h > high)
            if outside.any():
                raise ValueError(
                    f"predict: image {int(outside.argmax())} has a complexity near {h[outside][0]:.3g}, there are "
                    f"kernels for {low:g} to {high:g}; call compile_predict with wider complexities, or None for all"
                )
        return found

    def predict_images(self, pictures: Any) -> Prediction:
        """Predict pictures of any size, which are scaled as ``python -m train`` scales a folder's.

        A Pillow image is turned as its EXIF orientation says, what is transparent in it lies over white, and it becomes
        grey or RGB as the model wants it. Every picture is scaled so that it just covers the model's size (bicubic),
        and its middle cut out.

        Args:
            pictures: a Pillow image, levels (H, W) or (H, W, C) as uint8, or several of these, of any sizes.

        Raises:
            TypeError: an array of another dtype.
            ValueError: an array that is no picture; no picture at all; or, of a model that the package did not load and
                did not make from an image's shape, ``image_shape`` is not known: set it before ``compile_predict``.
            ImportError: Pillow is missing, which scales them.
        """
        if self.image_shape is None:
            raise ValueError(
                "predict_images: the model does not know which size its images have; set model.image_shape = (height, "
                "width, channels) before compile_predict(model)"
            )
        one = hasattr(pictures, "convert") or (hasattr(pictures, "ndim") and pictures.ndim < 4)
        levels = [_fitted(each, tuple(self.image_shape)) for each in ([pictures] if one else pictures)]
        if not levels:
            raise ValueError("predict_images: got no picture, at least one is needed")
        images = np.stack(levels) if self.dtype == "uint8" else np.stack(levels) / np.float32(255)
        return self(images[0] if one else images)


class LoadedModel(TakesPictures):
    """An exported model, made by :func:`load`: called with images, it returns a :class:`Prediction`.

    Batches are padded to the next power of two with black images, so that few programs serve all sizes, and split
    beyond 256. An image's answer does not depend on the others of its batch.

    Attributes:
        metadata: all that the file says about itself.
        classes: a name for each logit, or ``None``.
        preprocessing: what makes an image fit for the model, in words, or ``None``.
        complexities: (least, greatest) that there are kernels for.
        image_shape: (H, W, C) of every image.
        dtype: of the images, ``"uint8"`` (levels) or ``"float32"`` (in [0, 1]).
        platforms: what it runs on, of ``"cpu"``, ``"cuda"``, ``"rocm"``, ``"tpu"``.
        version: of the package that wrote it.
    """

    _largest_batch = 256

    def __init__(self, metadata: dict[str, Any], exported: jax.export.Exported, arrays: list[np.ndarray]):
        self.metadata = metadata
        self.classes = None if metadata["classes"] is None else tuple(metadata["classes"])
        self.preprocessing = metadata["preprocessing"]
        self.complexities = tuple(metadata["complexities"])
        self.image_shape: tuple[int, ...] = tuple(metadata["images"]["shape"])
        self.dtype = metadata["images"]["dtype"]
        self.platforms = tuple(metadata["platforms"])
        self.version = metadata["puppet_jax"]
        self._arrays = [jnp.asarray(array) for array in arrays]
        self._program = jax.jit(exported.call)

    def __call__(self, images) -> Prediction:
        """Predict one image ``image_shape`` or a batch ``(B, *image_shape)``, of ``dtype``. Works under ``jit`` too.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, an empty batch, NaN or floats outside [0, 1], or an image of a complexity that
                there are no kernels for (checked on concrete arrays).
        """
        return self._answer(self._check(images))

    def _run(self, images, count: int) -> Prediction:
        logits, complexity, depth = self._program(images, self._arrays)
        return Prediction(logits, complexity, depth, self.classes)

    def _check(self, images):
        if not isinstance(images, jax.core.Tracer):
            images = np.asarray(images)
            images = images.astype(images.dtype.newbyteorder("="), copy=False)
        shape = ", ".join(map(str, self.image_shape))
        if images.dtype != self.dtype:
            values = "levels 0 to 255" if self.dtype == "uint8" else "in [0, 1]"
            raise TypeError(
                f"images: expected dtype {self.dtype} ({values}), as exported, got {images.dtype}; convert them"
            )
        if images.ndim not in (3, 4) or images.shape[-3:] != self.image_shape:
            raise ValueError(
                f"images: expected shape ({shape}) or (B, {shape}), as exported, got {images.shape}; resize them, "
                "or export the model with another image_shape"
            )
        if images.size == 0:
            raise ValueError(f"images: got an empty batch, shape {images.shape}; at least one image is needed")
        if self.dtype == "uint8" or isinstance(images, jax.core.Tracer):
            return images
        if not (images.min() >= -_ROUNDING and images.max() <= 1.0 + _ROUNDING):  # a comparison with NaN is false
            raise ValueError(
                f"images: floats must lie in [0, 1] and be no NaN, got values from {images.min():.9g} to "
                f"{images.max():.9g}; divide levels by 255"
            )
        return images


def _fitted(picture: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as levels of the shape (H, W, C) that a model takes; see :meth:`TakesPictures.predict_images`."""
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
    if isinstance(picture, np.ndarray):
        image, stored = Image.fromarray(picture), ""
    else:
        stored = png_mode(picture)
        image = ImageOps.exif_transpose(picture)
    return as_levels(in_channels(image, channels, stored), size)


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


def load(path: str | os.PathLike) -> LoadedModel:
    """A model that :func:`puppet_jax.export` wrote, ready to run; it is compiled at its first call.

    Format, version and checksums are checked before anything is used, and that the program fits what the file says of
    it, is for this platform and calls no function of the process. The file may come from anybody, at the price of any
    computation it asks for.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is damaged, of another program, of a newer format, not for this platform, or not safe to run.
        ImportError: ``flatbuffers`` is missing.
    """
    name = repr(os.fspath(path))
    try:
        contents = _read(Path(path))
        metadata = _metadata(contents)
        exported = _deserialize(contents[PROGRAM], metadata)
        arrays = [_array(contents[f"{ARRAYS}{each}.npy"], each) for each in metadata["arrays"]]
        _check_fit(exported, metadata, arrays)
    except ValueError as error:
        raise ValueError(f"load: {name}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:  # an entry within an entry
        raise ValueError(f"load: {name}: {METADATA} is damaged ({error!r}); {_AGAIN}") from error
    return LoadedModel(metadata, exported, arrays)


def _read(path: Path) -> dict[str, bytes]:
    """The contents of a zip file's members, none of which is compressed."""
    if path.exists() and not path.is_file():  # a named pipe would wait for its writer
        raise ValueError(f"not a regular file, expected one that puppet_jax.export wrote; {_OTHERS}")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = file.infolist()
            # Neither compressed nor laid one over another, it unpacks to no more than is there.
            plain = all(each.compress_type == zipfile.ZIP_STORED for each in members)
            plain = plain and sum(each.file_size for each in members) <= len(content)
            contents = {each.filename: file.read(each) for each in members} if plain else {}
    except Exception as error:  # a damaged directory of a zip file makes zipfile raise nearly anything
        raise ValueError(f"damaged, truncated, or no export at all ({error}); copy it anew; {_OTHERS}") from error
    if len(contents) < len(members):
        raise ValueError(f"compressed or doubled, which puppet_jax.export does not write; {_AGAIN}")
    return contents


def _metadata(contents: dict[str, bytes]) -> dict[str, Any]:
    """What the file says about itself, once all parts are found to be as it says."""
    try:
        metadata = json.loads(contents.get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{METADATA} is damaged ({error}); copy the file anew, or {_AGAIN}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"a zip file of another program, {METADATA} does not name the format {FORMAT!r}; {_AGAIN}")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"format version {metadata.get('version')!r}, of puppet-jax {metadata.get('puppet_jax')}; this one reads "
            f"{VERSION}; load it with that puppet-jax, or {_AGAIN}"
        )
    for name in sorted({*metadata["files"], PROGRAM, *(f"{ARRAYS}{each}.npy" for each in metadata["arrays"])}):
        content = contents.get(name, b"")
        if metadata["files"].get(name) != {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}:
            raise ValueError(f"damaged, {name!r} is missing or not what was written; copy the file anew, or {_AGAIN}")
    return metadata


def _deserialize(program: bytes, metadata: dict[str, Any]) -> jax.export.Exported:
    written = metadata["jax"]
    here = jax.export.default_export_platform()
    if here not in metadata["platforms"]:
        raise ValueError(
            f"exported for {', '.join(metadata['platforms'])}, and this process computes on {here}; set "
            f"JAX_PLATFORMS, or export the model again with platforms=({here!r},)"
        )
    least = jax.export.minimum_supported_calling_convention_version
    most = jax.export.maximum_supported_calling_convention_version
    try:
        exported = jax.export.deserialize(bytearray(program))
        if not least <= exported.calling_convention_version <= most:
            raise ValueError(f"its calling convention is none of {least} to {most}")
        text = exported.mlir_module()
    except ImportError:  # flatbuffers is missing: jax says so
        raise
    except Exception as error:  # whoever wrote it may have meant to confuse the parsers
        raise ValueError(
            f"jax {jax.__version__} cannot read the program, which jax {written} wrote ({type(error).__name__}: "
            f"{str(error)[:200]}); install jax {written}, or export the model again with this one"
        ) from error
    unsafe = custom_calls(text)
    if unsafe or exported.disabled_safety_checks:
        raise ValueError(
            f"not safe to run: calls {', '.join(unsafe) or 'unchecked'}, functions outside the program; {_AGAIN}"
        )
    return exported


def custom_calls(text: str) -> list[str]:
    """The functions outside of a StableHLO program, given as text, that it calls, but for the harmless ones."""
    called = re.findall(r'\b\w+\.custom_call\b"?(?:\s+@"?([\w.$]+)"?\s*\()?', text)
    return sorted({name or "a function without a name" for name in called if name not in _HARMLESS})


def _array(content: bytes, name: str) -> np.ndarray:
    """The array of a .npy file of numbers, none of which is made before its size is known to be there."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    whole = math.prod(shape) * dtype.itemsize == len(content) - file.tell()
    if version != (1, 0) or dtype.kind not in "fiub" or fortran or not whole:
        raise ValueError(f"array {name!r} is no array of numbers, or not a whole one; {_AGAIN}")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def _check_fit(exported: jax.export.Exported, metadata: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Refuse a program that takes or returns something else than its file says."""
    (low, high), names, classes = metadata["complexities"], metadata["classes"], metadata["num_classes"]
    structure: Any = exported.in_tree
    logits, *others = exported.out_avals
    fits = (
        structure == jax.tree.structure(((0, [0] * len(arrays)), {}))
        and exported.in_avals[0].shape[1:] == tuple(metadata["images"]["shape"])
        and exported.in_avals[0].dtype == metadata["images"]["dtype"]
        and [(each.shape, each.dtype) for each in exported.in_avals[1:]] == [(a.shape, a.dtype) for a in arrays]
        and (classes is None or (len(others) == 2 and logits.shape[1:] == (classes,)))
        and set(exported.platforms) >= set(metadata["platforms"])
        and low <= high
        and (names is None or (len(names) == classes and all(isinstance(each, str) for each in names)))
    )
    if not fits:
        raise ValueError(f"the program takes or returns something else than {METADATA} says; {_AGAIN}")
