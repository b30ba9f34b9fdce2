"""What JAX's types say of meshes: layouts along explicit axes, as ``jax.make_mesh`` makes them, which are left to the
compiler inside of this package as on any other mesh; and what varies within ``jax.shard_map``."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.sharding import AxisType, PartitionSpec, auto_axes
from jaxtyping import Array, Bool


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


def varying_alike(*trees: Any) -> tuple[Any, ...]:
    """Return the trees, each array varying over all axes of ``jax.shard_map`` that one of them does: what JAX asks of a
    primitive's operands, of the results of a branch and of what a loop carries."""

    def varies(array):
        kind: Any = jax.typeof(array)
        return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # older jax

    arrays, structure = jax.tree.flatten(trees)
    axes = frozenset().union(*map(varies, arrays))
    missing = [tuple(sorted(axes - varies(array))) for array in arrays]
    alike = [jax.lax.pcast(a, m, to="varying") if m else a for a, m in zip(arrays, missing, strict=True)]
    return jax.tree.unflatten(structure, alike)


class AlikePrimitive(Primitive):
    """A primitive whose operands are made to vary alike within ``jax.shard_map``.

    Attributes:
        formula: the same in JAX, if there is one, of its operands and static arguments.
    """

    formula: Callable[..., Any]

    def bind(self, *operands: Any, **static: Any) -> Any:
        return super().bind(*varying_alike(*operands), **static)


def cond(predicate: Bool[Array, ""], run: Callable[..., Any], skip: Callable[..., Any], *operands: Any) -> Any:
    """Return ``lax.cond`` of the same; within ``jax.shard_map`` results vary as the predicate and all operands do."""

    def alike(branch):
        return lambda *operands: varying_alike(branch(*operands), predicate, operands)[0]

    return jax.lax.cond(predicate, alike(run), alike(skip), *operands)
