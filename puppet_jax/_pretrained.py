"""Trained models that come with the package: tens of kilobytes each, since only what generates is stored."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from puppet_jax._measure import Measure
from puppet_jax._model import PuppetCNN, create
from puppet_jax._named_function import is_function_name, named_function
from puppet_jax._stored_dtype import unpack
from puppet_jax.any_cnn._puppetize import puppetize

FORMAT = "puppet-jax model 4"
KEY = "puppet_jax"
"""Of all that a file says about its model, as JSON. One key: the format writes several in no fixed order."""

_DAMAGED = "load_pretrained: the file of {!r} is damaged{}; install the package anew"


def list_pretrained() -> tuple[str, ...]:
    """The names that :func:`load_pretrained` knows."""
    folder = resources.files("puppet_jax") / "weights"
    if not folder.is_dir():
        return ()
    return tuple(sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".safetensors")))


def load_pretrained(name: str) -> PuppetCNN:
    """A trained model that comes with the package.

    Beside the weights lies a model card, ``weights/NAME.md``: data, recipe, accuracy, limits. The names of the classes
    and the accuracy are in :func:`pretrained_info`.

    Args:
        name: one of :func:`list_pretrained`, for example ``"puppet_s_cifar10"``.

    Raises:
        ValueError: an unknown name, a file that is damaged, or the puppet of a CNN that cannot be imported here.
    """
    arrays, about = _open(name)
    described = about["create"]

    def made() -> PuppetCNN:
        sizes = {name: described[name] for name in ("num_classes", "in_channels")}
        options = {
            name: described[name] for name in ("puppeteer", "puppeteer_options", "compression") if name in described
        }
        options |= {"measurement": Measure(**described["measurement"]), "rngs": nnx.Rngs(0)}
        if "model" not in described:
            return create(described["name"], width=described["width"], **sizes, **options)
        module = named_function(described["model"])(**sizes, rngs=nnx.Rngs(0))
        shape = (*about["image_size"], sizes["in_channels"])
        return puppetize(module, image_shape=shape, batch_norm=described["batch_norm"], **options)

    if "model" in described or is_function_name(described["puppeteer"]):
        model = made()  # it may compute with numbers, and have more than parameters
        model.eval()
    else:
        model = nnx.eval_shape(made)  # parameters to be replaced need not be drawn, which takes seconds to compile
    params = nnx.state(model, nnx.Param)
    structure: Any
    leaves, structure = jax.tree.flatten_with_path(params)
    names = [parameter_name(path) for path, _ in leaves]
    expected = {name: leaf.shape for name, (_, leaf) in zip(names, leaves, strict=True)}
    if expected != {name: array.shape for name, array in arrays.items()}:
        raise ValueError(f"load_pretrained: the weights of {name!r} do not fit its model; install the package anew")
    nnx.update(model, structure.unflatten([jnp.asarray(arrays[each]) for each in names]))
    return model


def pretrained_info(name: str) -> Mapping[str, Any]:
    """What the file of a pretrained model says about it: how to create it, classes, data, recipe, accuracy; ``bytes``
    is its size.

    Raises:
        ValueError: as :func:`load_pretrained`.
    """
    return _open(name)[1]


def parameter_name(path: tuple) -> str:
    """The dotted name of a parameter, for example ``puppet.head_bias``, from its path in the state."""
    # A Variable's path ends with the attribute that holds its value, which is no part of the name.
    return ".".join(str(entry.key) for entry in path if hasattr(entry, "key"))


def _open(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if name not in list_pretrained():
        raise ValueError(f"load_pretrained: unknown model {name!r}; there are {', '.join(list_pretrained()) or 'none'}")
    import safetensors.numpy  # only here, so that nothing else needs it

    content = (resources.files("puppet_jax") / "weights" / f"{name}.safetensors").read_bytes()
    try:
        arrays = safetensors.numpy.load(content)
        # The header, as the format defines it: its length as eight bytes, then JSON.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        about = {**json.loads(header[KEY]), "bytes": len(content)}
        good = about["format"] == FORMAT and all(np.isfinite(array).all() for array in unpack(arrays).values())
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_DAMAGED.format(name, f" ({error})")) from error
    if not good:
        raise ValueError(_DAMAGED.format(name, ""))
    return unpack(arrays), about
