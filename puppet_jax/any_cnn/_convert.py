"""A module made into a puppet: its convolutions found and replaced, its blocks gated, its normalisation chosen."""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from flax import nnx
from jax import lax

from puppet_jax._integers import image_shape_of
from puppet_jax.any_cnn._blocks import Blocks, families, levels_of, named_paths, number_of_depths
from puppet_jax.any_cnn._convolution import transposed
from puppet_jax.any_cnn._foreign import (
    CONVOLUTIONS,
    Apply,
    ForeignPuppet,
    GeneratedKernel,
    gate,
    kernel_shape,
    stand_in,
    streams,
    use_groups,
    use_running,
)
from puppet_jax.any_cnn._modules import Path, at, is_inside, modules_of, name_of
from puppet_jax.any_cnn._trials import Trials
from puppet_jax.puppeteers import KernelShape


def foreign_puppet(
    module: nnx.Module,
    *,
    image_shape: tuple[int, int, int],
    batch_norm: Literal["group", "running"] | None = None,
    blocks: Sequence[str | Sequence[str]] | None = None,
    max_depth: int | None = None,
    apply: Apply | None = None,
    rngs: nnx.Rngs,
) -> ForeignPuppet:
    """Make the puppet of a module; see :func:`puppet_jax.puppetize`, whose arguments and errors these are."""
    image_shape = image_shape_of(image_shape, "puppetize")
    if isinstance(blocks, str):
        raise ValueError(f"puppetize: blocks must be a sequence of names, got {blocks!r}; use blocks=[{blocks!r}]")
    apply = apply or _call
    body = nnx.clone(module)
    norms = _batch_norms(body, batch_norm)

    trials = Trials(body, apply, image_shape)
    sharing, kept = _generated(body, trials)
    paths = [path for each in sharing for path in each]
    groups = families(body, paths) if blocks is None else [named_paths(body, entry) for entry in blocks]
    trials.watch(paths, [*paths, *itertools.chain(*groups)])
    if trials.written:
        warnings.warn(
            f"puppetize: the forward changes {', '.join(sorted(trials.written))}, which stay as they are in a puppet: "
            "it calls a copy of the module for each image, and what that writes is lost",
            stacklevel=3,
        )
    skipping = Blocks(body, trials, groups, named=blocks is not None)
    sequences = skipping.sequences
    most = number_of_depths(sum(map(len, sequences)), max_depth)
    levels = levels_of([len(sequence) for sequence in sequences], most)
    level_of = dict(zip(itertools.chain(*sequences), itertools.chain(*levels), strict=True))
    # A convolution is needed from the greatest level of the blocks around it on.
    needs = {path: max([level_of[own] for own in level_of if is_inside(path, own)], default=1) for path in paths}

    kernels: list[tuple[KernelShape, str, int]] = []
    for layers in sharing:
        own = at(body, layers[0])
        stack = own.kernel.shape[: -len(own.kernel_shape)]
        for conv, level in [(at(body, path), needs[path]) for path in layers]:
            conv.kernel = nnx.static(GeneratedKernel(len(kernels), conv.param_dtype, level, stack))
            if isinstance(conv, nnx.ConvTranspose):
                stand_in(conv, transposed)
        of_stack = [f"{name_of(layers[0])}.{i}" for i in range(math.prod(stack))] if stack else [name_of(layers[0])]
        kernels += [(kernel_shape(own), name, min(needs[path] for path in layers)) for name in of_stack]
    for norm in norms:
        (use_groups if batch_norm == "group" else use_running)(norm)
    for path, least in level_of.items():
        if least > 1:
            gate(at(body, path), least, skipping.skips[path])
    flags = [getattr(each, "deterministic", None) for each in modules_of(body, nnx.Module).values()]
    logits: tuple[int, ...] = getattr(trials.output, "shape", ())
    return ForeignPuppet(
        body=body,
        kernel_shapes=tuple(shape for shape, _, _ in kernels),
        names=tuple(name for _, name, _ in kernels),
        levels=tuple(level for _, _, level in kernels),
        sequences=tuple(map(tuple, levels)),
        blocks=tuple((name_of(path), level_of[path]) for path in itertools.chain(*sequences)),
        always=tuple((name_of(p), skipping.why_always(p)) for p in paths if needs[p] == 1),
        max_depth=most,
        kept=tuple(kept),
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        num_classes=logits[1] if len(logits) == 2 else None,
        apply=apply,
        stream=rngs.fork().params if trials.draws or streams(body) or modules_of(body, nnx.Dropout) else None,
        # Whether it is in evaluation mode as it comes, or does not draw.
        deterministic=not trials.draws or (True in flags and False not in flags),
    )


def _call(module, images, rngs):
    del rngs
    return module(images)


def _batch_norms(body: nnx.Module, choice: str | None) -> list[nnx.BatchNorm]:
    found = modules_of(body, nnx.BatchNorm)
    if choice not in (None, "group", "running"):
        raise ValueError(f'puppetize: batch_norm must be "group", "running" or None, got {choice!r}')
    if found and choice is None:
        names = ", ".join(map(name_of, list(found)[:3])) + (", …" if len(found) > 3 else "")
        raise ValueError(
            f"puppetize: the module has {len(found)} nnx.BatchNorm ({names}), whose batch statistics would make an "
            'image\'s logits depend on its neighbours, which have other kernels; choose batch_norm="group" (each '
            'image\'s own statistics, same scale and shift: for training) or "running" (the running averages, fixed: '
            "the module in evaluation mode)"
        )
    for path, norm in found.items() if choice == "group" else ():
        if norm.axis not in (-1, (-1,)) or type(norm).__call__ is not nnx.BatchNorm.__call__:
            raise ValueError(
                f'puppetize: batch_norm="group" needs layers that compute as nnx.BatchNorm does, channels last, '
                f'{name_of(path)} is a {type(norm).__name__} with axis={norm.axis}; use "running"'
            )
    return list(found.values())


def _generated(body: nnx.Module, trials: Trials) -> tuple[list[list[Path]], list[tuple[str, str]]]:
    """The layers whose kernels are generated, those that share one together; and what stays stored, with the reason."""
    layers, nodes = modules_of(body, CONVOLUTIONS), nnx.iter_graph(body)
    names = {id(node): name_of(path) for path, node in nodes if isinstance(node, nnx.Variable)}
    sharing: dict[str, list[Path]] = {}
    for path in dict.fromkeys([*trials.convolutions, *layers]):
        sharing.setdefault(names[id(layers[path].kernel)], []).append(path)
    generated: list[list[Path]] = []
    kept: list[tuple[str, str]] = []
    for name, paths in sharing.items():
        convolutions = [layers[path] for path in paths]
        uncalled = not set(paths) <= set(trials.convolutions)
        if name in trials.kernels:
            reason: str | None = "the forward takes its kernel and convolves with it by itself"
        elif uncalled:
            reason = "the forward does not call it"
        elif name in trials.read:
            reason = "the forward reads or changes its kernel (a mask, a norm of the weights, a penalty, …)"
        elif len({(isinstance(conv, nnx.Conv), conv.kernel_size, *kernel_shape(conv)) for conv in convolutions}) > 1:
            reason = "shares its kernel with a layer of another kind"
        else:
            reason = next(filter(None, map(_reason, convolutions)), None)
        if reason is None:
            generated.append(paths)
        else:
            kept += [(name_of(path), reason) for path in paths]
    reason = "it is no layer's kernel: the forward convolves with it by itself"
    kept += [(name, reason) for name in sorted(trials.kernels - set(sharing))]
    if not generated:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept)
        raise ValueError(
            f"puppetize: no convolution whose kernel could be generated ({reasons or 'no nnx.Conv in the module'}); "
            "the module needs at least one nnx.Conv or nnx.ConvTranspose that the forward calls"
        )
    return generated, kept


def _reason(conv: Any) -> str | None:
    """Why a convolution's kernel cannot be generated, or ``None``."""
    stack, shape = conv.kernel.shape[: -len(conv.kernel_shape)], conv.kernel_shape
    if len(shape) > 5 or conv.kernel.shape != (*stack, *shape):
        return (
            f"its kernel has shape {conv.kernel.shape}; generated are those of up to three axes, stacked by the first"
        )
    if math.prod(shape[:-1]) == 1:
        return "has one weight per output channel, which standardisation would make zero"
    if isinstance(conv, nnx.Conv):
        own = conv.conv_general_dilated is not lax.conv_general_dilated
        return "has a conv_general_dilated of its own" if own else None
    plain = type(conv).__call__ is nnx.ConvTranspose.__call__ and conv.padding != "CIRCULAR"
    if plain and not stack and not conv.transpose_kernel:
        return None
    return "a transposed convolution that is stacked, circular, with transpose_kernel, or has a __call__ of its own"
