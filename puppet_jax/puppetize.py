"""``puppetize``: any Flax NNX model as the puppet, in one line. Its convolutions are found and then generated."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax

from puppet_jax.measure import Measure
from puppet_jax.model import PUPPETEERS, PuppetCNN
from puppet_jax.puppeteers import Puppeteer
from puppet_jax.puppeteers.protocol import KernelShape
from puppet_jax.puppets.batch_norm import ImageNorm, RunningNorm
from puppet_jax.puppets.foreign import Apply, ForeignPuppet, Gate, GeneratedKernel, InPlaceOf, streams

Path = tuple[str | int, ...]

_MOST_DEPTHS = 8  # eq. (6): H is at most 8 bits, so D is at most 8.


def puppetize(
    module: nnx.Module,
    puppeteer: str | Callable[[tuple[KernelShape, ...]], Puppeteer] = "continuous",
    *,
    image_shape: tuple[int, int, int],
    batch_norm: Literal["group", "running"] | None = None,
    blocks: Sequence[str | Sequence[str]] | None = None,
    max_depth: int | None = None,
    apply: Apply | None = None,
    puppeteer_options: Mapping | None = None,
    measurement: Measure | None = None,
    rngs: nnx.Rngs,
) -> PuppetCNN:
    """Make a puppet of a CNN that was written for stored kernels; the module itself is left as it is.

    ::

        net = ResNet20(num_classes=10, rngs=nnx.Rngs(0))  # your model: nnx.Conv, nnx.BatchNorm, nnx.List of blocks, …
        model = pj.puppetize(net, "continuous", image_shape=(32, 32, 3), batch_norm="group", rngs=nnx.Rngs(1))
        logits = model(images)  # as any PuppetCNN: own kernels and depth for each image; jit, grad, vmap
        print(pj.summary(model), model.puppet.kept)  # parameters before and after; what stays stored, and why
        predict = pj.compile_predict(model)  # kernels baked at nodes; no generation left, blocks beyond D not computed

    **Kernels.** Generated are the kernels of every ``nnx.Conv`` that the forward calls: two-dimensional, of equal
    sides, with any stride, padding, dilation and number of groups. They are ordered by their first calls, and have
    shapes (C_out, C_in / groups, K, K). Convolutions of other kinds stay stored; ``model.puppet.kept`` lists them with
    the reason, ``model.puppet.names`` those that are generated. Biases, normalisation and dense layers stay stored.

    **Depth.** In a list of modules (``nnx.List``, ``nnx.Sequential``), neighbours of one class whose parameters have
    equal shapes, that contain a generated convolution, are called once and return what has their argument's shape
    and dtype, are a *sequence of blocks*; an image passes the blocks beyond its depth unchanged. Everything else,
    transitions too, always runs. Let there be n blocks in all sequences, and depths D in 1 … L = ``max_depth``. At
    depth D, ⌈n·D / L⌉ blocks run, and at least the first of each sequence: those of least (i − 1) / n_s, where i = 1 …
    n_s is the block's place in its sequence s, earlier sequences first. So sequences fill up evenly, a deeper image
    runs what a shallower one does, and D = L runs everything. That a block is residual is not checked: passing it is
    the identity.

    **Normalisation with batch statistics** cannot be kept: a batch's statistics would make an image's logits depend on
    its neighbours, which have other kernels. So a model with ``nnx.BatchNorm`` needs a choice. ``"group"``:
    normalisation over groups of channels of one image, with the layer's scale, shift and epsilon; for training.
    ``"running"``: its running averages, in training too, never updated; exactly the model in evaluation mode, for
    kernels that are the model's own or are trained to fit its averages. Fresh averages (0 and 1) normalise nothing.

    **Random streams** (``nnx.Dropout``) are made from each image's number in the batch. In training mode
    (``model.train()``; ``model.eval()`` ends it) every call moves them on by one, which changes ``model``'s
    state: under ``jax.jit`` carry it, as for any NNX model, or use ``nnx.jit``. In evaluation mode they stand still.

    **Interpolation.** For training, ``model.puppeteer = pj.interpolate(model.puppeteer, shared=True, interval=…)``. D
    counts blocks here, so every layer's kernels are needed at every complexity: give :func:`interpolate` and
    :func:`compile_predict` the data's own ``interval``. For twenty layers 16 nodes serve 4 to 8 bits, 0 to 8 take 128.

    Args:
        module: takes images (N, H, W, C) and returns logits (N, num_classes).
        puppeteer: ``"continuous"``, ``"ode"``, ``"printed"`` or ``"stored"`` as in :func:`create`, or a function from
            the kernel shapes to a puppeteer. Layers are numbered by the order of their calls; ``"continuous"`` gets
            ``omega_depth`` 10 · 8 / layers beyond eight layers, unless told otherwise.
        image_shape: (H, W, C) of the images; the module is traced on one, without computing anything.
        batch_norm: ``"group"`` or ``"running"``, see above.
        blocks: instead of the sequences found: each entry the name of a list of blocks, such as ``"stage1"``, or a
            list of blocks' names, such as ``["block1", "features.layers.2"]``. ``()``: every image runs everything.
        max_depth: L; the default is n, but at most 8: for H in bits D(H) is at most 8.
        apply: how to call the module, ``apply(module, images, rngs)``: for images (1, H, W, C) that it wants
            normalised otherwise than float in [0, 1], for further arguments, for random streams that it takes as an
            argument. The default is ``module(images)``. A lambda made anew compiles anew.
        puppeteer_options: arguments for the puppeteer's constructor.
        measurement: which complexity, and whether depth follows it.
        rngs: Flax random streams.

    Raises:
        TypeError: ``module`` is not an ``nnx.Module``, or an option that the puppeteer does not have.
        ValueError: an unknown puppeteer or option, batch normalisation without a choice, a module that cannot be
            called on such images or returns something else than logits, no convolution that can be generated, or
            ``blocks`` that are not there, change the shape or are not called exactly once.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"puppetize: module must be a flax.nnx.Module, got {type(module).__name__}")
    if isinstance(puppeteer, str) and puppeteer not in PUPPETEERS:
        raise ValueError(f"puppetize: unknown puppeteer {puppeteer!r}; there are {', '.join(sorted(PUPPETEERS))}")
    if not isinstance(puppeteer, str) and puppeteer_options:
        raise ValueError("puppetize: puppeteer_options are for a puppeteer given by name; bind them to the function")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"puppetize: image_shape must be (height, width, channels), all positive, got {image_shape}")
    apply = apply or _call
    body = nnx.clone(module)
    _replace_batch_norms(body, batch_norm)

    trace = _trace(body, apply, image_shape, blocks)
    paths, kept = _generated(body, trace)
    sequences = _found(body, paths, trace) if blocks is None else _named(body, blocks, trace)
    levels = _levels([len(sequence) for sequence in sequences], max_depth)
    level_of = dict(zip(_flat(sequences), _flat(levels), strict=True))

    convolutions = [_at(body, path) for path in paths]
    for index, convolution in enumerate(convolutions):
        convolution.kernel = nnx.static(GeneratedKernel(index, convolution.param_dtype))
    for path, level in level_of.items():
        if level > 1:
            _replace(body, path, Gate(_at(body, path), level))
    puppet = ForeignPuppet(
        body,
        kernel_shapes=tuple(_kernel_shape(each) for each in convolutions),
        names=tuple(map(_name, paths)),
        levels=tuple(max([level_of[own] for own in level_of if path[: len(own)] == own], default=1) for path in paths),
        sequences=tuple(map(tuple, levels)),
        max_depth=_depths(sum(map(len, sequences)), max_depth),
        kept=tuple((_name(path), reason) for path, reason in kept),
        image_shape=tuple(image_shape),
        num_classes=trace.num_classes,
        apply=apply,
        stream=rngs.fork().params if _draws(body) else None,
        deterministic=all(node.deterministic or node.rate == 0 for node in _modules(body, nnx.Dropout).values()),
    )
    if isinstance(puppeteer, str):
        options = {**_options(puppeteer, len(convolutions)), **(puppeteer_options or {})}
        puppeteer = functools.partial(PUPPETEERS[puppeteer], **options, rngs=rngs)
    return PuppetCNN(puppeteer(puppet.kernel_shapes), puppet, measurement)


def _options(puppeteer: str, layers: int) -> dict:
    # A deep module's depth coordinate s = l·dl runs as many times further as it has more layers than depths: without
    # the factor its kernels turn as many times faster with H, and an interpolation in H needs as many more nodes.
    return {"omega_depth": 10.0 * min(1.0, _MOST_DEPTHS / layers)} if puppeteer == "continuous" else {}


def _call(module, images, rngs):
    del rngs
    return module(images)


# ---- The module's graph


def _modules(module: nnx.Module, kind: type) -> dict[Path, nnx.Module]:
    return {path: node for path, node in nnx.iter_modules(module) if isinstance(node, kind)}


def _at(module, path: Path):
    for key in path:
        module = module[key] if isinstance(key, int) or isinstance(module, Mapping) else getattr(module, key)
    return module


def _replace(module, path: Path, new: nnx.Module) -> None:
    parent, key = _at(module, path[:-1]), path[-1]
    if isinstance(parent, tuple):
        raise ValueError(f"puppetize: {_name(path)} stands in a tuple, which cannot be changed; use nnx.List there")
    if isinstance(key, int) or isinstance(parent, Mapping):
        parent[key] = new
    else:
        setattr(parent, key, new)


def _name(path: Path) -> str:
    return ".".join(map(str, path))


def _flat(lists):
    return [each for one in lists for each in one]


def _draws(body: nnx.Module) -> bool:
    return bool(streams(body)) or bool(_modules(body, nnx.Dropout))


def _replace_batch_norms(body: nnx.Module, choice: str | None) -> None:
    found = _modules(body, nnx.BatchNorm)
    if choice not in (None, "group", "running"):
        raise ValueError(f'puppetize: batch_norm must be "group", "running" or None, got {choice!r}')
    if found and choice is None:
        names = ", ".join(map(_name, list(found)[:3])) + (", …" if len(found) > 3 else "")
        raise ValueError(
            f"puppetize: the module has {len(found)} nnx.BatchNorm ({names}), whose batch statistics would make an "
            'image\'s logits depend on its neighbours, which have other kernels; choose batch_norm="group" (each '
            'image\'s own statistics, same scale and shift: for training) or "running" (the running averages, fixed: '
            "the module in evaluation mode)"
        )
    for path, norm in found.items():
        if choice == "group" and norm.axis not in (-1, (-1,)):
            raise ValueError(
                f'puppetize: batch_norm="group" needs channels on the last axis, {_name(path)} has axis={norm.axis}; '
                'use "running", or write the layer with axis=-1'
            )
    new = {id(norm): (ImageNorm if choice == "group" else RunningNorm)(norm) for norm in found.values()}
    for path, norm in _all_paths(body, nnx.BatchNorm):
        _replace(body, path, new[id(norm)])


def _all_paths(module, kind: type):
    """Every place of every such module: ``nnx.iter_modules`` names a shared one once."""
    found, stack, seen = [], [((), module)], set()
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key, child in _children(node):
            if isinstance(child, kind):
                found.append(((*path, key), child))
            elif isinstance(child, nnx.Module | list | tuple | dict):
                stack.append(((*path, key), child))
    return found


def _children(node):
    if isinstance(node, list | tuple | nnx.List):
        return list(enumerate(node))
    return [(key, child) for key, child in (node if isinstance(node, dict) else vars(node)).items()]


# ---- What the forward does, from a trace of it


@dataclasses.dataclass
class _Trace:
    """In what order convolutions run; which blocks map to what shapes, and how often; how many classes there are."""

    convolutions: list[Path] = dataclasses.field(default_factory=list)
    blocks: dict[Path, list] = dataclasses.field(default_factory=dict)
    num_classes: int = 0


class _Watched(InPlaceOf):
    """A member of a list, and a note of what it maps to what."""

    def __init__(self, block: nnx.Module, note: Callable):
        super().__init__(block)
        self.note = note

    def __call__(self, *args, **kwargs):
        result = self.block(*args, **kwargs)
        self.note(args[0] if args else None, result)
        return result


def _trace(body: nnx.Module, apply: Apply, image_shape: tuple[int, int, int], blocks) -> _Trace:
    trace = _Trace()
    watched = nnx.clone(body)
    for path, conv in _modules(watched, nnx.Conv).items():

        def noted(*args, path=path, run=conv.conv_general_dilated, **kwargs):
            trace.convolutions.append(path)
            return run(*args, **kwargs)

        conv.conv_general_dilated = noted
    # The innermost first: a path stays valid as long as nothing above it has changed.
    named = {name for entry in blocks or () for name in ([entry] if isinstance(entry, str) else entry)}
    modules = _modules(watched, nnx.Module)
    members = [path for path in modules if path and (isinstance(path[-1], int) or _name(path) in named)]
    for path in sorted(members, key=len, reverse=True):
        if isinstance(modules[path], nnx.Conv | nnx.List | nnx.Dict):
            continue

        def note(x, result, path=path):
            trace.blocks.setdefault(path, []).append((_aval(x), _aval(result)))

        _replace(watched, path, _Watched(_at(watched, path), note))
    graphdef, state = nnx.split(watched)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    run = lambda state, images: apply(nnx.merge(graphdef, state, copy=True), images, nnx.Rngs(0))  # noqa: E731
    try:
        logits = jax.eval_shape(run, state, images)
    except Exception as error:
        raise ValueError(
            f"puppetize: the module could not be called on float32 images of shape {images.shape} "
            f"({type(error).__name__}: {error}); correct image_shape, or tell how to call it, for example "
            "apply=lambda module, images, rngs: module(images, train=True)"
        ) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"puppetize: the module must return logits (1, num_classes) for images {images.shape}, got "
            f"{shape if shape is not None else type(logits).__name__}; pick them out with apply="
        )
    trace.num_classes = shape[1]
    return trace


def _aval(x):
    return (x.shape, x.dtype) if hasattr(x, "shape") and hasattr(x, "dtype") else None


# ---- Which convolutions are generated


def _generated(body: nnx.Module, trace: _Trace) -> tuple[list[Path], list[tuple[Path, str]]]:
    convolutions = _modules(body, nnx.Conv)
    shared = Counter(id(conv.kernel) for conv in convolutions.values())
    wrappers = [*_modules(body, nnx.WeightNorm), *_modules(body, nnx.SpectralNorm)]
    called = list(dict.fromkeys(trace.convolutions))
    paths, kept = [], []
    for path in [*called, *(path for path in convolutions if path not in called)]:
        conv = convolutions[path]
        if path not in called:
            reason = "the forward does not call it"
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
    kept += [(path, "transposed convolutions are not generated") for path in _modules(body, nnx.ConvTranspose)]
    if not paths:
        reasons = "; ".join(f"{_name(path)}: {reason}" for path, reason in kept)
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


# ---- Which blocks are skipped, and when


def _found(body: nnx.Module, convolutions: list[Path], trace: _Trace) -> list[list[Path]]:
    """The longest runs of equal blocks that keep their argument's shape; outermost lists first, and none inside."""
    lists: dict[Path, list[Path]] = {}
    for path in trace.blocks:
        if isinstance(path[-1], int):
            lists.setdefault(path[:-1], []).append(path)
    sequences: list[list[Path]] = []
    for _, members in sorted(lists.items(), key=lambda item: len(item[0])):
        taken = {own for sequence in sequences for own in sequence}
        if any(members[0][: len(own)] == own for own in taken):
            continue
        run: list[Path] = []
        for path in [*sorted(members), None]:
            if run and (path is None or _signature(body, path) != _signature(body, run[-1])):
                sequences += [run] if len(run) > 1 else []
                run = []
            whole = path is not None and any(conv[: len(path)] == path for conv in convolutions)
            if whole and _why_no_block(trace, path) is None:
                run.append(path)
            elif run:
                sequences += [run] if len(run) > 1 else []
                run = []
    order = {path: place for place, path in enumerate(trace.blocks)}
    return sorted(sequences, key=lambda sequence: order[sequence[0]])


def _named(body: nnx.Module, blocks: Sequence[str | Sequence[str]], trace: _Trace) -> list[list[Path]]:
    if isinstance(blocks, str):
        raise ValueError(f"puppetize: blocks must be a sequence of names, got {blocks!r}; use blocks=[{blocks!r}]")
    by_name = {_name(path): path for path, _ in nnx.iter_modules(body)}
    sequences = []
    for entry in blocks:
        if isinstance(entry, str):
            entry = f"{entry}.layers" if isinstance(_get(by_name, entry, body), nnx.Sequential) else entry
            names = [name for name, path in by_name.items() if name == f"{entry}.{path[-1] if path else ''}"]
            names = sorted((n for n in names if isinstance(by_name[n][-1], int)), key=lambda name: by_name[name][-1])
            if not names:
                raise ValueError(f"puppetize: blocks names {entry!r}, which is no list of modules; name its blocks")
        else:
            names = list(entry)
        for name in names:
            _get(by_name, name, body)
            why = _why_no_block(trace, by_name[name])
            if why is not None:
                raise ValueError(f"puppetize: {name!r} in blocks cannot be skipped: {why}; leave it out of blocks")
        sequences.append([by_name[name] for name in names])
    flat = _flat(sequences)
    for one in flat:
        if sum(other[: len(one)] == one for other in flat) > 1:
            raise ValueError(f"puppetize: {_name(one)!r} is in blocks twice, or has one of blocks inside; name one")
    return sequences


def _get(by_name: dict[str, Path], name: str, body):
    if name not in by_name:
        members = [each for each, path in by_name.items() if path and isinstance(path[-1], int)]
        raise ValueError(
            f"puppetize: blocks names {name!r}, which is not in the module; members of its lists are "
            f"{', '.join(members[:20]) or 'none'}{', …' if len(members) > 20 else ''}"
        )
    return _at(body, by_name[name])


def _why_no_block(trace: _Trace, path: Path) -> str | None:
    calls = trace.blocks.get(path, [])
    if len(calls) != 1:
        return f"the forward calls it {len(calls)} times, not once"
    before, after = calls[0]
    if before is None or before != after:
        return f"it maps {before} to {after}, and what is skipped must keep shape and dtype"
    return None


def _signature(body, path: Path):
    block = _at(body, path)
    shapes = tuple((where, leaf.shape, leaf.dtype) for where, leaf in _leaves(block))
    return type(block), shapes


def _leaves(block):
    state = nnx.state(block)
    return [(jax.tree_util.keystr(where), leaf) for where, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _depths(blocks: int, max_depth: int | None) -> int:
    if max_depth is not None and max_depth < 1:
        raise ValueError(f"puppetize: max_depth must be at least 1, got {max_depth}")
    return max_depth or max(1, min(blocks, _MOST_DEPTHS))


def _levels(lengths: list[int], max_depth: int | None) -> list[list[int]]:
    """Of each sequence's blocks, the least D that runs them: 1 for the first, else ⌊(p − 1)·L / n⌋ + 1 at place p."""
    count, most = sum(lengths), _depths(sum(lengths), max_depth)
    blocks = [(i / n, sequence, i) for sequence, n in enumerate(lengths) for i in range(n)]
    levels = [[1] * n for n in lengths]
    for place, (_, sequence, i) in enumerate(sorted(blocks)):
        if i > 0:
            levels[sequence][i] = place * most // count + 1
    return levels
