"""Meshes with explicit axes, as ``jax.make_mesh`` makes them: their layout is part of an array's type, and is left to
the compiler inside of this package, as it is for any other mesh."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes
from jaxtyping import Array


def of_any_mesh(function: Callable[..., Any], *arguments: Any, images: Array, batch_axes: int) -> Any:
    """``function(*arguments, images)``; results are laid out as the images are along their ``batch_axes`` first axes.

    Without explicit axes it is just that.
    """
    mesh = jax.typeof(images).sharding.mesh
    here = jax.sharding.get_abstract_mesh()
    if AxisType.Explicit not in (*mesh.axis_types, *here.axis_types):
        return function(*arguments, images)
    spec = PartitionSpec(*jax.typeof(images).sharding.spec[:batch_axes])
    known = isinstance(images, jax.core.Tracer) or here == mesh
    sharding: Any = None if known else images.sharding
    # Images may be laid out on a mesh that is not the surrounding one.
    there: Any = sharding.mesh if isinstance(sharding, NamedSharding) else None
    around = contextlib.nullcontext() if there is None else jax.set_mesh(there)
    with around:
        return auto_axes(function, out_sharding=spec)(*arguments, images)
