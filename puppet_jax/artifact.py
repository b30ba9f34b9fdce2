"""Reading and running an exported model.

This file imports nothing of its package, only jax and numpy: a copy of it works where the package is not installed.
(jax needs ``flatbuffers`` for it, as for everything of ``jax.export``.)

An export is a zip file, nothing in it compressed: ``metadata.json``; ``program.stablehlo``, what ``jax.export`` has
serialized, a flatbuffer; ``arrays/NAME.npy``, its parameters; ``README.txt``, how to run it without this file.
Nothing in it is unpickled or executed as Python. A StableHLO program computes, but could ask for functions that are
registered in the process ("custom calls"), Python's own among them: a program with any but the few harmless ones is
refused before it is compiled.
"""

import hashlib
import io
import json
import math
import operator
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

FORMAT, VERSION = "puppet-jax export", 2
_LAST_OF_VERSION_1 = "0.1.0"
METADATA, PROGRAM, ARRAYS = "metadata.json", "program.stablehlo", "arrays/"

_LARGEST_BATCH = 256
_DTYPES = ("uint8", "float32")
_ROUNDING = 1e-6  # how far beyond [0, 1] floats may lie, as a resize leaves them
_AGAIN = "export the model again with puppet_jax.export"

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


class Prediction(NamedTuple):
    """What a loaded model returns, one row for each image, in the order given; of one image, its row.

    Attributes:
        logits: float32, (B, num_classes); or, as the file's ``num_classes`` is null then, other arrays (B, …).
        complexity: float32, (B,), bits: of the centre of each image's bin.
        depth: int32, (B,), the number of layers each image went through.
    """

    logits: Any
    complexity: jax.Array
    depth: jax.Array


class LoadedModel:
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

    def __init__(self, metadata: dict[str, Any], exported: jax.export.Exported, arrays: list[np.ndarray]):
        self.metadata = metadata
        self.classes = None if metadata["classes"] is None else tuple(metadata["classes"])
        self.preprocessing = metadata["preprocessing"]
        self.complexities = tuple(metadata["complexities"])
        self.image_shape = tuple(metadata["images"]["shape"])
        self.dtype = metadata["images"]["dtype"]
        self.platforms = tuple(metadata["platforms"])
        self.version = metadata["puppet_jax"]
        self._arrays = [jnp.asarray(array) for array in arrays]
        self._run = jax.jit(exported.call)

    def __call__(self, images) -> Prediction:
        """Predict one image ``image_shape`` or a batch ``(B, *image_shape)``, of ``dtype``. Works under ``jit`` too.

        Raises:
            TypeError: another dtype.
            ValueError: another shape, an empty batch, NaN or floats outside [0, 1], or an image of a complexity that
                there are no kernels for (checked on concrete arrays).
        """
        images = self._check(images)
        if images.ndim == 3:
            return jax.tree.map(lambda rows: rows[0], self(images[None]))
        if isinstance(images, jax.core.Tracer):
            return Prediction(*self._run(images, self._arrays))
        parts = []
        for start in range(0, len(images), _LARGEST_BATCH):
            part = images[start : start + _LARGEST_BATCH]
            filled = np.zeros((1 << (len(part) - 1).bit_length(), *self.image_shape), images.dtype)
            filled[: len(part)] = part
            cut = operator.itemgetter(slice(len(part)))
            parts.append(jax.tree.map(cut, self._run(filled, self._arrays)))
        found = Prediction(*(parts[0] if len(parts) == 1 else jax.tree.map(lambda *p: jnp.concatenate(p), *parts)))
        self._check_held(np.asarray(found.complexity))
        return found

    def _check_held(self, complexity: np.ndarray) -> None:
        low, high = self.complexities
        outside = (complexity < low) | (complexity > high)
        if outside.any():
            raise ValueError(
                f"images: number {int(outside.argmax())} has a complexity near {complexity[outside][0]:.3g}, the file "
                f"holds kernels for {low:g} to {high:g}; export the model with wider complexities"
            )

    def _check(self, images):
        if not isinstance(images, jax.core.Tracer):
            images = np.asarray(images)
            images = images.astype(images.dtype.newbyteorder("="), copy=False)
        shape = ", ".join(map(str, self.image_shape))
        if images.dtype != self.dtype:
            values = "levels 0 to 255" if self.dtype == "uint8" else "in [0, 1]"
            raise TypeError(
                f"images: expected dtype {self.dtype} ({values}), as exported, got {images.dtype}; convert them"
                + (f", or export the model with dtype={str(images.dtype)!r}" if images.dtype in _DTYPES else "")
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


def load(path: str | os.PathLike) -> LoadedModel:
    """A model that :func:`puppet_jax.export` wrote, ready to run; it is compiled at its first call.

    Everything is checked before it is used: the file's format and version, each part's size and checksum, that the
    program fits what the file says of it, that it calls no function of the process, and that this process's platform is
    one that it was exported for. The file may come from anybody, at the price of any computation it asks for.

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
    if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would wait for its writer
        raise ValueError(f"not a regular file, expected one that puppet_jax.export wrote; {_AGAIN}")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = file.infolist()
            plain = all(each.compress_type == zipfile.ZIP_STORED and not each.flag_bits & 1 for each in members)
            # Neither compressed nor laid one over another, it unpacks to no more than is there.
            plain = plain and sum(each.file_size for each in members) <= len(content)
            contents = {each.filename: file.read(each) for each in members} if plain else {}
    except Exception as error:  # a damaged directory of a zip file makes zipfile raise nearly anything
        raise ValueError(f"damaged, truncated, or no export at all ({error}); copy it anew, or {_AGAIN}") from error
    if len(contents) < len(members):
        raise ValueError(f"compressed, encrypted or doubled, which puppet_jax.export does not write; {_AGAIN}")
    if METADATA not in contents:
        raise ValueError(f"a zip file of another program, {METADATA} is missing in it; {_AGAIN}")
    return contents


def _metadata(contents: dict[str, bytes]) -> dict[str, Any]:
    """What the file says about itself, once all parts are found to be as it says."""
    try:
        metadata = json.loads(contents[METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{METADATA} is damaged ({error}); copy the file anew, or {_AGAIN}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"a zip file of another program, {METADATA} does not name the format {FORMAT!r}; {_AGAIN}")
    version = metadata.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        way_out = "install a newer puppet-jax, or export the model again with this one" if newer else _AGAIN
        if version == 1:
            way_out = f"read it with puppet-jax {_LAST_OF_VERSION_1}, or train and export the model again with this one"
        raise ValueError(f"format version {version!r}, this puppet-jax reads {VERSION}; {way_out}")
    for name in sorted({*metadata["files"], PROGRAM, *(f"{ARRAYS}{each}.npy" for each in metadata["arrays"])}):
        said, content = metadata["files"].get(name), contents.get(name)
        if said is None or content is None:
            raise ValueError(f"incomplete, {name!r} is missing; copy the file anew, or {_AGAIN}")
        if said != {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}:
            raise ValueError(f"damaged, {name!r} is not what was written; copy the file anew, or {_AGAIN}")
    return metadata


def _deserialize(program: bytes, metadata: dict[str, Any]) -> jax.export.Exported:
    convention, written = metadata["calling_convention"], metadata["jax"]
    least = jax.export.minimum_supported_calling_convention_version
    most = jax.export.maximum_supported_calling_convention_version
    if not least <= convention <= most:
        raise ValueError(
            f"written with jax {written} for its calling convention {convention}, jax {jax.__version__} runs {least} "
            f"to {most}; install jax {written}, or export the model again with this one"
        )
    here = jax.export.default_export_platform()
    if here not in metadata["platforms"]:
        raise ValueError(
            f"exported for {', '.join(metadata['platforms'])}, and this process computes on {here}; set "
            f"JAX_PLATFORMS, or export the model again with platforms=({here!r},)"
        )
    try:
        exported = jax.export.deserialize(bytearray(program))
        text = exported.mlir_module()
    except ImportError as error:
        raise ImportError(
            "load: jax reads exports with flatbuffers, which is missing; pip install flatbuffers"
        ) from error
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
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of its format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "fiub" or fortran or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise ValueError("no array of numbers, or not a whole one")
    except ValueError as error:
        raise ValueError(f"damaged, array {name!r}: {error}; copy the file anew, or {_AGAIN}") from error
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def _check_fit(exported: jax.export.Exported, metadata: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Refuse a program that takes or returns something else than its file says."""
    numbers, names = metadata["complexities"], metadata["classes"]
    images, *own = [(each.shape, each.dtype) for each in exported.in_avals] or [((), None)]
    structure: Any = exported.in_tree
    logits: Any = exported.out_avals[0] if exported.out_avals else None
    classes = metadata["num_classes"]
    fits = (
        structure == jax.tree.structure(((0, [0] * len(arrays)), {}))
        and images == ((images[0][0], *metadata["images"]["shape"]), metadata["images"]["dtype"])
        and own == [(each.shape, each.dtype) for each in arrays]
        and len(exported.out_avals) >= 3
        and (classes is None or (len(exported.out_avals) == 3 and logits.shape[1:] == (classes,)))
        and set(exported.platforms) >= set(metadata["platforms"])
        and len(numbers) == 2
        and all(isinstance(each, int | float) for each in numbers)
        and (names is None or (len(names) == classes and all(isinstance(each, str) for each in names)))
    )
    if not fits:
        raise ValueError(f"the program takes or returns something else than {METADATA} says; {_AGAIN}")
