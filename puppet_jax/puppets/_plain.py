"""PlainPuppet: a chain of convolution layers, after which of them an image may leave."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from puppet_jax._integers import integer
from puppet_jax._mesh import cond
from puppet_jax.convolution import Choice, FactoredBank, layer
from puppet_jax.convolution._lowerings import default_lowering
from puppet_jax.convolution._primitives import CONVOLVED
from puppet_jax.puppeteers._base import Kernels, of_deviation
from puppet_jax.puppets._base import Puppet

# Keeps the convolutions' results, and recomputes the rest backwards.
_recomputed = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One convolution layer.

    Attributes:
        width: C_out.
        kernel_size: K of the K×K kernel; SAME padding.
        stride: of the convolution.
        pool: window and stride of the average pooling after the layer; 1 for none. Rows and columns that do not fill
            a window are dropped.

    Raises:
        ValueError: a size below 1.
    """

    width: int
    kernel_size: int = 3
    stride: int = 1
    pool: int = 1

    def __post_init__(self):
        for name in ("width", "kernel_size", "stride", "pool"):
            object.__setattr__(self, name, integer(getattr(self, name), f"LayerSpec: {name}"))


class PlainPuppet(Puppet):
    """Convolution, normalisation, activation, D times; then the mean over the map, and a linear head.

    Layer l computes ``y = relu(norm_l(conv(x, P_l)))``, adds x where the shapes are equal (``residual``), and pools if
    its specification says so. The image leaves after layer D: its features are the means over the map of what layer
    D put out, padded with zeros to the widest layer's channels. Layers beyond D are computed and masked, so that shapes
    do not depend on data; their values and gradients do not reach the result.

    With ``exits`` an image leaves after one of these layers, each of which has a head of its own (BranchyNet;
    Teerapittayanon et al. 2016, arXiv:1709.01686); else after any layer, by the one head.

    Every convolution kernel comes from outside. Stored here are the normalisation's scale and shift of each channel
    and the head. Normalisation is over groups of channels of one image (Wu and He 2018, arXiv:1803.08494), so that no
    sample sees another.

    Args:
        layers: a specification for each layer; their number is D_max.
        in_channels: channels of the image.
        num_classes: number of logits.
        norm_groups: groups of channels; a layer whose width it does not divide uses their greatest common divisor.
        residual: add a layer's input to its output where both have the same shape.
        exits: depths that images may leave at; the greatest depth is always among them. ``None``: all.
        dtype: compute type of the convolutions (float32 or bfloat16). Parameters, statistics, logits stay float32.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: no layers, a size below 1, or exits that are no layers' depths.
    """

    in_one_pass = True

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        in_channels: int,
        num_classes: int,
        norm_groups: int = 8,
        residual: bool = True,
        exits: Sequence[int] | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(layers) == 0:
            raise ValueError("PlainPuppet: layers is empty; a puppet has one layer or more (D_max >= 1)")
        in_channels = integer(in_channels, "PlainPuppet: in_channels")
        num_classes = integer(num_classes, "PlainPuppet: num_classes")
        norm_groups = integer(norm_groups, "PlainPuppet: norm_groups")
        self.layers = tuple(layers)
        widths = [spec.width for spec in self.layers]
        self.kernel_shapes = tuple(
            (spec.width, c_in, spec.kernel_size, spec.kernel_size)
            for spec, c_in in zip(self.layers, [in_channels, *widths[:-1]], strict=True)
        )
        self.max_depth = len(self.layers)
        self.levels = tuple(range(1, self.max_depth + 1))
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.norm_groups = norm_groups
        self.residual = residual
        self.dtype = jnp.dtype(dtype)
        self.norm_scale = nnx.List([nnx.Param(jnp.ones(width, jnp.float32)) for width in widths])
        self.norm_shift = nnx.List([nnx.Param(jnp.zeros(width, jnp.float32)) for width in widths])
        features = max(widths)
        self.head = nnx.Param(of_deviation(rngs.params(), (features, num_classes), 1 / math.sqrt(features)))
        self.head_bias = nnx.Param(jnp.zeros((num_classes,), jnp.float32))
        self.leave_at(exits)
        if self.exits is not None and len(self.exits) > 1:
            early = len(self.exits) - 1
            drawn = of_deviation(rngs.params(), (early, features, num_classes), 1 / math.sqrt(features))
            self.early_heads = nnx.Param(drawn)
            self.early_biases = nnx.Param(jnp.zeros((early, num_classes), jnp.float32))

    def __call__(
        self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int
    ) -> Float[Array, " num_classes"]:
        """Logits of one image.

        Args:
            image: float in [0, 1], ``(H, W, in_channels)``.
            kernels: one (C_out, C_in, K, K) a layer. With a Python ``depth`` the first ``depth`` are enough.
            depth: D, the layer to leave after; where that is no exit, the next one is taken. An array masks the layers
                beyond; a Python integer cuts them off.

        Raises:
            ValueError: the image is smaller than the strides allow or has other channels, or the kernels do not fit.
        """
        last = self.max_depth
        if isinstance(depth, int | np.integer):
            last = next((each for each in self.depths if each >= depth), int(depth))
        self.check(image.shape, [kernel.shape for kernel in kernels], last)
        x, logits, depth = self._pixels(image), jnp.zeros((self.num_classes,)), jnp.asarray(depth)
        before = 0
        for place in range(last):
            x, means = self.layer(x, kernels[place], place)
            if place + 1 in self.depths:
                logits = jnp.where((depth > before) & (depth <= place + 1), self.classify(means, place + 1), logits)
                before = place + 1
        return logits

    def batch(
        self,
        images: Float[Array, "b h w c"],
        indices: tuple[Int[Array, " b"], ...],
        bank: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...],
        depths: Int[Array, " b"],
        samples: Int[Array, " b"],
        lowering: str | None = None,
    ) -> Float[Array, "b num_classes"]:
        return self._through(images, indices, bank, depths, samples, lowering)[0][:, 0]

    def at_exits(self, *batch: Any, draw: Int[Array, ""] | None = None) -> Float[Array, "b exits num_classes"]:
        del draw
        return self._through(*batch, every=True)[0]

    def leaving(
        self, *batch: Any, confidence: Float[Array, ""]
    ) -> tuple[Float[Array, "b num_classes"], Int[Array, " b"]]:
        images, indices, bank, depths, _, lowering = batch
        if lowering is None and default_lowering(jax.default_backend()) != "native":
            return self._shrinking(images, indices, bank, depths, confidence)
        logits, left = self._through(*batch, confidence=confidence)
        return logits[:, 0], left

    def _through(
        self, images, indices, bank, depths, _, lowering, *, every: bool = False, confidence: Array | None = None
    ) -> tuple[Float[Array, "b exits num_classes"], Int[Array, " b"]]:
        """A batch's logits, of ``every`` exit or of the one that each image leaves at, and the depth of that."""
        x, left = self._pixels(images), jnp.zeros(images.shape[0], jnp.int32)
        # One head for all depths is applied once, at the end: until then an image has the features that it left with.
        kept = self.num_classes if self.exits else self.head.shape[0]
        found = jnp.zeros((images.shape[0], len(self.depths) if every else 1, kept), jnp.float32)
        for place, kernels in enumerate(bank[: self.max_depth]):
            # An image that has left gets index −1, for which the C++ convolution does no work.
            running = (depths > 0) & (left == 0)
            own = jnp.where(running, indices[place], -1)

            def run(x, found, left, own, kernels, depth=place + 1):
                y, means = self._layer_of_batch(x, own, kernels, depth, lowering)
                if depth in self.depths:
                    here = self.classify(means, depth) if self.exits else means
                    leaves = _leaves(here, depths, depth, confidence) & (own >= 0)
                    told = leaves[:, None]
                    if every:
                        told = (own >= 0)[:, None] & (np.array(self.depths) == depth)[None]
                    found = jnp.where(told[:, :, None], here[:, None], found)
                    left = jnp.where(leaves, depth, left)
                return y, found, left

            out = jax.eval_shape(run, x, found, left, own, kernels)[0]

            def skip(x, found, left, own, kernels, out=out):
                return jnp.zeros(out.shape, out.dtype), found, left

            @_recomputed
            def layer_or_none(x, found, left, own, kernels, run=run, skip=skip, running=running):
                return cond(jnp.any(running), run, skip, x, found, left, own, kernels)

            x, found, left = layer_or_none(x, found, left, own, kernels)
        return found if self.exits else self.classify(found, self.max_depth), left

    def _shrinking(
        self, images, indices, bank, depths, confidence
    ) -> tuple[Float[Array, "b num_classes"], Int[Array, " b"]]:
        """The same where images that have left cost as much as others: at each exit those that go on move to the front,
        and the half, quarter or eighth of the batch that holds them goes on."""
        x, left = self._pixels(images), jnp.zeros(len(images), jnp.int32)
        logits = jnp.zeros((len(images), self.num_classes), jnp.float32)
        sizes = [size for size in (len(images) >> halvings for halvings in range(4)) if size > 0]
        for before, depth in zip((0, *self.depths), self.depths, strict=False):
            running = (depths > 0) & (left == 0)
            front = jnp.argsort(~running)

            def segment(size, x, logits, left, before=before, depth=depth, running=running, front=front):
                rows, means = front[:size], None
                y = x[rows]
                for place in range(before, depth):
                    own = jnp.where(running, indices[place], -1)[rows]
                    y, means = self._layer_of_batch(y, own, bank[place], place + 1, None)
                here = self.classify(means, depth)
                leaves = _leaves(here, depths[rows], depth, confidence) & running[rows]
                logits = logits.at[rows].set(jnp.where(leaves[:, None], here, logits[rows]))
                left = left.at[rows].set(jnp.where(leaves, depth, left[rows]))
                return jnp.zeros((len(x), *y.shape[1:]), y.dtype).at[rows].set(y), logits, left

            smallest = jnp.sum(jnp.sum(running) <= jnp.asarray(sizes)) - 1
            ways = [functools.partial(segment, size) for size in sizes]
            x, logits, left = lax.switch(smallest, ways, x, logits, left)
        return logits, left

    def _layer_of_batch(self, x, own, kernels, depth: int, lowering: str | None):
        one = functools.partial(self.layer, index=depth - 1, lowering=lowering)
        mapped: Any = (0, Choice(0, None))  # type: ignore[arg-type]  # axes
        return jax.vmap(one, in_axes=mapped)(x, Choice(own, kernels))

    def classify(self, features: Float[Array, "*images features"], depth: int) -> Float[Array, "*images num_classes"]:
        """The head of this depth: logits of images' features."""
        head, bias = self.head[...], self.head_bias[...]
        if self.exits is not None and depth < self.max_depth:
            early = self.exits.index(depth)
            head, bias = self.early_heads[early], self.early_biases[early]
        return features @ head + jnp.expand_dims(bias, tuple(range(features.ndim - 1)))

    def cut(self, depth: int) -> None:
        """Leave out the layers beyond ``depth``, one of ``depths``, and with them the heads."""
        if depth == self.max_depth:
            return
        if self.exits is not None:
            early = self.exits.index(depth)
            heads, biases = self.early_heads[...], self.early_biases[...]
            self.head, self.head_bias = nnx.Param(heads[early]), nnx.Param(biases[early])
            self.early_heads, self.early_biases = nnx.Param(heads[:early]), nnx.Param(biases[:early])
            self.exits = self.exits[: early + 1]
        self.layers, self.kernel_shapes = self.layers[:depth], self.kernel_shapes[:depth]
        self.norm_scale, self.norm_shift = nnx.List(self.norm_scale[:depth]), nnx.List(self.norm_shift[:depth])
        self.max_depth, self.levels = depth, self.levels[:depth]

    def layer(
        self,
        x: Float[Array, "h w c_in"],
        kernel: Float[Array, "c_out c_in k k"] | Choice,
        index: int,
        lowering: str | None = None,
    ) -> tuple[Float[Array, "h_out w_out c_out"], Float[Array, " features"]]:
        """Layer ``index`` (from 0) of one image: convolution (its ``lowering`` as :func:`convolve` takes it),
        normalisation, activation, residual, pooling; and its mean over the map, padded to the widest layer."""
        spec = self.layers[index]
        norm = self.norm_scale[index][...], self.norm_shift[index][...]
        y, mean = layer(
            x,
            kernel,
            *norm,
            stride=spec.stride,
            groups=self.norm_groups,
            dtype=self.dtype,
            residual=self.residual,
            lowering=lowering,
        )
        if spec.pool > 1:
            y = pool(y, spec.pool)
            mean = jnp.mean(y, axis=(0, 1), dtype=jnp.float32)
        return y, jnp.pad(mean, (0, self.head[...].shape[0] - len(mean)))

    def compute_in(self, dtype: DTypeLike) -> None:
        """Set the compute type of the convolutions."""
        self.dtype = jnp.dtype(dtype)

    def normalisation_count(self) -> int:
        """Count the stored scales and shifts."""
        return sum(each.size for each in (*self.norm_scale, *self.norm_shift))

    def check(self, image_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through to depth ``last``."""
        least = math.prod(spec.stride * spec.pool for spec in self.layers)
        if min(image_shape[:2]) < least:
            raise ValueError(
                f"PlainPuppet: image of {image_shape[0]}×{image_shape[1]} pixels is smaller than strides and pooling "
                f"allow, {least}×{least}; enlarge the image or use fewer of them"
            )
        if image_shape[2] != self.in_channels:
            raise ValueError(
                f"PlainPuppet: image has {image_shape[2]} channels, the puppet was made for {self.in_channels}; "
                f"create it with in_channels={image_shape[2]}"
            )
        if not 1 <= last <= self.max_depth:
            raise ValueError(f"PlainPuppet: depth must lie in 1..{self.max_depth}, got {last}")
        if tuple(shapes[:last]) != self.kernel_shapes[:last]:
            raise ValueError(
                f"PlainPuppet: kernels must have shapes {self.kernel_shapes[:last]}, got {tuple(shapes)}; "
                "make the puppeteer from puppet.kernel_shapes"
            )

    def _pixels(self, images: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """Shift and scale pixels, of mean near 1/2 and standard deviation near 1/4: what the first layer reads."""
        return ((images - 0.5) * 4.0).astype(self.dtype)


def _leaves(logits, depths, depth: int, confidence: Array | None) -> Bool[Array, " b"]:
    """Whether an image leaves at this depth: it has its own, or is sure."""
    leaves = depths <= depth
    return leaves if confidence is None else leaves | (jnp.max(jax.nn.softmax(logits), axis=-1) >= confidence)


def pool(x: Float[Array, "h w c"], window: int) -> Float[Array, "h_out w_out c"]:
    """Take the mean of each window, in float32; rows and columns that do not fill one are dropped."""
    if window == 1:
        return x
    h, w, c = x.shape
    rows, columns = h // window, w // window
    # As a reshape: reduce_window's gradient is a scatter, slow on every platform.
    cells = x[: rows * window, : columns * window].reshape(rows, window, columns, window, c)
    return jnp.mean(cells, axis=(1, 3), dtype=jnp.float32).astype(x.dtype)
