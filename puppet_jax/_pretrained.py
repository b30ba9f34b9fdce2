"""Trained models as files: those that come with the package, those of runs of the trainer, and released ones.

A file is a safetensors file of the parameters, tens of kilobytes, since only what generates is stored. Its header says,
as JSON under one key, what makes the model, what images it is for, and what else is known of it.
"""

import difflib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from puppet_jax._measure import Measure
from puppet_jax._model import PuppetCNN, create
from puppet_jax._named_function import named_function
from puppet_jax._stored_dtype import unpack
from puppet_jax.any_cnn._modules import leaf_name
from puppet_jax.any_cnn._puppetize import puppetize

FORMAT = "puppet-jax model 5"
KEY = "puppet_jax"
"""Of all that a file says about its model, as JSON. One key: the format writes several in no fixed order."""
SUFFIX = ".safetensors"
PARAMETERS = "params.safetensors"
"""The file of a run's folder."""


def list_pretrained() -> tuple[str, ...]:
    """The names that :func:`load_pretrained` knows."""
    return tuple(_of_package())


def load_pretrained(name: str | os.PathLike) -> PuppetCNN:
    """A trained model: one that comes with the package, or what the trainer has left or released.

    Beside the weights of the package lies a model card, ``weights/NAME.md``: data, recipe, accuracy, limits. The names
    of the classes and the accuracy are in :func:`pretrained_info`.

    Args:
        name: one of :func:`list_pretrained`, for example ``"puppet_s_cifar10"``; or the path of a ``.safetensors``
            file or of a run's folder, which goes before a name: ``"./NAME"`` is a path alone. Of the puppet of
            somebody's own CNN the file names the function that makes it, which is imported.

    Raises:
        ValueError: an unknown name, a file that is damaged or of another version, or the puppet of a CNN that cannot be
            imported here.
    """
    arrays, about = _open(name)
    try:
        return model_of(about, arrays)
    except Exception as error:  # the header can say anything, and so can the error that it causes
        raise ValueError(f"load_pretrained: {os.fspath(name)!r}: {error}") from error


def pretrained_info(name: str | os.PathLike) -> Mapping[str, Any]:
    """What the file of a model says about it: what it is created from, classes, images, recipe, accuracy; ``bytes`` is
    its size.

    Args:
        name: as of :func:`load_pretrained`.

    Raises:
        ValueError: as :func:`load_pretrained`.
    """
    return _open(name)[1]


def locate(name: str | os.PathLike) -> Path:
    """The folder of a run, or the file of a released model or of one of the package.

    Raises:
        ValueError: it is none of these.
    """
    text = os.fspath(name)
    path = Path(text)
    of_package = _of_package()
    try:
        if path.is_dir() or (path.exists() and path.suffix == SUFFIX):
            return path
        found = (
            f"is no folder, and no {SUFFIX} file (puppet_jax.load opens exports)" if path.exists() else "does not exist"
        )
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        found = f"cannot be read ({error})"
    if text in of_package and found == "does not exist":
        return of_package[text]
    near = difflib.get_close_matches(text, of_package, n=1)
    raise ValueError(
        f"{text} {found}, expected the folder of a run (python -m train names it last), a released {SUFFIX} "
        f"file, or a pretrained model ({', '.join(of_package) or 'there is none'})"
        f"{f'; did you mean {near[0]}?' if near else ''}"
    )


def parameters_file(path: Path) -> Path:
    """The file with the parameters of what :func:`locate` has found, which a run may not have written yet."""
    return path / PARAMETERS if path.is_dir() else path


def weights_folder() -> Path:
    """Where the package keeps the models that come with it."""
    return Path(str(resources.files("puppet_jax") / "weights"))


def _of_package() -> dict[str, Path]:
    return {file.stem: file for file in sorted(weights_folder().glob(f"*{SUFFIX}"))}


def _open(name: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        path = parameters_file(locate(name))
    except ValueError as error:
        raise ValueError(f"load_pretrained: {error}") from error
    try:
        arrays, about = read(path)
    except ValueError as error:
        raise ValueError(f"load_pretrained: {os.fspath(path)!r}: {error}") from error
    return arrays, about | {"bytes": path.stat().st_size}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parameters in a model's file by their dotted names, such as ``puppet.head_bias``, and what it says of them.

    Raises:
        ValueError: it is not a whole safetensors file, of another version or program, or holds no numbers.
    """
    import safetensors  # only here, so that nothing else needs it

    if not path.is_file():  # opening a named pipe would wait for its writer
        raise ValueError("no such file yet, or not a regular file; a run writes it after its first epoch")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        about = json.loads(metadata.get(KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"not a whole safetensors file of a model ({error}); it is truncated, corrupt or of another format. Take "
            "another copy"
        ) from error
    found = about.get("format", metadata.get("format")) if isinstance(about, dict) else None
    if found != FORMAT:
        whose = "version of puppet-jax" if str(found).startswith("puppet-jax ") else "program"
        raise ValueError(
            f"of another {whose} (format {str(found)[:60]!r}, expected {FORMAT!r}); use that, or train again"
        )
    arrays = unpack(packed)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"damaged, {name} holds values that are no numbers; take another copy")
    return arrays, about


def model_of(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PuppetCNN:
    """The model that a file describes, with its parameters, in evaluation mode.

    Nothing is allocated before what is described is found to fit the arrays, unless it computes with numbers while it
    is made.

    Raises:
        ValueError: the arrays do not fit; or as :func:`create` and :func:`puppetize`.
    """
    make = functools.partial(build, about["create"], about["image_size"])
    model = outline(make)
    assign(model, arrays)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))):
        model = make()  # it has more than parameters: random streams, averages
        assign(model, arrays)
    model.image_shape = *about["image_size"], about["create"]["in_channels"]
    model.classes = tuple(about["class_names"])
    model.eval()
    return model


def build(described: Mapping[str, Any], image_size: Sequence[int], seed: int = 0) -> PuppetCNN:
    """A freshly initialised model of what a file has under ``create``; a CNN of one's own is traced on images of
    (height, width)."""
    sizes = {name: described[name] for name in ("num_classes", "in_channels")}
    names = [
        name for name in ("puppeteer", "puppeteer_options", "compression", "exits") if described.get(name) is not None
    ]
    options = {name: described[name] for name in names}
    options |= {"measurement": Measure(**described["measurement"]), "rngs": nnx.Rngs(seed)}
    if described.get("model") is None:
        dtype = jnp.dtype(described.get("dtype", "float32"))
        return create(described["name"], width=described.get("width"), dtype=dtype, **sizes, **options)
    module = named_function(described["model"])(**sizes, rngs=nnx.Rngs(seed))
    shape = (*image_size, sizes["in_channels"])
    return puppetize(module, image_shape=shape, batch_norm=described.get("batch_norm"), **options)


def outline(make: functools.partial) -> PuppetCNN:
    """The model that ``make`` makes with shapes in place of arrays, as far as that can be: made without computing."""
    try:
        return nnx.eval_shape(make)
    except jax.errors.ConcretizationTypeError:  # a function of the user's computes with numbers while it makes its net
        return make()


def flat(params: Mapping) -> dict[str, np.ndarray]:
    """Parameters by dotted name, for example ``puppet.head_bias``, on the host."""
    # safetensors writes an array's memory as it lies, whatever its strides say.
    return {leaf_name(path): np.asarray(leaf, order="C") for path, leaf in jax.tree.leaves_with_path(params)}


def assign(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays into a model, or the shapes of one, in place; nothing is changed unless all of them fit.

    Raises:
        ValueError: a parameter is missing, unknown, or of another shape or dtype; names the first few.
    """
    params = nnx.state(model, nnx.Param)
    expected = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    wrong = [f"{name} is missing" for name in expected.keys() - arrays.keys()]
    wrong += [f"{name} is not a parameter of this model" for name in arrays.keys() - expected.keys()]
    for name in expected.keys() & arrays.keys():
        got, want = (f"{a.dtype}{list(a.shape)}" for a in (arrays[name], expected[name]))
        if got != want:
            wrong.append(f"{name} is {got}, expected {want}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise ValueError(f"the parameters do not fit the model: {shown}. Make the model that they were saved from")
    nnx.update(model, jax.tree.map_with_path(lambda path, _: jnp.asarray(arrays[leaf_name(path)]), params))
