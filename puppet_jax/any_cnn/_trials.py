"""A module's forward tried on two random images: what it calls, and what comes of something in a result's place."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
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
_NONE: Mapping[int, int] = {}
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
        self._kernels: list[jax.Array] = []
        self._watched: tuple[Path, ...] = ()
        with jax.ensure_compile_time_eval():
            self._body = _drawn(body)
            self.output, called, _ = self._run(self._body)
        self.convolutions = list(dict.fromkeys(call.path for call in called))

    def watch(self, generated: Sequence[Path], watched: Iterable[Path]) -> None:
        """Replace what :func:`puppet_jax.puppetize` replaces by stand-ins that do the same, and watch these modules.

        Raises:
            ValueError: with the stand-ins and its own kernels the module computes something else, or what it returns
                for an image depends on another one.
        """
        convolutions = [at(self._body, path) for path in generated]
        self._kernels = [conv.kernel[...] for conv in convolutions]
        for index, conv in enumerate(convolutions):
            conv.kernel = nnx.static(GeneratedKernel(index, conv.param_dtype))
        self.norms = tuple(modules_of(self._body, nnx.BatchNorm))
        self._watched = tuple(dict.fromkeys([*watched, *self.norms]))

        found, *_ = self._run(self._body, as_written=True)
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
        beside_another, *_ = self._run(self._body, self._images[::2])
        if not same(*(jax.tree.map(lambda leaf: leaf[:1], each) for each in (beside_another, self.output))):
            raise ValueError(
                "puppetize: what the module returns for an image depends on the other images of the batch, which in a "
                "puppet have other kernels; take statistics over the batch out of the forward"
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
        images = self._images[:2] if images is None else images
        stand = np.array([modes.get(i, ITSELF) for i in range(len(self._watched))], np.int32)
        arguments = *nnx.split(body), images, self._kernels, stand, as_written
        with jax.ensure_compile_time_eval(), jax.default_matmul_precision("float32"):
            try:
                output, *calls = jax.device_get(_forward(*arguments, apply=self._apply, watched=self._watched))
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


@functools.partial(
    jax.jit, static_argnames=("apply", "watched"), compiler_options={"xla_backend_optimization_level": 0}
)
def _forward(graphdef, state, images, kernels, modes, as_written, *, apply, watched):
    module, convolutions, calls = nnx.merge(graphdef, state), [], []
    for path, conv in modules_of(module, nnx.Conv).items():
        own = kernels[conv.kernel.index] if isinstance(conv.kernel, GeneratedKernel) else None

        def noted(x, kernel, *args, path=path, own=own, run=conv.conv_general_dilated, **kwargs):
            convolutions.append(Call(path))
            return run(x, kernel if own is None else own.astype(x.dtype), *args, **kwargs)

        conv.conv_general_dilated = noted
    here = jax.extend.core.get_opaque_trace_state(convention="flax")
    for path, mode in zip(watched, modes, strict=True):
        part = at(module, path)
        part.puppet_watch = nnx.static(_Watch(path, calls, here, mode, as_written))
        stand_in(part, _watched)
    return apply(module, images, nnx.Rngs(0)), convolutions, calls


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
