"""A predictor as one file that runs without this package: see :mod:`puppet_jax._artifact` for what is in it."""

import functools
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jax import lax

from puppet_jax._artifact import ARRAYS, FORMAT, METADATA, PROGRAM, VALUES, VERSION, custom_calls
from puppet_jax._batch import Bank, where_rows
from puppet_jax._complexity import as_unit
from puppet_jax._integers import image_shape_of
from puppet_jax._predict import Predictor, answering
from puppet_jax._stored_dtype import StoredDtype, pack, unpack
from puppet_jax.any_cnn._modules import leaf_name
from puppet_jax.convolution import whole

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_README = f"""A Puppet-CNN for jax {jax.__version__}; metadata.json tells of its images, complexities and classes.

With puppet-jax:

    import puppet_jax as pj
    model = pj.load("THIS FILE")
    logits, complexity, depth = model(images)

Without it (pip install jax flatbuffers safetensors):

    import jax, jax.export, numpy as np, safetensors.numpy
    file = np.load("THIS FILE")  # a zip file; nothing in it is pickled
    program = jax.export.deserialize(bytearray(file["{PROGRAM}"]))
    arrays = safetensors.numpy.load(file["{ARRAYS}"])
    logits, complexity, depth = jax.jit(program.call)(images, arrays)

These lines check nothing: use them for files from somebody you trust. pj.load checks. Images are (B, height, width,
channels); every B is compiled for once, in seconds. Logits of a complexity without kernels are NaN.
"""


def export(
    predict: Predictor,
    path: str | os.PathLike,
    *,
    image_shape: tuple[int, int, int] | None = None,
    dtype: str = "uint8",
    platforms: Sequence[str] = PLATFORMS,
    weights: StoredDtype = "float32",
    classes: Sequence[str] | None = None,
    preprocessing: str | None = None,
    batch: int | None = None,
) -> None:
    """Write what ``predict`` computes as one file, for any batch size, that does not need this package.

    A path that ends in ``.onnx`` becomes an ONNX graph (opset 18), in which the puppeteer generates the kernels: it is
    about as large as the stored parameters. It takes ``images`` and gives ``logits``, ``complexity`` and ``depth``;
    what else is known stands in its metadata. Nothing in it checks images. Any other path becomes a StableHLO program
    with the kernels of all bins, for jax: :func:`puppet_jax.load` runs it, and so do the lines of the file's
    README.txt. It has no gradient, and does not call this package's C++ convolutions. A file that is there is replaced
    once the new one is whole.

    Args:
        predict: made by :func:`puppet_jax.compile_predict`.
        path: of the file; ``.onnx`` at its end makes it an ONNX graph.
        image_shape: (H, W, C) of the images it will be given; ``None``: the model's own.
        dtype: of the images: ``"uint8"`` (levels 0 to 255) or ``"float32"`` (in [0, 1]).
        platforms: what a program for jax is to run on, of ``"cpu"``, ``"cuda"``, ``"rocm"``, ``"tpu"``.
        weights: what numbers are stored as: ``"float32"``, ``"float16"``, or ``"int8"`` with a scale for each row, as
            :func:`~puppet_jax._stored_dtype.pack` has it; the program computes in float32 all the same.
        classes: a name for each logit, to be kept in the file; ``None``: the model's.
        preprocessing: how to make an image fit for the model, in words, to be kept in the file.
        batch: 1 for an ONNX graph of one image, all shapes fixed, as compilers want it: without a loop over images.

    Raises:
        TypeError: ``predict`` is no :class:`Predictor`.
        ValueError: a model of continuous complexity for jax, one that computes what is not written as ONNX, an image
            shape that the model does not take, an unknown dtype, platform or ``weights``, another number of classes
            than logits, a path whose folder does not exist, or a model that calls functions outside of XLA.
        ImportError: ``onnx`` is missing.
    """
    if not isinstance(predict, Predictor):
        raise TypeError(
            f"export: predict must be what compile_predict returns, got {type(predict).__name__}; "
            "call export(compile_predict(model), ...)"
        )
    shape, path = image_shape_of(image_shape or predict.image_shape or (), "export"), Path(path)
    classes = classes or predict.classes
    _check(predict, path, shape, dtype, platforms, weights, classes, preprocessing, batch)
    from puppet_jax import __version__  # not before the package is whole

    about: dict[str, Any] = {
        "puppet_jax": __version__,
        "images": {"shape": list(shape), "dtype": dtype, "values": VALUES[dtype]},
        "preprocessing": preprocessing,
        "classes": None if classes is None else list(classes),
    }
    if path.suffix == ".onnx":
        try:
            from puppet_jax._onnx import onnx_model
        except ImportError as error:
            raise ImportError(f'export: {error}; an .onnx file needs it: pip install "puppet-jax[onnx]"') from error
        words = {key: each if isinstance(each, str) else json.dumps(each) for key, each in about.items() if each}
        _write(path, onnx_model(predict, shape, dtype, weights, batch, words))
        return
    about |= {"format": FORMAT, "version": VERSION, "jax": jax.__version__, "complexities": predict.complexities}
    function, arrays = portable(predict)
    packed, images = pack(arrays, weights), jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *shape), dtype)
    contents: dict[str, str | bytes] = {
        METADATA: json.dumps(about, indent=1, ensure_ascii=False),
        PROGRAM: _program(lambda images, packed: function(images, unpack(packed)), platforms, images, packed),
        ARRAYS: safetensors.numpy.save(packed),
        "README.txt": _README,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: the same contents make the same bytes
    _write(path, file.getvalue())


def portable(predict: Predictor) -> tuple[Callable, dict[str, np.ndarray]]:
    """``function(images, arrays) -> (logits, complexity, depth)``, a tuple, and the arrays by name.

    The function is pure and not jitted. It takes images (B, H, W, C) as :class:`Predictor` does, with B an integer or a
    symbolic dimension (``jax.export.symbolic_shape``). On CPUs images are taken one by one, each to its own depth,
    which needs neither sorting nor filling up; elsewhere all together, as far as the deepest of them.
    """
    assert predict.bank is not None  # `export` refuses what has none
    graphdef, state = nnx.split(predict.puppet)
    firsts = predict.bank.firsts
    arrays, filled = stored({"puppet": state, "kernels": whole(predict.bank.kernels)})

    def function(images, arrays):
        held = filled(arrays)
        bank = Bank(held["kernels"], firsts)
        h, d = predict.measurement(images, predict.puppet.depths)
        bins = predict.measurement.index(h)
        there = bank.holds(bins)

        def run(bank, images, bins, d, samples):
            forward = answering(nnx.merge(graphdef, held["puppet"]), predict.confidence)
            return forward(as_unit(images), bank.indices(bins), bank.kernels, d, samples, "gathered")

        def alone(row):
            image, of_bin, *rest = (each[None] for each in row)
            # Each layer's one kernel, so that the program holds ordinary convolutions.
            own = [jnp.take(k, i, 0, mode="clip") for k, i in zip(bank.kernels, bank.indices(of_bin), strict=True)]
            return jax.tree.map(lambda rows: rows[0], run(Bank(tuple(own), None), image, of_bin, *rest))

        logits, left = lax.platform_dependent(
            *(images, bins, jnp.where(there, d, 0), jnp.arange(images.shape[0])),
            cpu=lambda *batch: lax.map(alone, batch),
            default=functools.partial(run, bank),
        )
        return where_rows(there, logits, jnp.nan), h, jnp.where(there, left, d)

    return function, arrays


def stored(tree: Any) -> tuple[dict[str, np.ndarray], Callable[[dict[str, Any]], Any]]:
    """What of a tree can be written to files, by name, and a function that puts such arrays into their places in it."""
    structure: Any
    leaves, structure = jax.tree.flatten_with_path(tree)
    named: dict[str, Any] = {leaf_name(path): leaf for path, leaf in leaves}
    # Random keys and bfloat16 have no place in NumPy's files: they stay in the program, as constants.
    kept = {name: leaf for name, leaf in named.items() if getattr(leaf.dtype, "isbuiltin", 0) == 1}
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in kept.items()}
    return arrays, lambda arrays: structure.unflatten((named | arrays).values())


def _check(predict, path, shape, dtype, platforms, weights, classes, preprocessing, batch) -> None:
    if predict.bank is None and path.suffix != ".onnx":
        raise ValueError(
            "export: predict generates kernels for every image, as its model measures complexity without bins; create "
            "the model with measurement=Measure(bin=0.25), or a smaller bin, or export to a path that ends in .onnx"
        )
    if batch is not None and (batch != 1 or path.suffix != ".onnx"):
        raise ValueError(f"export: batch must be None, or 1 for a path that ends in .onnx, got {batch!r}")
    puppet = predict.puppet
    puppet.check(shape, puppet.kernel_shapes, puppet.max_depth)
    if dtype not in VALUES:
        raise ValueError(f"export: dtype must be one of {tuple(VALUES)}, got {dtype!r}")
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(f"export: platforms must be a selection of {PLATFORMS}, got {platforms!r}")
    if weights not in get_args(StoredDtype):
        raise ValueError(f"export: weights must be one of {get_args(StoredDtype)}, got {weights!r}")
    if classes is not None and len(classes) != puppet.num_classes:
        if puppet.num_classes is None:
            raise ValueError("export: classes name logits, and the model returns something else; leave them out")
        raise ValueError(f"export: classes must name {puppet.num_classes} logits, got {len(classes)}")
    if not all(isinstance(text, str) for text in (*(classes or ()), preprocessing or "")):
        raise TypeError("export: classes and preprocessing must be text")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"export: path must name a file in a folder that exists, got {os.fspath(path)!r}")


def _program(function: Callable, platforms: Sequence[str], *arguments) -> bytes:
    try:
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
        if unsafe := custom_calls(exported.mlir_module()):
            raise ValueError(f"calls {', '.join(unsafe)}")
        return bytes(exported.serialize())
    except (NotImplementedError, ValueError) as error:  # of a callback to Python; of a type without a name in files
        raise ValueError(
            f"export: a file cannot hold what the model calls or returns ({str(error)[:200]}); leave such functions "
            "out of the puppetized module, and let it return an array, or dicts, lists and tuples of them"
        ) from error


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")  # of a short name; with the permissions of any new file
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
