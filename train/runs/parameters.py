"""Parameters as a safetensors file: no pickle, flat dotted names, the configuration in its header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

import puppet_jax as pj
from puppet_jax._pretrained import parameter_name
from puppet_jax._stored_dtype import unpack
from train import atomic_file
from train.build import build
from train.config import ResolvedConfig, from_json
from train.errors import UserError
from train.terminal import printable

FORMAT = "puppet-jax parameters 3"


def save(path: Path, params: nnx.State, about: dict[str, Any]) -> None:
    """Write parameters so that ``path`` holds, at every moment, either the old file or the whole new one.

    Args:
        path: the file, ``params.safetensors`` by custom.
        params: the model's ``nnx.Param`` state, ``nnx.state(model, nnx.Param)``.
        about: JSON values kept in the header; :func:`restore` needs ``config`` and ``model``.
    """
    header = {"format": FORMAT, "about": json.dumps(about)}
    atomic_file.write(path, safetensors.numpy.save(flat(params), metadata=header))


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of :func:`save`.

    Returns:
        the arrays by dotted name, and what was saved about them.

    Raises:
        UserError: no such file, not a safetensors file or a truncated one, or one from another program.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
        arrays = arrays_of(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected the params.safetensors of a run") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); it is truncated, corrupt or of another format. Take "
            "another copy, or train again"
        ) from error
    check_format(str(path), header.get("format"))
    return arrays, json.loads(header["about"])


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file by their names, unpacked, whatever its header says."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return unpack({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, no mapping


def check_format(name: str, found: str | None) -> None:
    """Refuse a safetensors file that is not of this version.

    Raises:
        UserError: says whose it is, as far as that can be told.
    """
    if found != FORMAT:
        said = printable(str(found))[:60]
        whose = "version of puppet-jax" if said.startswith(FORMAT.rstrip("0123456789")) else "program"
        raise UserError(f"{name}: of another {whose} (format {said}, expected {FORMAT}); use that, or train again")


def assign(model: nnx.Module, arrays: dict[str, np.ndarray]) -> None:
    """Put loaded arrays into a model, or the shapes of one, in place; nothing is changed unless all of them fit.

    Raises:
        UserError: a parameter is missing, unknown, or of another shape or dtype; names the first few.
    """
    params = nnx.state(model, nnx.Param)
    expected = {parameter_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    wrong = [f"{name} is missing" for name in expected.keys() - arrays.keys()]
    wrong += [f"{name} is not a parameter of this model" for name in arrays.keys() - expected.keys()]
    for name in expected.keys() & arrays.keys():
        got, want = (f"{a.dtype}{list(a.shape)}" for a in (arrays[name], expected[name]))
        if got != want:
            wrong.append(f"{name} is {got}, expected {want}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise UserError(f"the parameters do not fit the model: {shown}. Make the model that they were saved from")
    nnx.update(model, jax.tree.map_with_path(lambda path, _: jnp.asarray(arrays[parameter_name(path)]), params))


def restore(path: Path) -> tuple[pj.PuppetCNN, ResolvedConfig]:
    """The trained model of a run, and the configuration it was trained with.

    Raises:
        UserError: as :func:`load` and :func:`assign`.
    """
    arrays, about = load(path)
    try:
        config = from_json(about["config"])
        model = build(config, **about["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its configuration is not one that this version knows ({type(error).__name__}: {error})"
        ) from error
    assign(model, arrays)
    return model, config


def flat(params: nnx.State) -> dict[str, np.ndarray]:
    """Parameters as host arrays by dotted name, for example ``puppet.head_bias``."""
    # safetensors writes an array's memory as it lies, whatever its strides say.
    return {parameter_name(path): np.asarray(leaf, order="C") for path, leaf in jax.tree.leaves_with_path(params)}


def digest(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a text and of arrays, their names, types and shapes."""
    found = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
