"""Reading and running an exported model.

An export is a zip file, nothing in it compressed: ``metadata.json``; ``program.stablehlo``, what ``jax.export`` has
serialized, a flatbuffer; ``arrays.safetensors``, its parameters; ``README.txt``, how to run it without this package.
Nothing in it is unpickled or executed as Python. A StableHLO program computes, but could ask for functions that are
registered in the process ("custom calls"), Python's own among them: a program with any but the few harmless ones is
refused before it is compiled.
"""

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Num

from puppet_jax._integers import image_shape_of
from puppet_jax._prediction import Prediction, TakesPictures

FORMAT, VERSION = "puppet-jax export", 3
METADATA, PROGRAM, ARRAYS = "metadata.json", "program.stablehlo", "arrays.safetensors"
VALUES = {"uint8": "levels 0 to 255", "float32": "from 0 to 1"}

_AGAIN = "export the model again with puppet_jax.export"
_OTHERS = "puppet_jax.load_pretrained opens runs, .safetensors files and pretrained models"

# What jax itself writes for a symbolic batch, placement and random numbers. All else that has a name is refused, also
# where jax promises its stability: "tpu_custom_call" and the like run code that the file brings with it.
_HARMLESS = re.compile(
    r"shape_assertion|Sharding|annotate_device_placement|(cu|hip)_threefry2x32_ffi|stablehlo\.dynamic_(reduce_window|top_k)"
)


class _Refusal(ValueError):
    """Why a file that could be read is not run."""


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

    def __init__(self, metadata: dict[str, Any], exported: jax.export.Exported, arrays: dict[str, np.ndarray]):
        images, names = exported.in_avals[0], metadata["classes"]
        self.metadata, self.platforms, self.dtype = metadata, exported.platforms, str(images.dtype)
        self.image_shape = image_shape_of(images.shape[1:], "images")
        self.preprocessing, self.version = metadata["preprocessing"], metadata["puppet_jax"]
        low, high = map(float, metadata["complexities"])
        self.complexities = low, high
        one = jax.ShapeDtypeStruct((1, *self.image_shape), images.dtype)
        logits, _, _ = jax.eval_shape(exported.call, one, arrays)  # refused by jax, if the program takes others
        if names is not None and [type(each) for each in names] != [str] * logits.shape[-1]:
            raise ValueError("its classes are not one name for each logit")
        self.classes = None if names is None else tuple(names)
        self._arrays = jax.tree.map(jnp.asarray, arrays)
        self._program = jax.jit(exported.call)

    def _check(self, images: Num[Array, "*batch h w c"]) -> None:
        if images.dtype != self.dtype:
            raise TypeError(
                f"predict: images must be {self.dtype} ({VALUES[self.dtype]}), as exported, got {images.dtype}"
            )
        if images.shape[-3:] != self.image_shape:
            raise ValueError(
                f"predict: images must have shape (B, *{self.image_shape}), as exported, got {images.shape}; resize "
                "them, or export the model with another image_shape"
            )

    def _run(self, images: Num[Array, "b h w c"], count: int) -> Prediction:
        logits, complexity, depth = self._program(images, self._arrays)
        return Prediction(logits, complexity, depth, self.classes)


def load(path: str | os.PathLike) -> LoadedModel:
    """A model that :func:`puppet_jax.export` wrote, ready to run; it is compiled at its first call.

    Format, version and checksums are checked before anything is used, and that the program fits what the file says of
    it, is for this platform and calls no function of the process. The file may come from anybody, at the price of any
    computation it asks for.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is damaged, of another program, of another format, not for this platform, or not safe to run.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a named pipe would wait for its writer
        raise ValueError(f"load: {os.fspath(path)!r}: not a regular file, expected one of puppet_jax.export; {_OTHERS}")
    content = Path(path).read_bytes()
    try:
        return _read(content)
    except _Refusal as error:
        raise ValueError(f"load: {os.fspath(path)!r}: {error}") from error
    except Exception as error:  # whoever wrote it may have meant to confuse the parsers, which raise nearly anything
        raise ValueError(
            f"load: {os.fspath(path)!r}: damaged, no export, or not for jax {jax.__version__} ({type(error).__name__}: "
            f"{str(error)[:200]}); copy it anew, install the jax that its README.txt names, or {_AGAIN}; {_OTHERS}"
        ) from error


def _read(content: bytes) -> LoadedModel:
    with zipfile.ZipFile(io.BytesIO(content)) as file:  # which compares checksums
        if any(each.compress_type != zipfile.ZIP_STORED for each in file.infolist()):  # may unpack to any size
            raise _Refusal(f"compressed, which puppet_jax.export does not write; {_AGAIN}")
        metadata = json.loads(file.read(METADATA)) if METADATA in file.namelist() else {}
        if metadata.get("format") != FORMAT:
            raise _Refusal(f"a zip file of another program, no {METADATA} names the format {FORMAT!r}; {_OTHERS}")
        if metadata.get("version") != VERSION:
            raise _Refusal(
                f"format version {metadata.get('version')!r}, of puppet-jax {metadata.get('puppet_jax')}; this one "
                f"reads {VERSION}; load it with that puppet-jax, or {_AGAIN}"
            )
        program, arrays = file.read(PROGRAM), safetensors.numpy.load(file.read(ARRAYS))
    exported = jax.export.deserialize(bytearray(program))
    here, version = jax.export.default_export_platform(), exported.calling_convention_version
    if here not in exported.platforms:
        raise _Refusal(
            f"exported for {', '.join(exported.platforms)}, and this process computes on {here}; set JAX_PLATFORMS, or "
            f"export the model again with platforms=({here!r},)"
        )
    least = jax.export.minimum_supported_calling_convention_version
    if not least <= version <= jax.export.maximum_supported_calling_convention_version:
        raise ValueError(f"calling convention {version}")
    unsafe = custom_calls(exported.mlir_module())
    if unsafe or exported.disabled_safety_checks:
        raise _Refusal(
            f"not safe to run: calls {', '.join(unsafe) or 'unchecked'}, functions outside the program; {_AGAIN}"
        )
    return LoadedModel(metadata, exported, arrays)


def custom_calls(text: str) -> list[str]:
    """The functions outside of a StableHLO program, given as text, that it calls, but for the harmless ones."""
    called = re.findall(r'\b\w+\.custom_call\b"?(?:\s+@"?([\w.$]+)"?\s*\()?', text)
    return sorted({name or "a function without a name" for name in called if not _HARMLESS.fullmatch(name)})
