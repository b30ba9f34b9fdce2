"""``puppetize``: any Flax NNX model as the puppet, in one line. Its convolutions are found and then generated."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax

from puppet_jax._measure import Measure
from puppet_jax._model import PuppetCNN, continuous_of, puppeteer_of, warn_if_larger
from puppet_jax.any_cnn._batch_norm import use_groups, use_running
from puppet_jax.any_cnn._blocks import Blocks, families, named_paths
from puppet_jax.any_cnn._depth_levels import MOST_DEPTHS, levels_of, number_of_depths
from puppet_jax.any_cnn._foreign import Apply, ForeignPuppet, GeneratedKernel, Skip, gate, streams
from puppet_jax.any_cnn._module_graph import Path, at, is_inside, modules_of, name_of
from puppet_jax.any_cnn._module_trace import Trace, check_same, trace_forward, trace_watched
from puppet_jax.puppeteers import Puppeteer
from puppet_jax.puppeteers._base import KernelShape


def puppetize(
    module: nnx.Module,
    puppeteer: str | Callable[..., Puppeteer] = "continuous",
    *,
    image_shape: tuple[int, int, int],
    batch_norm: Literal["group", "running"] | None = None,
    blocks: Sequence[str | Sequence[str]] | None = None,
    max_depth: int | None = None,
    apply: Apply | None = None,
    compression: float | int = 10,
    puppeteer_options: Mapping | None = None,
    measurement: Measure | None = None,
    rngs: nnx.Rngs,
) -> PuppetCNN:
    """Make a puppet of a CNN that was written for stored kernels; the module itself is left as it is.

    ```python
    net = ResNet20(num_classes=10, rngs=nnx.Rngs(0))  # your model: nnx.Conv, nnx.BatchNorm, nnx.List of blocks, …
    model = pj.puppetize(net, "continuous", image_shape=(32, 32, 3), batch_norm="group", rngs=nnx.Rngs(1))
    logits = model(images)  # as any PuppetCNN: own kernels and depth for each image; jit, grad, vmap
    print(pj.summary(model), model.puppet.kept)  # parameters before and after; what stays stored, and why
    predict = pj.compile_predict(model)  # kernels baked for each bin, no generation left
    ```

    **Kernels.** Generated are the kernels of every ``nnx.Conv`` that the forward calls: two-dimensional, of equal
    sides, with any stride, padding, dilation and number of groups. They are ordered by their first calls, and have
    shapes (C_out, C_in / groups, K, K). Convolutions of other kinds stay stored; ``model.puppet.kept`` lists them with
    the reason, ``model.puppet.names`` those that are generated. Biases, normalisation and dense layers stay stored.

    **Depth.** Modules that stand side by side, in a list (``nnx.List``, ``nnx.Sequential``) or as numbered attributes
    (``block1``, ``block2``), of one class and with parameters of equal shapes, that contain a generated convolution,
    are called once and may be skipped, are a *sequence of blocks*; an image skips the blocks beyond its depth. The
    rest always runs. Single convolutions are blocks in lists only. What then stands for a block's result is
    read off a trace of the forward (:class:`Blocks`), so that what is left is as if its branch were zero: its argument,
    where the result looks like it; zero, where the forward itself adds the result to the block's argument, or appends
    it to other channels, as dense blocks do. A block whose result meets its argument in another way always runs.
    ``model.puppet.blocks`` lists blocks with the least depth that runs them, ``model.puppet.always`` convolutions that
    every image runs, with the reason. Let there be n blocks in all sequences, and depths D in 1 … L = ``max_depth``. At
    depth D, ⌈n·D / L⌉ blocks run, and at least the first of each sequence: those of least (i − 1) / n_s, where i = 1 …
    n_s is the block's place in its sequence s, earlier sequences first. So sequences fill up evenly, a deeper image
    runs what a shallower one does, and D = L runs everything.

    **Check.** Before it returns, the forward is traced with stand-ins for all that is replaced and the module's own
    kernels. It must be the module's own program, or compute the same on a random image.

    **Normalisation with batch statistics** cannot be kept: a batch's statistics would make an image's logits depend on
    its neighbours, which have other kernels. So a model with ``nnx.BatchNorm`` needs a choice. ``"group"``:
    normalisation over groups of channels of one image, with the layer's scale, shift and epsilon; for training.
    ``"running"``: its running averages, in training too, never updated; exactly the model in evaluation mode, for
    kernels that are the model's own or are trained to fit its averages. Fresh averages (0 and 1) normalise nothing.

    **Random streams** (``nnx.Dropout``) are made from each image's number in the batch. In training mode
    (``model.train()``; ``model.eval()`` ends it) every call moves them on by one, which changes ``model``'s
    state: under ``jax.jit`` carry it, as for any NNX model, or use ``nnx.jit``. In evaluation mode they stand still.

    Args:
        module: takes images (N, H, W, C) and returns logits (N, num_classes), or any tree of arrays (N, …).
        puppeteer: a name or a function, as in :func:`create`. Layers are numbered by the order of their calls;
            ``"continuous"`` gets ``omega_depth`` 10 · 8 / layers beyond eight layers, unless told otherwise.
        image_shape: (H, W, C) of the images; the module is traced on one, without computing anything.
        batch_norm: ``"group"`` or ``"running"``, see above.
        blocks: instead of the sequences found: each entry the name of a list of blocks, such as ``"stage1"``, or a
            list of blocks' names, such as ``["block1", "features.layers.2"]``. ``()``: every image runs everything.
        max_depth: L; the default is n, but at most 8: for H in bits D(H) is at most 8.
        apply: how to call the module, ``apply(module, images, rngs)``: for images (1, H, W, C) that it wants
            normalised otherwise than float in [0, 1], for further arguments, for random streams that it takes as an
            argument. The default is ``module(images)``. A lambda made anew compiles anew.
        compression: the module's kernel parameters over those of the ``"continuous"`` puppeteer, at least: its basis,
            rank and network are solved for (see :class:`GroupedPuppeteer`), unless ``puppeteer_options`` name one of
            them. :func:`summary` tells what came out.
        puppeteer_options: arguments for the puppeteer's constructor.
        measurement: which complexity, and whether depth follows it.
        rngs: Flax random streams.

    Raises:
        TypeError: ``module`` is not an ``nnx.Module``, or an option that the puppeteer does not have.
        ValueError: an unknown puppeteer or option, batch normalisation without a choice, a module that cannot be
            called on such images, does not return arrays (1, …) or looks at what is replaced, no convolution that can
            be generated, or ``blocks`` that are not there or cannot be skipped.

    Warns:
        UserWarning: the puppeteer stores more than the kernels that it makes.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"puppetize: module must be a flax.nnx.Module, got {type(module).__name__}")
    make, options = puppeteer_of(puppeteer, "puppetize"), dict(puppeteer_options or {})
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"puppetize: image_shape must be (height, width, channels), all positive, got {image_shape}")
    if isinstance(blocks, str):
        raise ValueError(f"puppetize: blocks must be a sequence of names, got {blocks!r}; use blocks=[{blocks!r}]")
    apply = apply or _call
    body = nnx.clone(module)
    norms = _batch_norms(body, batch_norm)

    trace = trace_forward(body, apply, image_shape)
    paths, kept = _generated(body, trace)
    groups = families(body, paths) if blocks is None else [named_paths(body, entry) for entry in blocks]
    watched = trace_watched(body, apply, image_shape, paths, dict.fromkeys([*paths, *itertools.chain(*groups)]))
    check_same(trace.program, watched.program, image_shape)
    skipping = Blocks(body, watched)
    sequences = skipping.sequences(groups) if blocks is None else skipping.named(groups)
    most = number_of_depths(sum(map(len, sequences)), max_depth, "puppetize")
    levels = levels_of([len(sequence) for sequence in sequences], most)
    level_of = dict(zip(itertools.chain(*sequences), itertools.chain(*levels), strict=True))
    skips = {path: skipping.able(path) for path in level_of}
    for path, least in [*level_of.items()]:
        for conv in skipping.only_for(path, paths) if least > 1 else ():
            level_of[conv], skips[conv] = max(least, level_of.get(conv, 1)), Skip("zero")
    # A convolution is needed from the greatest level of the blocks around it on.
    needs = {path: max([level_of[own] for own in level_of if is_inside(path, own)], default=1) for path in paths}

    convolutions = [at(body, path) for path in paths]
    for index, convolution in enumerate(convolutions):
        convolution.kernel = nnx.static(GeneratedKernel(index, convolution.param_dtype))
    for norm in norms:
        (use_groups if batch_norm == "group" else use_running)(norm)
    for path, least in level_of.items():
        if least > 1:
            gate(at(body, path), least, skips[path])
    logits: tuple[int, ...] = getattr(trace.output, "shape", ())
    puppet = ForeignPuppet(
        body,
        kernel_shapes=tuple(_kernel_shape(each) for each in convolutions),
        names=tuple(map(name_of, paths)),
        levels=tuple(needs.values()),
        sequences=tuple(map(tuple, levels)),
        blocks=tuple((name_of(path), level_of[path]) for path in itertools.chain(*sequences)),
        always=tuple((name_of(p), skipping.why_always(p, groups, sequences)) for p in paths if needs[p] == 1),
        max_depth=most,
        kept=tuple((name_of(path), reason) for path, reason in kept),
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        num_classes=logits[1] if len(logits) == 2 else None,
        apply=apply,
        stream=rngs.fork().params if _draws(body) else None,
        deterministic=all(node.deterministic or node.rate == 0 for node in modules_of(body, nnx.Dropout).values()),
    )
    if puppeteer == "continuous":
        make = functools.partial(continuous_of, compression=compression)
        # With more layers than depths, s = l·dl runs that many times beyond 1. Without this factor the kernels would
        # change with H that many times faster than in a plain puppet.
        options = {"omega_depth": 10.0 * min(1.0, MOST_DEPTHS / len(convolutions))} | options
    return warn_if_larger(PuppetCNN(make(puppet.kernel_shapes, **options, rngs=rngs), puppet, measurement), "puppetize")


def _call(module, images, rngs):
    del rngs
    return module(images)


def _draws(body: nnx.Module) -> bool:
    return bool(streams(body)) or bool(modules_of(body, nnx.Dropout))


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


def _generated(body: nnx.Module, trace: Trace) -> tuple[list[Path], list[tuple[Path, str]]]:
    convolutions = modules_of(body, nnx.Conv)
    shared = Counter(id(conv.kernel) for conv in convolutions.values())
    wrappers = [*modules_of(body, nnx.WeightNorm), *modules_of(body, nnx.SpectralNorm)]
    called = trace.convolutions
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
