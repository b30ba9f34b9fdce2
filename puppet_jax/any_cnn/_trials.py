"""A module's forward tried on two random images: what it calls, and what comes of something in a result's place."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from puppet_jax.any_cnn._convolution import transposed
from puppet_jax.any_cnn._foreign import CONVOLUTIONS, Apply, GeneratedKernel, stand_in
from puppet_jax.any_cnn._modules import Path, at, modules_of, name_of
from puppet_jax.any_cnn._traced import Uses, own_kernel

ITSELF, ARGUMENT, ZERO, EXCHANGED = range(4)
"""What stands for a result in a trial: itself, the argument, zeros, or itself with the two images exchanged."""
_NONE: Mapping[int, int] = {}
_TOLERANCE = 1e-4
_FLAGS = ("deterministic", "use_running_average")
"""Attributes that ``model.train()`` and ``model.eval()`` set."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["argument", "result"], meta_fields=["path", "end"])
@dataclasses.dataclass
class Call:
    """One call of a watched module, for two images.

    Attributes:
        path: which module.
        end: the number of the first call that begins after this one has ended.
        argument, result: arrays, or ``None`` where what is passed is none, or a loop or a branch is around the call.
    """

    path: Path
    end: int = 0
    argument: Any = None
    result: Any = None

    @property
    def keeps_shape(self) -> bool:
        return (self.argument.shape, self.argument.dtype) == (self.result.shape, self.result.dtype)


class Trials:
    """A module in evaluation mode, its parameters drawn at random, so that no zero among its own hides anything.

    Of the module's parameters, which may be tracers, only shapes are used. Its uses are those in evaluation and in
    training mode together.

    Attributes:
        convolutions: paths of the layers that the forward calls, in the order of their first calls.
        read: names of variables that the forward does more with than to convolve with them as those layers do.
        kernels: names of those that it convolves with otherwise.
        written: names of those that it changes and reads, but for parameters, batch normalisation and random streams.
        draws: whether it draws random numbers.
        output: what the module returns for two images, (2, …) each.
        calls: of the watched modules, in order.
        norms: paths of batch normalisation, watched too.

    Raises:
        ValueError: the module cannot be called so, or returns something else than arrays (N, …).
    """

    def __init__(self, body: nnx.Module, apply: Apply, image_shape: tuple[int, int, int]):
        noise = np.random.default_rng(0).random((3, *image_shape), np.float32)
        self._images = noise ** np.array([1, 4, 2], np.float32).reshape(3, 1, 1, 1)  # not of one brightness
        self._apply = apply
        self._kernels: list[jax.Array] = []
        self._watched: tuple[Path, ...] = ()
        with jax.ensure_compile_time_eval():
            self._body = _drawn(body)
            self.output, called, _ = self._run(self._body)
        self.convolutions = list(dict.fromkeys(call.path for call in called))
        self.norms = tuple(modules_of(self._body, nnx.BatchNorm))
        self.read: set[str] = set()
        self.kernels: set[str] = set()
        self.written: set[str] = set()
        self.draws = False
        self._note_uses(self._body)
        try:
            self._note_uses(_in_training(self._body))
            self._trains = True
        except Exception:  # made for evaluation only, as a layer that draws is without random streams
            self._trains = False

    def _note_uses(self, body: nnx.Module) -> None:
        arguments = self._arguments(body)
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("float32"):
            traced = _forward.trace(*arguments, apply=self._apply, watched=())
        uses, before = Uses(traced.jaxpr), [_name(at) for at, _ in jax.tree_util.tree_leaves_with_path(arguments[1])]
        *_, variables = traced.out_info
        after = [_name(at) for at, _ in jax.tree_util.tree_leaves_with_path(variables)]
        # A parameter that is written, as norms of weights do, is the same in every call.
        handled = {name_of(at) for at, node in nnx.iter_graph(body) if isinstance(node, nnx.RngState | nnx.Param)}
        handled |= {name_of((*norm, name)) for norm in self.norms for name in ("mean", "var")}
        for name, came_from in zip(after, uses.results[len(uses.results) - len(after) :], strict=True):
            number = before.index(name) if name in before else None
            if number in uses.read and came_from != number and name not in handled:
                self.written.add(name)
        self.read |= {before[i] for i in uses.read if i < len(before)}
        self.kernels |= {before[i] for i in uses.kernels if i < len(before)}
        self.draws |= uses.draws

    def watch(self, generated: Sequence[Path], watched: Iterable[Path]) -> None:
        """Replace what :func:`puppet_jax.puppetize` replaces by stand-ins that do the same, and watch these modules.

        Raises:
            ValueError: with the stand-ins and its own kernels the module computes something else, or what it returns
                for an image depends on another one.
        """
        convolutions = [at(self._body, path) for path in generated]
        # Those that nnx.vmap stacked have them where they are.
        convolutions = [conv for conv in convolutions if conv.kernel.shape == conv.kernel_shape]
        self._kernels = [conv.kernel[...] for conv in convolutions]
        for index, conv in enumerate(convolutions):
            conv.kernel = nnx.static(GeneratedKernel(index, conv.param_dtype))
            if isinstance(conv, nnx.ConvTranspose):
                stand_in(conv, transposed)
        self._watched = tuple(dict.fromkeys([*watched, *self.norms]))

        found, *_ = self._run(self._body, as_written=True)
        if not same(found, self.output):
            raise ValueError(
                "puppetize: with the module's own kernels the puppet computes something else: the forward looks at "
                "what puppetize has to replace, such as type(layer) is nnx.BatchNorm (use isinstance); write it without"
            )
        self.output, self.calls = self.tried((), ITSELF)
        self._check_alone(self._body, "")
        # Those with such a flag of their own may do something else in training mode; flax's look at one image then too.
        modules = modules_of(self._body, nnx.Module).values()
        own = [vars(node) for node in modules if not type(node).__module__.startswith("flax.")]
        if self._trains and any(flag in attributes for attributes in own for flag in _FLAGS):
            self._check_alone(_in_training(self._body), " in training mode")

    def _check_alone(self, body: nnx.Module, when: str) -> None:
        together, *_ = self._run(body)
        for place, images in enumerate(([0, 2], [2, 1])):
            beside_another, *_ = self._run(body, self._images[images])
            row = operator.itemgetter(slice(place, place + 1))
            if not same(jax.tree.map(row, beside_another), jax.tree.map(row, together)):
                writes = f" (it writes {', '.join(sorted(self.written))})" if self.written else ""
                raise ValueError(
                    f"puppetize: what the module returns for an image{when} depends on the other images of the batch, "
                    f"which in a puppet have other kernels{writes}; take statistics over the batch out of the forward, "
                    "or write them as nnx.BatchNorm"
                )

    def tried(self, paths: Iterable[Path], mode: int) -> tuple[Any, list[Call]]:
        """What the module returns, and its calls, if ``mode`` stands for the results of these modules; batch
        normalisation uses its running averages."""
        output, _, calls = self._run(self._body, modes={self._watched.index(path): mode for path in paths})
        return output, calls

    def number(self, path: Path) -> int:
        """The number of a module's only call."""
        return next(number for number, call in enumerate(self.calls) if call.path == path)

    def _run(self, body: nnx.Module, images: Any = None, modes: Mapping[int, int] = _NONE, as_written=False) -> tuple:
        """The module's output for two images, the calls of its convolutions, and of what is watched."""
        arguments = self._arguments(body, images, modes, as_written)
        images = arguments[2]
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("float32"):
            try:
                output, *calls, _ = _forward(*arguments, apply=self._apply, watched=self._watched)
                output, *calls = jax.device_get((output, *calls))
            except Exception as error:
                told = str(error).splitlines() or [""]
                how = ", its kernels generated," if self._kernels else ""
                raise ValueError(
                    f"puppetize: the module{how} could not be called on float32 images of shape {images.shape}, or "
                    f"does not return arrays ({type(error).__name__}: {told[0][:300]}); correct image_shape, or tell "
                    "how to call it, for example apply=lambda module, images, rngs: module(images, train=True)"
                ) from error
        leaves = jax.tree.leaves(output)
        if not leaves or any(leaf.shape[:1] != (2,) for leaf in leaves):
            raise ValueError(
                f"puppetize: the module must return arrays (N, …), the batch first, for N images {images.shape}, got "
                f"shapes {', '.join(str(leaf.shape) for leaf in leaves) or 'none'}; pick them out with apply="
            )
        return output, *calls

    def _arguments(self, body: nnx.Module, images=None, modes: Mapping[int, int] = _NONE, as_written=False) -> tuple:
        images = self._images[:2] if images is None else images
        stand = np.array([modes.get(i, ITSELF) for i in range(len(self._watched))], np.int32)
        with jax.ensure_compile_time_eval():
            key = jax.random.key(0)
        return *nnx.split(body), images, key, self._kernels, stand, as_written


def _in_training(body: nnx.Module) -> nnx.Module:
    body = nnx.clone(body)
    body.train()
    return body


def _name(path: tuple) -> str:
    """Of a variable, or an array in one, from its path in a tree."""
    return name_of(tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path if not hasattr(key, "name")))


def _drawn(body: nnx.Module) -> nnx.Module:
    """A copy in evaluation mode with other numbers: neither zero nor negative where they may be a layer's scale or a
    variance, and of the usual deviation where they may be weights."""
    draw = np.random.default_rng(1)

    averages = {name_of(path) for path, node in nnx.iter_graph(body) if isinstance(node, nnx.BatchStat)}

    def drawn(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=jax.random.key_impl(leaf)), leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, leaf.dtype == bool, leaf.dtype)
        if leaf.ndim < 2 or _name(path) in averages:
            return jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        deviation = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(draw.standard_normal(leaf.shape, np.float32) * deviation, leaf.dtype)

    graphdef, state = nnx.split(body)
    module = nnx.merge(graphdef, jax.tree_util.tree_map_with_path(drawn, state))
    module.eval()
    return module


@functools.partial(
    jax.jit, static_argnames=("apply", "watched"), compiler_options={"xla_backend_optimization_level": 0}
)
def _forward(graphdef, state, images, key, kernels, modes, as_written, *, apply, watched):
    module, convolutions, calls = nnx.merge(graphdef, state), [], []
    variables = {name_of(path): node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)}
    for path, conv in modules_of(module, CONVOLUTIONS).items():

        def noted(arguments, *, path=path, promote=conv.promote_dtype, **kwargs):
            convolutions.append(Call(path))
            inputs, kernel, *others = promote(arguments, **kwargs)
            return inputs, own_kernel(kernel), *others

        conv.promote_dtype = noted
        if isinstance(conv.kernel, GeneratedKernel):
            conv.conv_general_dilated = functools.partial(_convolved, kernels[conv.kernel.index])
    here = jax.extend.core.get_opaque_trace_state(convention="flax")
    for path, mode in zip(watched, modes, strict=True):
        part = at(module, path)
        part.puppet_watch = nnx.static(_Watch(path, calls, here, mode, as_written))
        stand_in(part, _watched)
    output = apply(module, images, nnx.Rngs(key))
    return output, convolutions, calls, {name: node.get_value() for name, node in variables.items()}


def _convolved(kernel, x, given, *args, **kwargs):
    """What a layer with its own kernel does."""
    del given
    return lax.conv_general_dilated(x, kernel.astype(x.dtype), *args, **kwargs)


@dataclasses.dataclass(eq=False)
class _Watch:
    path: Path
    calls: list[Call]
    here: Any
    mode: Any
    as_written: Any


def _watched(module, own, *args, **kwargs):
    watch, x = module.puppet_watch, args[0] if args else None
    call = Call(watch.path)
    watch.calls.append(call)
    # First, because statistics of the batch, if it asks for them, go into the running averages.
    running = own(module, x, use_running_average=True) if isinstance(module, nnx.BatchNorm) else None
    result = own(module, *args, **kwargs)
    if running is not None:
        result = jnp.where(watch.as_written, result, running)
    call.end = len(watch.calls)
    outside = jax.extend.core.get_opaque_trace_state(convention="flax") == watch.here
    if not (outside and isinstance(x, jax.Array) and isinstance(result, jax.Array) and min(x.ndim, result.ndim) > 0):
        return result
    call.argument, call.result = x, result
    exchanged = jnp.where(watch.mode == EXCHANGED, result[::-1], result)
    stands = jnp.where(watch.mode == ZERO, jnp.zeros_like(result), exchanged)
    return jnp.where(watch.mode == ARGUMENT, x, stands) if call.keeps_shape else stands


def _floats(output: Any) -> list[np.ndarray]:
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(output))
    return [leaf.astype(np.float32) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]


def same(found: Any, expected: Any) -> bool:
    """Whether floating numbers are the same but for rounding; NaN is not."""
    pairs = zip(_floats(found), _floats(expected), strict=True)
    return all(
        a.shape == b.shape and bool(np.all(np.abs(a - b) <= _TOLERANCE * np.abs(b).max(initial=0))) for a, b in pairs
    )
