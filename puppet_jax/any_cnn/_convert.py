"""A module made into a puppet: its convolutions found and replaced, its blocks gated, its normalisation chosen."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax

from puppet_jax._integers import image_shape_of
from puppet_jax.any_cnn._blocks import Blocks, families, levels_of, named_paths, number_of_depths
from puppet_jax.any_cnn._foreign import (
    Apply,
    ForeignPuppet,
    GeneratedKernel,
    gate,
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
    paths, kept = _generated(body, trials.convolutions)
    groups = families(body, paths) if blocks is None else [named_paths(body, entry) for entry in blocks]
    trials.watch(paths, [*paths, *itertools.chain(*groups)])
    skipping = Blocks(body, trials, groups, named=blocks is not None)
    sequences = skipping.sequences
    most = number_of_depths(sum(map(len, sequences)), max_depth)
    levels = levels_of([len(sequence) for sequence in sequences], most)
    level_of = dict(zip(itertools.chain(*sequences), itertools.chain(*levels), strict=True))
    # A convolution is needed from the greatest level of the blocks around it on.
    needs = {path: max([level_of[own] for own in level_of if is_inside(path, own)], default=1) for path in paths}

    convolutions = [at(body, path) for path in paths]
    for index, convolution in enumerate(convolutions):
        convolution.kernel = nnx.static(GeneratedKernel(index, convolution.param_dtype))
    for norm in norms:
        (use_groups if batch_norm == "group" else use_running)(norm)
    for path, least in level_of.items():
        if least > 1:
            gate(at(body, path), least, skipping.skips[path])
    dropouts = modules_of(body, nnx.Dropout).values()
    logits: tuple[int, ...] = getattr(trials.output, "shape", ())
    return ForeignPuppet(
        body=body,
        kernel_shapes=tuple(_kernel_shape(each) for each in convolutions),
        names=tuple(map(name_of, paths)),
        levels=tuple(needs.values()),
        sequences=tuple(map(tuple, levels)),
        blocks=tuple((name_of(path), level_of[path]) for path in itertools.chain(*sequences)),
        always=tuple((name_of(p), skipping.why_always(p)) for p in paths if needs[p] == 1),
        max_depth=most,
        kept=tuple((name_of(path), reason) for path, reason in kept),
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        num_classes=logits[1] if len(logits) == 2 else None,
        apply=apply,
        stream=rngs.fork().params if streams(body) or dropouts else None,
        deterministic=all(node.deterministic or node.rate == 0 for node in dropouts),
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
        if norm.axis not in (-1, (-1,)):
            raise ValueError(
                f'puppetize: batch_norm="group" needs channels on the last axis, {name_of(path)} has axis={norm.axis}; '
                'use "running", or write the layer with axis=-1'
            )
        if type(norm).__call__ is not nnx.BatchNorm.__call__:
            raise ValueError(
                f'puppetize: batch_norm="group" needs layers that compute as nnx.BatchNorm does, {name_of(path)} is a '
                f'{type(norm).__name__} with a __call__ of its own; use "running"'
            )
    return list(found.values())


def _generated(body: nnx.Module, called: list[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    convolutions = modules_of(body, nnx.Conv)
    shared = Counter(id(conv.kernel) for conv in convolutions.values())
    wrappers = [*modules_of(body, nnx.WeightNorm), *modules_of(body, nnx.SpectralNorm)]
    paths: list[Path] = []
    kept: list[tuple[Path, str]] = []
    for path in [*called, *(path for path in convolutions if path not in called)]:
        conv = convolutions[path]
        if path not in called:
            reason: str | None = "the forward does not call it"
        elif any(path[: len(wrapper)] == wrapper for wrapper in wrappers):
            reason = "nnx.WeightNorm or nnx.SpectralNorm around it reads the stored kernel"
        elif shared[id(conv.kernel)] > 1:
            reason = "shares its kernel with another convolution"
        else:
            reason = _reason(conv)
        if reason is None:
            paths.append(path)
        else:
            kept.append((path, reason))
    kept += [(path, "transposed convolutions are not generated") for path in modules_of(body, nnx.ConvTranspose)]
    if not paths:
        reasons = "; ".join(f"{name_of(path)}: {reason}" for path, reason in kept)
        raise ValueError(
            f"puppetize: no convolution whose kernel could be generated ({reasons or 'no nnx.Conv in the module'}); "
            "the module needs at least one two-dimensional nnx.Conv of equal sides"
        )
    return paths, kept


def _reason(conv: nnx.Conv) -> str | None:
    """Why a convolution's kernel cannot be generated, or ``None``."""
    size = tuple(conv.kernel_size)
    if type(conv).__call__ is not nnx.Conv.__call__:
        return f"{type(conv).__name__} does not compute as nnx.Conv does"
    if conv.conv_general_dilated is not lax.conv_general_dilated or conv.promote_dtype is not dtypes.promote_dtype:
        return "has a conv_general_dilated or promote_dtype of its own"
    if conv.kernel.shape != conv.kernel_shape:
        return f"its kernel has shape {conv.kernel.shape}, not {conv.kernel_shape}: stacked by nnx.vmap or nnx.scan"
    if len(size) != 2:
        return f"its kernel has {len(size)} spatial axes; two are generated"
    if size[0] != size[1]:
        return f"its kernel is {size[0]}×{size[1]}; puppeteers make kernels of equal sides"
    if conv.mask is not None:
        return "its kernel is masked"
    if math.prod(conv.kernel_shape[:3]) == 1:
        return "has one weight per output channel, which standardisation would make zero"
    return None


def _kernel_shape(conv: nnx.Conv) -> KernelShape:
    k, _, c_in, c_out = conv.kernel_shape
    return c_out, c_in, k, k
