"""What a model's forward does, learned from traces of it, and whether it does the same with stand-ins."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core

from puppet_jax.any_cnn._foreign import Apply, GeneratedKernel
from puppet_jax.any_cnn._module_graph import Path, at, leaf_name, modules_of, name_of
from puppet_jax.any_cnn._program import Program, marked
from puppet_jax.any_cnn._stand_in import stand_in

_TOLERANCE = 1e-4


@dataclasses.dataclass
class Trace:
    """One trace of the forward on one image.

    Attributes:
        program: what is computed.
        output: shapes and dtypes of the result, (1, …) each.
        convolutions: their paths in the order of their calls.
        calls: of each module that was watched, what its first argument and its result looked like, call by call.
    """

    program: Program
    output: Any
    convolutions: list[Path]
    calls: dict[Path, list[tuple]]


def trace_forward(body: nnx.Module, apply: Apply, image_shape: tuple[int, int, int]) -> Trace:
    """Trace a module's forward as it is.

    Raises:
        ValueError: the module cannot be called so, or returns something else than arrays (1, …).
    """
    body = nnx.clone(body)
    convolutions: list[Path] = []
    for path, conv in modules_of(body, nnx.Conv).items():

        def noted(*args, path=path, run=conv.conv_general_dilated, **kwargs):
            convolutions.append(path)
            return run(*args, **kwargs)

        conv.conv_general_dilated = noted
    program, output = _program(body, apply, image_shape, {})
    return Trace(program, output, list(dict.fromkeys(convolutions)), {})


def trace_watched(
    body: nnx.Module,
    apply: Apply,
    image_shape: tuple[int, int, int],
    generated: list[Path],
    watched: Iterable[Path],
) -> Trace:
    """The same with stand-ins for all that :func:`puppet_jax.puppetize` may replace: they do what stood there, with the
    same kernels, and say when."""
    body = nnx.clone(body)
    calls: dict[Path, list[tuple]] = {}
    kernels = {}
    for index, path in enumerate(generated):
        conv = at(body, path)
        kernels[f"{name_of(path)}.kernel"] = conv.kernel[...]
        conv.kernel = nnx.static(GeneratedKernel(index, conv.param_dtype))
    for norm in modules_of(body, nnx.BatchNorm).values():
        stand_in(norm, _as_it_is)
    for path in watched:
        module = at(body, path)
        module.puppet_note = nnx.static((path, calls))
        stand_in(module, _watched)
    program, output = _program(body, apply, image_shape, kernels)
    return Trace(program, output, generated, calls)


def _as_it_is(module, own, *args, **kwargs):
    return own(module, *args, **kwargs)


def _watched(module, own, *args, **kwargs):
    path, calls = module.puppet_note
    x = args[0] if args else None
    if _aval(x) is not None:
        args = marked(x, f"{name_of(path)}:in"), *args[1:]
    result = own(module, *args, **kwargs)
    calls.setdefault(path, []).append((_aval(x), _aval(result)))
    return result if _aval(result) is None else marked(result, f"{name_of(path)}:out")


def _aval(x):
    return (x.shape, x.dtype) if hasattr(x, "shape") and hasattr(x, "dtype") else None


def _program(body, apply, image_shape, kernels: dict[str, Any]) -> tuple[Program, Any]:
    graphdef, state = nnx.split(body)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def run(state, kernels, images):
        module = nnx.merge(graphdef, state, copy=True)
        for path, conv in modules_of(module, nnx.Conv).items():
            if isinstance(conv.kernel, GeneratedKernel):
                conv.conv_general_dilated = _with_its_own(conv.conv_general_dilated, kernels[f"{name_of(path)}.kernel"])
        return apply(module, images, nnx.Rngs(0))

    try:
        closed, output = jax.make_jaxpr(run, return_shape=True)(state, kernels, images)
    except Exception as error:
        told = str(error).splitlines() or [""]
        how = ", its kernels generated," if kernels else ""
        raise ValueError(
            f"puppetize: the module{how} could not be called on float32 images of shape {images.shape}, or does not "
            f"return arrays ({type(error).__name__}: {told[0][:300]}); correct image_shape, or tell how to call it, "
            "for example apply=lambda module, images, rngs: module(images, train=True)"
        ) from error
    leaves = jax.tree.leaves(output)
    if not leaves or any(leaf.shape[:1] != (1,) for leaf in leaves):
        raise ValueError(
            f"puppetize: the module must return arrays (1, …), the batch first, for images {images.shape}, got shapes "
            f"{', '.join(str(leaf.shape) for leaf in leaves) or 'none'}; pick them out with apply="
        )
    labels = [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path((state, kernels))]
    # A name begins with its place in the pair (state, kernels); leave that out.
    labels = [label.partition(".")[2] for label in labels]
    return Program(closed, [*labels, "images"], jax.tree.leaves((state, kernels))), output


def _with_its_own(run, kernel):
    return lambda inputs, _, *args, **kwargs: run(inputs, kernel.astype(inputs.dtype), *args, **kwargs)


def check_same(module: Program, stand_ins: Program, image_shape: tuple[int, int, int]) -> None:
    """Raise ``ValueError`` if the forward with stand-ins computes something else than the module.

    What is written alike is the same. What is not is computed, on a random image.
    """
    table: dict = {}
    if module.numbers(table) == stand_ins.numbers(table):
        return
    off = float("nan")
    image = np.random.default_rng(0).random((1, *image_shape), np.float32)
    if not any(isinstance(each, jax.core.Tracer) for each in (*module.operands, *stand_ins.operands)):
        runs = (jax.jit(core.jaxpr_as_fun(each.closed))(*each.operands, image) for each in (module, stand_ins))
        expected, found = (jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), run) for run in runs)
        most = max(float(jnp.max(jnp.abs(e))) for e in expected)
        off = max(float(jnp.max(jnp.abs(f - e))) for f, e in zip(found, expected, strict=True)) / (most or 1.0)
    if not off <= _TOLERANCE:
        raise ValueError(
            f"puppetize: with the module's own kernels the puppet is off by {off:.2g} of the largest output: the "
            "forward looks at what puppetize has to replace, such as type(layer) is nnx.BatchNorm (use isinstance) or "
            "a convolution's kernel; write it without"
        )
