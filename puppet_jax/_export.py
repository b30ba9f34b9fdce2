"""A predictor as one file that runs without this package: see :mod:`puppet_jax.artifact` for what is in it."""

import dataclasses
import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from puppet_jax._exported_program import KERNELS, portable, portable_generator
from puppet_jax._predict import Predictor
from puppet_jax._stored_dtype import StoredDtype, pack, unpack
from puppet_jax.artifact import ARRAYS, FORMAT, GENERATOR, METADATA, OF_GENERATOR, PROGRAM, VERSION, custom_calls

Store = Literal["kernels", "puppeteer"]
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_MODEL_CALLS = "the model calls functions that a file cannot hold; leave them out of the puppetized module"
_PUPPETEER_CALLS = (
    'the puppeteer calls functions that a file cannot hold, such as Python\'s; store what it makes, store="kernels"'
)
_VALUES = {"uint8": "levels 0 to 255", "float32": "from 0 to 1"}


def export(
    predict: Predictor,
    path: str | os.PathLike,
    *,
    image_shape: tuple[int, int, int],
    dtype: str = "uint8",
    platforms: Sequence[str] = PLATFORMS,
    store: Store = "kernels",
    weights: StoredDtype = "float32",
    classes: Sequence[str] | None = None,
    preprocessing: str | None = None,
) -> None:
    """Write what ``predict`` computes as one file, for any batch size, that needs jax but not this package.

    :func:`puppet_jax.load` runs it, and so does ``jax.export.deserialize`` in the lines of the file's README.txt. The
    program is made of XLA's own operations: on CPUs it does not call this package's C++ convolutions. It is the same on
    all platforms but for the convolutions' formulation, and has no gradient. A file that is there is replaced once the
    new one is whole.

    Args:
        predict: made by :func:`puppet_jax.compile_predict`.
        path: of the file; any name.
        image_shape: (H, W, C) of the images it will be given.
        dtype: of the images: ``"uint8"`` (levels 0 to 255) or ``"float32"`` (in [0, 1]).
        platforms: what it is to run on, of ``"cpu"``, ``"cuda"``, ``"rocm"``, ``"tpu"``.
        store: ``"kernels"`` as they were baked, or the ``"puppeteer"``, a small file: they are then generated once
            more while it is loaded, which takes one more compilation.
        weights: what numbers are stored as: ``"float32"``, ``"float16"``, or ``"int8"`` with a scale for each row, as
            :func:`~puppet_jax._stored_dtype.pack` has it; the program computes in float32 all the same.
        classes: a name for each logit, to be kept in the file.
        preprocessing: how to make an image fit for the model, in words, to be kept in the file.

    Raises:
        TypeError: ``predict`` is no :class:`Predictor`.
        ValueError: a model of continuous complexity, an image shape that the model does not take, an unknown dtype,
            platform, ``store`` or ``weights``, another number of classes than logits, a path whose folder does not
            exist, or a model that calls functions outside of XLA.
        ImportError: ``flatbuffers`` is missing, which ``jax.export`` needs.
    """
    shape, path = tuple(image_shape), Path(path)
    _check(predict, path, shape, dtype, platforms, store, weights, classes, preprocessing)
    function, arrays = portable(predict)
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.dtype(dtype))
    makes = [name for name in arrays if store == "puppeteer" and name.partition(".")[0] == KERNELS]
    held = pack({name: array for name, array in arrays.items() if name not in makes}, weights)
    takes = held | {name: arrays[name] for name in makes}
    run = lambda images, stored: function(images, _unpacked(arrays, takes, stored))  # noqa: E731
    exported = _exported(run, platforms, _MODEL_CALLS, images, list(takes.values()))
    contents, generator = {PROGRAM: _serialized(exported)}, None
    if store == "puppeteer":
        generate, whole = portable_generator(predict)
        own = pack(whole, weights)
        make = lambda stored: generate(_unpacked(whole, own, stored))  # noqa: E731
        generator = {"arrays": list(own), "makes": makes}
        contents[GENERATOR] = _serialized(_exported(make, platforms, _PUPPETEER_CALLS, list(own.values())))
        contents |= {f"{OF_GENERATOR}{name}.npy": _npy(array) for name, array in own.items()}
    contents |= {f"{ARRAYS}{name}.npy": _npy(array) for name, array in held.items()}
    from puppet_jax import __version__  # not before the package is whole

    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "puppet_jax": __version__,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(platforms),
        "images": {"shape": list(shape), "dtype": dtype, "values": _VALUES[dtype]},
        "preprocessing": preprocessing,
        "classes": None if classes is None else list(classes),
        "num_classes": predict.puppet.num_classes,
        "complexities": list(predict.complexities or ()),
        "measurement": dataclasses.asdict(predict.measurement),
        "max_depth": predict.puppet.max_depth,
        "arrays": list(takes),
        "generator": generator,
    }
    contents["README.txt"] = _readme(metadata).encode()
    metadata["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    _write(path, {METADATA: json.dumps(metadata, indent=1).encode(), **contents})


def _unpacked(wanted: Iterable[str], names: Iterable[str], stored: Sequence) -> list:
    """The arrays that a function takes, from those stored and the names of these."""
    arrays = unpack(dict(zip(names, stored, strict=True)))
    return [arrays[name] for name in wanted]


def _check(predict, path, shape, dtype, platforms, store, weights, classes, preprocessing) -> None:
    if not isinstance(predict, Predictor):
        raise TypeError(
            f"export: predict must be what compile_predict returns, got {type(predict).__name__}; "
            "call export(compile_predict(model), ...)"
        )
    if predict.bank is None:
        raise ValueError(
            "export: predict generates kernels for every image, as its model measures complexity without bins; create "
            "the model with measurement=Measure(bin=0.25), or a smaller bin"
        )
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"export: image_shape must be (height, width, channels), got {shape}")
    puppet = predict.puppet
    puppet.check(shape, puppet.kernel_shapes, puppet.max_depth)
    if dtype not in _VALUES:
        raise ValueError(f"export: dtype must be one of {tuple(_VALUES)}, got {dtype!r}")
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(f"export: platforms must be a selection of {PLATFORMS}, got {platforms!r}")
    if store not in get_args(Store):
        raise ValueError(f"export: store must be one of {get_args(Store)}, got {store!r}")
    if weights not in get_args(StoredDtype):
        raise ValueError(f"export: weights must be one of {get_args(StoredDtype)}, got {weights!r}")
    if classes is not None and len(classes) != puppet.num_classes:
        if puppet.num_classes is None:
            raise ValueError("export: classes name logits, and the model returns something else; leave them out")
        raise ValueError(f"export: classes must name {puppet.num_classes} classes, one a logit, got {len(classes)}")
    if not all(isinstance(text, str) for text in (*(classes or ()), preprocessing or "")):
        raise TypeError("export: classes and preprocessing must be text")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"export: path must name a file in a folder that exists, got {os.fspath(path)!r}")


def _exported(function: Callable, platforms: Sequence[str], refused: str, *arguments) -> jax.export.Exported:
    """A function as a program; ``refused`` is said of one that calls what is not in it."""
    try:
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    except NotImplementedError as error:  # what jax raises of a callback to Python
        raise ValueError(f"export: {refused} ({error})") from error
    if unsafe := custom_calls(exported.mlir_module()):
        raise ValueError(f"export: {refused} ({', '.join(unsafe)})")
    return exported


def _serialized(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ValueError as error:  # a type that jax.export has no name for
        raise ValueError(
            f"export: a file cannot hold what the model returns ({str(error)[:200]}); let it return an array, or "
            "dicts, lists and tuples of them"
        ) from error
    except ImportError as error:
        raise ImportError(
            "export: jax writes exports with flatbuffers, which is missing; pip install flatbuffers"
        ) from error


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array(array, order="C"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _write(path: Path, contents: dict[str, bytes]) -> None:
    """Write a zip file, uncompressed, whole or not at all; the same contents make the same bytes."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")  # of a short name; with the permissions of any new file
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in contents.items():
                    archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, as zip files begin
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _how_to_read(metadata: dict) -> str:
    if not metadata["generator"]:
        return f"""    arrays = [file["{ARRAYS}" + name] for name in about["arrays"]]"""
    return f"""    generator = jax.export.deserialize(bytearray(file["{GENERATOR}"]))
    own = [file["{OF_GENERATOR}" + name] for name in about["generator"]["arrays"]]
    kernels = dict(zip(about["generator"]["makes"], jax.jit(generator.call)(own)))
    arrays = [kernels[name] if name in kernels else file["{ARRAYS}" + name] for name in about["arrays"]]"""


def _readme(metadata: dict) -> str:
    images = metadata["images"]
    low, high = metadata["complexities"]
    classes = metadata["num_classes"]
    shape = ", ".join(map(str, images["shape"]))
    return f"""A Puppet-CNN, exported by puppet-jax {metadata["puppet_jax"]} with jax {metadata["jax"]}.

With puppet-jax:

    import puppet_jax as pj
    model = pj.load("THIS FILE")
    logits, complexity, depth = model(images)

Without it, with jax, numpy and flatbuffers (pip install jax flatbuffers):

    import json, jax, jax.export, numpy as np
    file = np.load("THIS FILE")  # a zip file; nothing in it is pickled
    program = jax.export.deserialize(bytearray(file["{PROGRAM}"]))
    about = json.loads(file["{METADATA}"])
{_how_to_read(metadata)}
    logits, complexity, depth = jax.jit(program.call)(images, arrays)

These lines check nothing: use them for files from somebody you trust. pj.load checks.

images: {images["dtype"]}, (B, {shape}), values {images["values"]}; every B is compiled for once, in seconds
logits: {"whatever the model returns" if classes is None else f"float32, (B, {classes})"}
complexity: float32, (B,); kernels are for {low:g} to {high:g}, logits of what lies outside are NaN
depth: int32, (B,), the layers that each image went through
platforms: {", ".join(metadata["platforms"])}
preprocessing: {metadata["preprocessing"] or "not told"}
classes: {", ".join(metadata["classes"] or ["not told"])}
"""
