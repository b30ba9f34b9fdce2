"""A module's forward tried on two random images: what it calls, and what comes of something in a result's place."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax import nnx

from puppet_jax.any_cnn._foreign import Apply, GeneratedKernel, stand_in
from puppet_jax.any_cnn._modules import Path, at, modules_of

ITSELF, ARGUMENT, ZERO, EXCHANGED = range(4)
"""What stands for a result in a trial: itself, the argument, zeros, or itself with the two images exchanged."""
_TOLERANCE = 1e-4


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

    Args:
        body: the module. Of its parameters, which may be tracers, only shapes are used.
        apply: how it is called.
        image_shape: (H, W, C).

    Attributes:
        convolutions: paths of each ``nnx.Conv`` that the forward calls, in the order of their first calls.
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
        with jax.ensure_compile_time_eval():
            self._body = _drawn(body)
            self.output, called = self._computed(_as_it_is, *nnx.split(self._body), self._images[:2])
        self.convolutions = list(dict.fromkeys(call.path for call in called))

    def watch(self, generated: Sequence[Path], watched: Iterable[Path]) -> None:
        """Replace what :func:`puppet_jax.puppetize` replaces by stand-ins that do the same, and watch these modules.

        Raises:
            ValueError: with the stand-ins and its own kernels the module computes something else, or what it returns
                for an image depends on another one.
        """
        body = nnx.clone(self._body)
        self._generated = tuple(generated)
        self._kernels = [at(body, path).kernel[...] for path in generated]
        for index, path in enumerate(generated):
            conv = at(body, path)
            conv.kernel = nnx.static(GeneratedKernel(index, conv.param_dtype))
        self.norms = tuple(modules_of(body, nnx.BatchNorm))
        self._watched = tuple(dict.fromkeys([*watched, *self.norms]))
        self._split = nnx.split(body)

        found, _ = self.tried((), ITSELF, as_written=True)
        most = max((float(np.abs(leaf).max(initial=0)) for leaf in _floats(self.output)), default=0.0)
        pairs = zip(_floats(found), _floats(self.output), strict=True)
        off = max((float(np.abs(a - b).max(initial=0)) for a, b in pairs), default=0.0) / (most or 1.0)
        if not off <= _TOLERANCE:
            raise ValueError(
                f"puppetize: with the module's own kernels the puppet is off by {off:.2g} of the largest output: the "
                "forward looks at what puppetize has to replace, such as type(layer) is nnx.BatchNorm (use isinstance) "
                "or a convolution's kernel; write it without"
            )
        self.output, self.calls = self.tried((), ITSELF)
        beside_another, _ = self.tried((), ITSELF, images=self._images[::2])
        if not same(*(jax.tree.map(lambda leaf: leaf[:1], each) for each in (beside_another, self.output))):
            raise ValueError(
                "puppetize: what the module returns for an image depends on the other images of the batch, which in a "
                "puppet have other kernels; take statistics over the batch out of the forward"
            )

    def tried(self, paths: Iterable[Path], mode: int, as_written: bool = False, images: Any = None) -> tuple:
        """What the module returns, and its calls, if ``mode`` stands for the results of these modules.

        Args:
            as_written: batch normalisation uses what it is told to; else its running averages.
            images: two others.
        """
        modes = np.full(len(self._watched), ITSELF, np.int32)
        modes[[self._watched.index(path) for path in paths]] = mode
        images = self._images[:2] if images is None else images
        static: dict[str, Any] = {"generated": self._generated, "watched": self._watched, "norms": self.norms}
        return self._computed(_with_stand_ins, *self._split, images, self._kernels, modes, as_written, **static)

    def number(self, path: Path) -> int:
        """The number of a module's only call."""
        return next(number for number, call in enumerate(self.calls) if call.path == path)

    def _computed(self, run: Callable, *arguments: Any, **options: Any) -> tuple:
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("float32"):
            try:
                output, calls = jax.device_get(run(*arguments, apply=self._apply, **options))
            except Exception as error:
                told = str(error).splitlines() or [""]
                how = ", its kernels generated," if options else ""
                raise ValueError(
                    f"puppetize: the module{how} could not be called on float32 images of shape "
                    f"{self._images[:2].shape}, or does not return arrays ({type(error).__name__}: {told[0][:300]}); "
                    "correct image_shape, or tell how to call it, for example "
                    "apply=lambda module, images, rngs: module(images, train=True)"
                ) from error
        leaves = jax.tree.leaves(output)
        if not leaves or any(leaf.shape[:1] != (2,) for leaf in leaves):
            raise ValueError(
                f"puppetize: the module must return arrays (N, …), the batch first, for N images "
                f"{self._images[:2].shape}, got shapes {', '.join(str(leaf.shape) for leaf in leaves) or 'none'}; "
                "pick them out with apply="
            )
        return output, calls


def _drawn(body: nnx.Module) -> nnx.Module:
    """A copy in evaluation mode with other numbers: neither zero nor negative where they may be a layer's scale or a
    variance, and of the usual deviation where they may be weights."""
    draw = np.random.default_rng(1)

    def drawn(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=jax.random.key_impl(leaf)), leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, leaf.dtype == bool, leaf.dtype)
        if leaf.ndim < 2:
            return jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        deviation = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(draw.standard_normal(leaf.shape, np.float32) * deviation, leaf.dtype)

    graphdef, state = nnx.split(body)
    module = nnx.merge(graphdef, jax.tree.map(drawn, state))
    module.eval()
    return module


_COMPILED_QUICKLY = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnames="apply", compiler_options=_COMPILED_QUICKLY)
def _as_it_is(graphdef, state, images, *, apply):
    module, calls = nnx.merge(graphdef, state), []
    for path, conv in modules_of(module, nnx.Conv).items():

        def noted(*args, path=path, run=conv.conv_general_dilated, **kwargs):
            calls.append(Call(path))
            return run(*args, **kwargs)

        conv.conv_general_dilated = noted
    return apply(module, images, nnx.Rngs(0)), calls


@functools.partial(
    jax.jit, static_argnames=("apply", "generated", "watched", "norms"), compiler_options=_COMPILED_QUICKLY
)
def _with_stand_ins(graphdef, state, images, kernels, modes, as_written, *, apply, generated, watched, norms):
    module, calls = nnx.merge(graphdef, state), []
    for path, kernel in zip(generated, kernels, strict=True):
        conv = at(module, path)

        def own(x, _, *args, kernel=kernel, run=conv.conv_general_dilated, **kwargs):
            return run(x, kernel.astype(x.dtype), *args, **kwargs)

        conv.conv_general_dilated = own
    here = jax.extend.core.get_opaque_trace_state(convention="flax")
    for path, mode in zip(watched, modes, strict=True):
        part, norm = at(module, path), as_written if path in norms else None
        part.puppet_watch = nnx.static(_Watch(path, calls, here, mode, norm))
        stand_in(part, _watched)
    return apply(module, images, nnx.Rngs(0)), calls


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
    if watch.as_written is None:
        result = own(module, *args, **kwargs)
    else:
        running = own(module, x, use_running_average=True)
        result = jnp.where(watch.as_written, own(module, *args, **kwargs), running)
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
