"""ForeignPuppet: somebody else's CNN as the puppet, its convolutions driven from outside; made by ``puppetize``."""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from puppet_jax._mesh import cond
from puppet_jax.any_cnn._convolution import convolution
from puppet_jax.convolution import Choice, FactoredBank, whole
from puppet_jax.convolution._primitives import finish_p
from puppet_jax.puppeteers._base import Kernels, KernelShape
from puppet_jax.puppets._base import Puppet

Apply = Callable[[Any, Array, Any], Any]
"""(module, images (1, H, W, C) in [0, 1], random streams) → logits (1, num_classes), or any tree of arrays (1, …)."""

CONVOLUTIONS = (nnx.Conv, nnx.ConvTranspose)
_NORMS = (nnx.BatchNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.LayerNorm, nnx.RMSNorm)


@dataclasses.dataclass(frozen=True)
class GeneratedKernel:
    """What stands in a layer for the kernel that is not stored: static, no parameter.

    Attributes:
        index: which of the puppeteer's kernels the convolution takes.
        dtype: of the kernel that stood there; what the layer computes in may follow from it.
        level: the least depth that uses the layer.
        stack: leading axes of a kernel that ``nnx.vmap`` stacked, a puppeteer's kernel for each; mostly none.
    """

    index: int
    dtype: Any
    level: int = 1
    stack: tuple[int, ...] = ()

    def __getitem__(self, _) -> np.ndarray:
        # nnx.Conv asks for the dtype and passes the kernel on to a function that uses the generated one instead. NaN,
        # so that any other use shows in the result.
        return np.full((), np.nan, self.dtype)


Skip = Literal["argument", "zero"]
"""What stands for the result of a block that an image skips: its first argument, or zero, where the forward adds the
result to something."""


def stand_in(module: Any, call: Callable) -> None:
    """From now on ``module(*args, **kwargs)`` is ``call(module, own, *args, **kwargs)``, where ``own(module, …)`` is
    what it was. The module becomes of a class derived from its own, the same one for the same ``call``, which is a
    function that can be pickled."""
    cls: Any = type(module)
    module.__class__ = _derived(cls, call)


@functools.cache
def _derived(cls: Any, call: Callable) -> type:
    # Under its own name pickle would find the class that it is derived from.
    root, calls = getattr(cls, "puppet_stand_ins", (cls, ()))
    calls = (*calls, call)

    def body(namespace):
        namespace["__call__"] = lambda self, *args, **kwargs: call(self, cls.__call__, *args, **kwargs)
        namespace["__module__"] = cls.__module__
        namespace["puppet_stand_ins"] = root, calls
        namespace["__reduce_ex__"] = lambda self, protocol: (_restored, (root, calls), self.__getstate__())

    return types.new_class(cls.__name__, (cls,), {"pytree": cls._pytree__is_pytree}, body)


def _restored(cls: type, calls: tuple[Callable, ...]) -> Any:
    return object.__new__(functools.reduce(_derived, calls, cls))


def gate(block: Any, level: int, skip: Skip) -> None:
    """From now on an image goes through the block if its depth D reaches ``level``, the least that runs it."""
    block.puppet_gate = nnx.static((level, skip))
    block.puppet_depths = None
    stand_in(block, _gated)


def _gated(module, own, x, *args, **kwargs):
    level, skip = module.puppet_gate
    depth, deepest = module.puppet_depths()
    graphdef, state = nnx.split(module)

    def skipped(x):
        if skip == "argument":
            return x
        like = jax.eval_shape(run, x)
        return jnp.zeros(like.shape, like.dtype)

    def run(x):
        # A copy made inside the branch, so that its random streams may advance there. Blocks may share a stream: fold
        # in the level, or they would draw the same numbers.
        block = nnx.merge(graphdef, state, copy=True)
        for stream in streams(block):
            stream.key[...] = _folded(stream.key[...], level)
        return own(block, x, *args, **kwargs)

    if isinstance(depth, int | np.integer):
        return own(module, x, *args, **kwargs) if depth >= level else skipped(x)
    # One predicate for all images of a chunk: under ``vmap`` over images it stays a branch, and costs nothing.
    y = run(x) if deepest is None else cond(deepest >= level, run, skipped, x)
    return jnp.where(depth >= level, y, skipped(x))


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class ForeignPuppet(Puppet):
    """A CNN that was written for stored kernels and is given generated ones; see :func:`puppet_jax.puppetize`.

    Written for one image, which the module sees as a batch of one. Stored here is all that the module stores but the
    kernels: biases, normalisation, dense layers, and convolutions that cannot be generated.

    Attributes:
        body: the module, its kernels replaced by :class:`GeneratedKernel`, its blocks with a :func:`gate`.
        names: where the convolution of each kernel stands in the module, such as ``"stages.0.conv1"``.
        sequences: of each sequence of blocks, the level of each block; ``()`` if no block is ever skipped.
        blocks: of each of these blocks, its name and its level.
        always: convolutions that every image runs: (name, reason).
        kept: convolutions that stay stored: (name, reason).
        image_shape: (H, W, C) the module was tried on.
        apply: how the module is called.
        stream: random stream for modules that draw, else ``None``.
        deterministic: whether random streams stand still from one call to the next.
    """

    body: nnx.Module
    kernel_shapes: tuple[KernelShape, ...]
    names: tuple[str, ...]
    levels: tuple[int, ...]
    sequences: tuple[tuple[int, ...], ...]
    blocks: tuple[tuple[str, int], ...]
    always: tuple[tuple[str, str], ...]
    max_depth: int
    kept: tuple[tuple[str, str], ...]
    image_shape: tuple[int, int, int]
    num_classes: int | None
    apply: Apply
    stream: nnx.RngStream | None = nnx.data()  # noqa: RUF009  # flax reads the field
    deterministic: bool
    fixed: int | None = None

    def __call__(
        self,
        image: Float[Array, "h w c"],
        kernels: Kernels | tuple[Choice, ...],
        depth: Int[Array, ""] | int,
        *,
        deepest: Int[Array, ""] | None = None,
        sample: Int[Array, ""] | int = 0,
        lowering: str | None = None,
    ) -> Any:
        """What the module returns for one image, without the batch's axis; floats are float32.

        A ``depth`` that is an array masks the blocks beyond, a Python integer leaves them out. Those beyond
        ``deepest``, the greatest depth among images that are mapped together, are not computed. In evaluation mode
        random streams are made from the image, else from its number ``sample``.

        Raises:
            ValueError: the kernels or the image's channels do not fit.
        """
        chosen = [_chosen(kernel) for kernel in kernels]
        banks = [choice.bank.shape for choice in chosen]
        self.check(image.shape, [(c_out, c_in, k_h, k_w) for _, k_h, k_w, c_in, c_out in banks], self.max_depth)
        # A copy for this call: neither what is set here nor what the module changes in itself outlives it.
        body = nnx.clone(self.body)
        modules: Iterator[tuple[Any, Any]] = nnx.iter_modules(body)
        for _, module in modules:
            if isinstance(module, CONVOLUTIONS) and isinstance(module.kernel, GeneratedKernel):
                _drive(module, module.kernel, chosen, depth, lowering)
            if "puppet_lowering" in vars(module):
                module.puppet_lowering = lowering
            if "puppet_gate" in vars(module):
                module.puppet_depths = lambda: (depth, deepest)
        rngs = None
        if self.stream is not None:
            which = _fingerprint(image) if self.deterministic else sample
            own = lambda key: _folded(_folded(key, self.stream.count[...]), which)  # noqa: E731
            rngs = nnx.Rngs(own(self.stream.key[...]))
            for stream in streams(body):
                stream.key[...] = own(stream.key[...])
        return jax.tree.map(_first, self.apply(body, image[None], rngs))

    def batch(
        self,
        images: Float[Array, "b h w c"],
        indices: tuple[Int[Array, " b"], ...],
        bank: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...],
        depths: Int[Array, " b"],
        samples: Int[Array, " b"],
        lowering: str | None = None,
    ) -> Any:
        deepest = jnp.max(depths)

        def one(image, own, depth, sample):
            kernels = tuple(map(Choice, own, bank))
            depth_and = (depth, deepest) if self.fixed is None else (self.fixed, None)
            return self(image, kernels, depth_and[0], deepest=depth_and[1], sample=sample, lowering=lowering)

        return jax.vmap(one)(images, indices, depths, samples)

    def cut(self, depth: int) -> None:
        self.fixed = depth

    def advance(self) -> None:
        """Move the random streams on by one call, in training mode (``model.train()``); else do nothing."""
        if self.stream is not None and not self.deterministic:
            self.stream.count[...] += 1

    def normalisation_count(self) -> int:
        """Stored parameters of normalisation layers, flax's and those in a batch normalisation's place."""
        norms = [node for _, node in nnx.iter_modules(self.body) if isinstance(node, _NORMS)]
        return sum(leaf.size for norm in norms for leaf in jax.tree.leaves(nnx.state(norm, nnx.Param)))

    def check(self, image_shape: tuple[int, ...], shapes, last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through."""
        del last
        if image_shape[2] != self.image_shape[2]:
            raise ValueError(
                f"puppet: image has {image_shape[2]} channels, the module was puppetized for "
                f"{self.image_shape[2]}; puppetize it with image_shape={tuple(image_shape)}"
            )
        if tuple(shapes) != self.kernel_shapes:
            raise ValueError(
                f"ForeignPuppet: kernels must have shapes {self.kernel_shapes}, got {tuple(shapes)}; "
                "make the puppeteer from puppet.kernel_shapes"
            )


def streams(module: nnx.Module) -> list[nnx.RngStream]:
    """The random streams that a module holds."""
    return [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)]


def _folded(keys: Array, number: Int[Array, ""] | UInt32[Array, ""] | int) -> Array:
    """Keys made of each of these, which may be stacked, and a number."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys.reshape(-1)).reshape(keys.shape)


def _fingerprint(image: Float[Array, "h w c"]) -> UInt32[Array, ""]:
    """A number made of an image's levels and where they are: the same one wherever the image stands in a batch."""
    levels = jnp.round(image * 255).astype(jnp.uint32).reshape(-1)
    return jnp.sum(
        (levels + 1) * (jnp.arange(1, levels.size + 1, dtype=jnp.uint32) * np.uint32(2654435761)), dtype=jnp.uint32
    )


def _first(output: Array) -> Array:
    return output[0].astype(jnp.float32) if jnp.issubdtype(output.dtype, jnp.floating) else output[0]


def _chosen(kernel: Float[Array, "c_out c_in k_h k_w"] | Choice) -> Choice:
    """A kernel as a choice from a bank, of itself alone unless it is one already."""
    return kernel if isinstance(kernel, Choice) else Choice(jnp.int32(0), jnp.transpose(kernel, (2, 3, 1, 0))[None])


def kernel_shape(conv: Any) -> KernelShape:
    """Of the kernels that a puppeteer makes for a layer. Of three spatial axes the first is a part of the input
    channels; one axis is the second of two."""
    size, (c_in, c_out) = conv.kernel_size, conv.kernel_shape[-2:]
    *depth, k_h, k_w = size if len(size) > 1 else (1, *size)
    return c_out, math.prod(depth) * c_in, k_h, k_w


def _drive(conv, stands: GeneratedKernel, kernels, depth, lowering):
    """Give a layer its generated kernel, for one image of this depth."""
    own = kernels[stands.index : stands.index + math.prod(stands.stack)]
    index = jnp.where(depth >= stands.level, own[0].index, -1)
    run = functools.partial(convolution, lowering=lowering, may_be_skipped=stands.level > 1)
    if not stands.stack:
        conv.conv_general_dilated = functools.partial(run, Choice(index, own[0].bank))
        return
    # The banks stacked as the kernels were, for nnx.scan to cut up; all have one index.
    banks = jnp.stack(whole(tuple(choice.bank for choice in own)))
    conv.kernel = nnx.data(nnx.Param(banks.reshape(*stands.stack, *banks.shape[1:])))

    def of_stack(inputs, bank, *args, **kwargs):
        return run(Choice(index, bank), inputs, None, *args, **kwargs)

    conv.conv_general_dilated = of_stack


_GROUPS = 8  # of channels; a width that they do not divide uses their greatest common divisor


def use_running(norm: nnx.BatchNorm) -> None:
    """From now on a batch normalisation uses its running averages, in training too; they are constants, scale and shift
    are learned. What it is told about batch statistics when it is called has no effect."""
    stand_in(norm, _running)


def use_groups(norm: Any) -> None:
    """From now on a batch normalisation is group normalisation (Wu and He 2018) with its scale, shift and epsilon.

    Statistics are an image's own, over groups of channels; over all channels where the map is a single position.
    """
    del norm.mean, norm.var
    norm.puppet_lowering = None
    stand_in(norm, _groups)


def _running(norm, own, x: Float[Array, "..."], *args, mask: Array | None = None, **kwargs) -> Float[Array, "..."]:
    del args, mask, kwargs
    return own(norm, x, use_running_average=True)


def _groups(
    norm, own, x: Float[Array, "n *space c"], *args, mask: Array | None = None, **kwargs
) -> Float[Array, "n *space c"]:
    del own, args, mask, kwargs
    scale = jnp.ones((norm.num_features,), jnp.float32) if norm.scale is None else norm.scale[...]
    shift = jnp.zeros((norm.num_features,), jnp.float32) if norm.bias is None else norm.bias[...]
    positions = math.prod(x.shape[1:-1])
    maps = x.reshape(len(x), positions, 1, x.shape[-1]).astype(jnp.float32)
    y, _ = finish_p.bind(
        maps,
        jnp.zeros(len(maps), jnp.int32),
        maps,
        scale.astype(jnp.float32),
        shift.astype(jnp.float32),
        groups=math.gcd(norm.num_features, _GROUPS) if positions > 1 else 1,
        epsilon=float(norm.epsilon),
        relu=False,
        residual=False,
        lowering=norm.puppet_lowering,
    )
    return y.reshape(x.shape).astype(norm.dtype or jnp.promote_types(x.dtype, scale.dtype))
