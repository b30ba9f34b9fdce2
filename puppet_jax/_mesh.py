"""What JAX's types say of meshes: layouts along explicit axes, as ``jax.make_mesh`` makes them, which are left to the
compiler inside of this package as on any other mesh; and what varies within ``jax.shard_map``."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec, auto_axes
from jaxtyping import Array


def of_any_mesh(function: Callable[..., Any], *arguments: Any, images: Array, batch_axes: int) -> Any:
    """Return ``function(*arguments, images)``, whether or not the images, or what surrounds them, are on such a mesh.

    On one, results are laid out as the images are along their first ``batch_axes`` axes.
    """
    mesh, surrounding = jax.typeof(images).sharding.mesh, jax.sharding.get_abstract_mesh()
    if AxisType.Explicit not in (*mesh.axis_types, *surrounding.axis_types):
        return function(*arguments, images)
    spec = PartitionSpec(*jax.typeof(images).sharding.spec[:batch_axes])
    within: Any
    if mesh.empty or mesh == surrounding:
        within = contextlib.nullcontext()
    elif isinstance(images, jax.core.Tracer):
        within = jax.sharding.use_abstract_mesh(mesh)
    else:
        within = jax.set_mesh(images.sharding.mesh)  # type: ignore[attr-defined]
    with within:
        return auto_axes(function, out_sharding=spec)(*arguments, images)


def varying_alike(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays, each varying over all axes of ``jax.shard_map`` that one does: primitives ask for it."""

    def varies(array):
        kind: Any = jax.typeof(array)
        return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # older jax

    axes = frozenset().union(*map(varies, arrays))
    missing = [tuple(sorted(axes - varies(array))) for array in arrays]
    return tuple(jax.lax.pcast(a, m, to="varying") if m else a for a, m in zip(arrays, missing, strict=True))
