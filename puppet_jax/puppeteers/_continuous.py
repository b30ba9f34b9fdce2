"""ContinuousPuppeteer: the proposed method. All kernels from one evaluation of an implicit function (§4)."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from puppet_jax._complexity import step_size
from puppet_jax._integers import integer
from puppet_jax.convolution import FactoredBank
from puppet_jax.puppeteers._base import Puppeteer, parameter, uniform
from puppet_jax.puppeteers._factors import standardised_factors
from puppet_jax.puppeteers._kernels import (
    Kernels,
    KernelShape,
    adaptive_average,
    averages,
    check_standardisable,
    product,
    standardised,
)

Conditioning = Literal["depth", "none"]

Factors = tuple[dict[int, Float[Array, "b c_in rank"]], dict[int, Float[Array, "b rank c_out"]]]
"""Of matrices that are products, the two factors by the number of channels that they were averaged to."""


class ContinuousPuppeteer(Puppeteer):
    """A continuous kernel ψ(x, y, s; H) → (C_out, C_in), sampled at every tap of every layer at once.

    (x, y) in [−1, 1]² is the position inside the kernel and s = l·dl(H) the depth coordinate of layer l, the one the
    ODE evolves along. A layer of sines and a linear one map (x, y, s) to ``basis`` coefficients φ_b of C_out,max ×
    C_in,max matrices: ψ = Σ_b φ_b(x, y, s)·B_b. The matrices are averaged down to each layer's channels. Nothing is
    sequential in depth, and a kernel of any size is a sampling of the same function.

    Args:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.
        basis: number of matrices B_b, most of all that is stored.
        rank: of each B_b, stored as a product of two factors; ``None``: B_b is stored whole.
        hidden: number of the network's sines.
        omega: frequency scale ω0 of the sines over the kernel, at first, in radians a unit of x and y.
        omega_depth: the same over the depth coordinate; ``None``: ``omega``. Layers are 1 / D apart in it where taps
            are 1 apart in x: more makes neighbouring layers less alike, and the kernels less alike that images of
            different complexity get.
        conditioning: how the kernels depend on H. ``"depth"``: through s = l·dl(H). ``"none"``: s = l over the last l,
            the same kernels for every image.
        standardise: standardise each kernel before use.
        numbers: l of each layer, where these are not all layers of the puppet; 1, 2, … otherwise.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: malformed shapes or an option outside its range.
    """

    skips = True

    def __init__(
        self,
        kernel_shapes: Sequence[KernelShape],
        *,
        basis: int = 64,
        rank: int | None = 2,
        hidden: int = 24,
        omega: float = 10.0,
        omega_depth: float | None = None,
        conditioning: Conditioning = "depth",
        standardise: bool = True,
        numbers: Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(kernel_shapes)
        basis = integer(basis, "ContinuousPuppeteer: basis")
        rank = None if rank is None else integer(rank, "ContinuousPuppeteer: rank")
        hidden = integer(hidden, "ContinuousPuppeteer: hidden")
        omega_depth = omega if omega_depth is None else omega_depth
        for name, frequency in (("omega", omega), ("omega_depth", omega_depth)):
            if not frequency > 0:
                raise ValueError(f"ContinuousPuppeteer: {name} must be positive, got {frequency}")
        if conditioning not in get_args(Conditioning):
            raise ValueError(
                f"ContinuousPuppeteer: conditioning must be one of {get_args(Conditioning)}, got {conditioning!r}"
            )
        if standardise:
            check_standardisable(self.kernel_shapes, "ContinuousPuppeteer")
        self.standardise = standardise
        self.numbers = tuple(numbers or range(1, len(self.kernel_shapes) + 1))
        self.conditioned = conditioning != "none"
        self.network = CoordinateNetwork(hidden, basis, omega=(omega, omega, omega_depth), rngs=rngs)
        c_out, c_in = (max(shape[axis] for shape in self.kernel_shapes) for axis in range(2))
        # Σ_b φ_b B_b, coefficients of unit variance: He's variance for the widest 3×3 layer.
        scale = math.sqrt(2.0 / (9 * c_in * basis))
        self.matrices = ChannelMatrices(basis, c_out, c_in, rank=rank, scale=scale, rngs=rngs)

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Make the kernels of one image; layers beyond D(h) continue the function past s = 1."""
        made = self._made(self._scalar(h)[None], jnp.zeros(1, jnp.int32), (False,) * len(self.kernel_shapes))
        return tuple(jnp.transpose(kernel[0], (3, 2, 0, 1)) for kernel in made)

    def bank(
        self, complexities: Float[Array, " sets"], needed: Int[Array, ""] | None = None
    ) -> tuple[Float[Array, "sets k_h k_w c_in c_out"] | FactoredBank, ...]:
        """Make the kernels of images of these complexities, or of the first ``needed``: of each layer what its
        convolution takes fewest multiplications with, (S, K_h, K_w, C_in, C_out) or their factors."""
        sets = jnp.arange(len(complexities), dtype=jnp.int32)
        index = jnp.zeros_like(sets) if needed is None else jnp.where(sets < needed, 0, -1)
        return self._made(complexities, index, tuple(map(self._pays, self.kernel_shapes)))

    def _pays(self, shape: KernelShape) -> bool:
        """Whether three convolutions with factors take clearly fewer multiplications than one with the kernel."""
        if self.matrices.rank is None:
            return False
        c_out, c_in, *size = shape
        taps = math.prod(size)
        whole = (4 if size == [3, 3] else taps) * c_in * c_out  # 3×3: Winograd's filtering
        return self.matrices.count * self.matrices.rank * (c_in + c_out + taps) < 0.75 * whole

    def _made(
        self, h: Float[Array, " sets"], index: Int[Array, " sets"], factored: tuple[bool, ...]
    ) -> tuple[Any, ...]:
        """Make each layer's kernels (S, K_h, K_w, C_in, C_out), or factors where it is ``factored``; of the sets whose
        ``index`` is −1 none."""
        # Split, as the gradient of slices is a sum of padded arrays.
        ends = np.cumsum([math.prod(size) for _, _, *size in self.kernel_shapes])[:-1].tolist()
        points = self._points(h)
        sines, coefficients = (jnp.split(f(points), ends, axis=1) for f in (self.network.sines, self.network))
        # Σ_b φ_b B_b = Σ_k sin(w_k · (x, y, s)) (Σ_b c_kb B_b): where sines are fewer, their matrices, the same for
        # every image, are made first.
        fold = self.network.coefficients[...] if self.network.hidden < self.matrices.count else None
        # One set of matrices for each distinct channel shape, averaged before the product: pooling is linear and they
        # are the same for every image. Taps and input channels before output channels, as the convolution reads them:
        # a product then writes the kernels in their final order.
        factors = self.matrices.averaged(self.kernel_shapes)
        whole = {shape[:2] for shape, stays in zip(self.kernel_shapes, factored, strict=True) if not stays}
        pooled = {shape: self.matrices(*shape, factors, fold) for shape in whole}

        def of_layer(layer):
            c_out, c_in, *size = self.kernel_shapes[layer]
            if factored[layer]:
                return self._factors(coefficients[layer], factors[0][c_in], factors[1][c_out], index, size)
            rows = (coefficients if fold is None else sines)[layer]
            kernels = product(rows, pooled[c_out, c_in][None], index).reshape(len(h), -1, c_in, c_out)
            kernels = standardised(kernels, index) if self.standardise else kernels
            return kernels.reshape(-1, *size, c_in, c_out)

        return tuple(map(of_layer, range(len(factored))))

    def _factors(
        self,
        coefficients: Float[Array, "s t b"],
        factor_in: Float[Array, "b c_in rank"],
        factor_out: Float[Array, "b rank c_out"],
        index: Int[Array, " s"],
        size: list[int],
    ) -> FactoredBank:
        """Make the factors of one layer's kernels; the two that belong to one kernel alone standardise it."""
        sets, c_in, c_out = len(coefficients), factor_in.shape[1], factor_out.shape[2]
        taps = jnp.repeat(coefficients, factor_in.shape[2], axis=2)
        factor_in, factor_out = jnp.swapaxes(factor_in, 0, 1).reshape(c_in, -1), factor_out.reshape(-1, c_out)
        if self.standardise:
            outs = standardised_factors(taps, index, factor_in, factor_out)
            taps, factor_in = _with_ones(taps), _with_ones(factor_in)
        else:
            outs = jnp.broadcast_to(factor_out, (sets, *factor_out.shape))
        return FactoredBank(taps.reshape(sets, *size, -1), outs, factor_in)

    @property
    def sizes(self) -> tuple[str, ...]:
        """What it consists of, in words: one line."""
        layers = len(self.kernel_shapes)
        return (f"{layers} layer{'s' * (layers > 1)}: {self.matrices}, {self.network.hidden} sines",)

    def _points(self, h: Float[Array, " sets"]) -> Float[Array, "sets taps 3"]:
        positions, layers = _tap_coordinates(self.kernel_shapes, self.numbers)
        steps = step_size(h) if self.conditioned else jnp.full(h.shape, 1 / layers[-1])
        s = steps[:, None] * layers[None]
        return jnp.concatenate([jnp.broadcast_to(positions, (*s.shape, 2)), s[..., None]], axis=2)


def _with_ones(columns: Float[Array, "*n r"]) -> Float[Array, "*n r_and_one"]:
    return jnp.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, 1)], constant_values=1)


def _tap_coordinates(kernel_shapes: tuple[KernelShape, ...], numbers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) of every tap of every layer, at equal steps over [−1, 1], and the number of its layer."""
    positions, layers = [], []
    for layer, (_, _, *size) in zip(numbers, kernel_shapes, strict=True):
        y, x = np.meshgrid(*(np.linspace(-1.0, 1.0, k) if k > 1 else np.zeros(1) for k in size), indexing="ij")
        positions.append(np.stack([x.ravel(), y.ravel()], axis=1))
        layers.append(np.full(x.size, layer))
    return np.concatenate(positions).astype(np.float32), np.concatenate(layers).astype(np.float32)


class CoordinateNetwork(nnx.Module):
    """The implicit function behind continuous kernels: from points z to coefficients of variance one, sin(z W + b) C.

    A SIREN (Sitzmann et al. 2020, arXiv:2006.09661) of one sine layer, but for its frequency scale ω, which is the
    initial scale of W. It is no factor in front of W, as in the paper's sin(ω (z W + b)): under Adam, whose steps do
    not know the scale of a gradient, that factor multiplies the learning rate of the network against that of
    everything else.

    Args:
        hidden: number of sines.
        outputs: number of coefficients.
        omega: frequency scale ω of the sines at first, in radians a unit: one for each coordinate.
        rngs: Flax random streams; ``params`` is used.
    """

    def __init__(self, hidden: int, outputs: int, *, omega: Sequence[float], rngs: nnx.Rngs):
        self.hidden = hidden

        def draw(bound, *shape):
            return nnx.Param(uniform(rngs.params(), shape, bound))

        # Sitzmann et al. §3.2: the arguments of the sines spread over ω.
        self.weight = draw(np.asarray(omega)[:, None] / len(omega), len(omega), hidden)
        self.bias = draw(math.pi, hidden)
        # A sine layer's outputs have mean square 1/2.
        self.coefficients = draw(math.sqrt(6.0 / hidden), hidden, outputs)

    def __call__(self, points: Float[Array, "*n inputs"]) -> Float[Array, "*n outputs"]:
        """Return the coefficients at each point."""
        return self.sines(points) @ self.coefficients[...]

    def sines(self, points: Float[Array, "*n inputs"]) -> Float[Array, "*n hidden"]:
        """Return what the coefficients are sums of."""
        return jnp.sin(points @ self.weight[...] + jnp.expand_dims(self.bias[...], range(points.ndim - 1)))


class ChannelMatrices(nnx.Module):
    """The ``count`` matrices (C_out, C_in) that a kernel is a sum of, their entries of deviation ``scale`` at first.

    Each is a product of two factors of rank ``rank``: count·rank·(C_out + C_in) numbers. ``None``: the matrices
    themselves, count·C_out·C_in.
    """

    def __init__(self, count: int, c_out: int, c_in: int, *, rank: int | None, scale: float, rngs: nnx.Rngs):
        self.count, self.rank, self.c_out, self.c_in = count, rank, c_out, c_in
        if rank is None:
            self.matrices = parameter(rngs, scale, count, c_out, c_in)
        else:
            deviation = math.sqrt(scale / math.sqrt(rank))
            self.factor_out = parameter(rngs, deviation, count, c_out, rank)
            self.factor_in = parameter(rngs, deviation, count, rank, c_in)

    def __call__(
        self, c_out: int, c_in: int, factors: Factors, fold: Float[Array, "n count"] | None
    ) -> Float[Array, "n c_in_times_c_out"]:
        """Return the matrices (C_in, C_out), averaged down to these channels, or ``n`` sums of them with weights
        ``fold``."""
        if self.rank is None:
            matrices = jnp.swapaxes(adaptive_average(self.matrices[...], (self.count, c_out, c_in)), 1, 2)
        else:
            matrices = product(factors[0][c_in], factors[1][c_out], jnp.arange(self.count, dtype=jnp.int32))
        matrices = matrices.reshape(self.count, -1)
        return matrices if fold is None else product(fold[None], matrices[None], jnp.zeros(1, jnp.int32))[0]

    def averaged(self, shapes: Sequence[KernelShape]) -> Factors:
        """Return the products' factors, averaged down to these layers' channels: those of averaged matrices."""
        if self.rank is None:
            return {}, {}
        outs, ins = (sorted({shape[axis] for shape in shapes}) for axis in range(2))
        of_ins = [jnp.swapaxes(each, 1, 2) for each in averages(self.factor_in[...], ins)]
        of_outs = averages(jnp.swapaxes(self.factor_out[...], 1, 2), outs)
        return dict(zip(ins, of_ins, strict=True)), dict(zip(outs, of_outs, strict=True))

    def __str__(self) -> str:
        what = "matrices" if self.rank is None else f"products of rank {self.rank}"
        return f"{self.count} {what}, {self.c_out}×{self.c_in}"
