"""ContinuousPuppeteer: the proposed method. All kernels from one evaluation of an implicit function (§4)."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from puppet_jax._complexity import step_size
from puppet_jax._integers import integer
from puppet_jax.convolution import FactoredBank
from puppet_jax.puppeteers._base import Puppeteer, parameter, uniform
from puppet_jax.puppeteers._bilinear import combine
from puppet_jax.puppeteers._kernels import (
    Kernels,
    KernelShape,
    adaptive_average,
    check_standardisable,
    scale,
    standard_of_factors,
)

Conditioning = Literal["depth", "none"]


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
        kernels = self._made(self._scalar(h), (False,) * len(self.kernel_shapes))
        return tuple(jnp.transpose(kernel, (3, 2, 0, 1)) for kernel in kernels)

    def bank(
        self, complexities: Float[Array, " sets"]
    ) -> tuple[Float[Array, "sets k_h k_w c_in c_out"] | FactoredBank, ...]:
        """Make the kernels of images of these complexities: of each layer what its convolution takes fewest
        multiplications with, (S, K_h, K_w, C_in, C_out) or their factors."""
        factored = tuple(map(self._pays, self.kernel_shapes))
        made = jax.vmap(lambda h: self._made(h, factored))(complexities)

        def of_layer(kernels, shape, stays):
            if not stays:
                return kernels
            taps, factor_out = kernels
            factor_in, _ = self.matrices.factors(*shape[:2])
            return FactoredBank(taps, factor_out, _with_ones(factor_in) if self.standardise else factor_in)

        return tuple(map(of_layer, made, self.kernel_shapes, factored))

    def _pays(self, shape: KernelShape) -> bool:
        """Whether three convolutions with factors take clearly fewer multiplications than one with the kernel."""
        if self.matrices.rank is None:
            return False
        c_out, c_in, *size = shape
        taps = math.prod(size)
        whole = (4 if size == [3, 3] else taps) * c_in * c_out  # 3×3: Winograd's filtering
        return self.matrices.count * self.matrices.rank * (c_in + c_out + taps) < 0.75 * whole

    def _made(self, h: Float[Array, ""], factored: tuple[bool, ...]) -> list[Any]:
        """Make each layer's kernel (K_h, K_w, C_in, C_out); where it stays ``factored`` taps and output factor."""
        sines = self.network.sines(self._points(h))
        # Σ_b φ_b B_b = Σ_k sin(w_k · (x, y, s)) (Σ_b c_kb B_b): where sines are fewer, their matrices, the same for
        # every image, are made first.
        folded = self.network.hidden < self.matrices.count
        coefficients = sines @ self.network.coefficients[...]  # left out by the compiler where only sines are used
        # One set of matrices for each distinct channel shape, averaged before the product: pooling is linear and they
        # are the same for every image. Taps and input channels before output channels, as the convolution reads them:
        # a matrix product then writes the kernels in their final order.
        whole = [shape[:2] for shape, stays in zip(self.kernel_shapes, factored, strict=True) if not stays]
        pooled = {shape: jnp.swapaxes(self.matrices(*shape), 1, 2) for shape in whole}
        if folded:
            pooled = {shape: _plain(self.network.coefficients[...], matrices) for shape, matrices in pooled.items()}
        generate = _standardised if self.standardise else _plain
        made: list[Any] = []
        start = 0
        for (c_out, c_in, *size), stays in zip(self.kernel_shapes, factored, strict=True):
            of_layer = slice(start, start + math.prod(size))
            start = of_layer.stop
            if stays:
                taps, factor_out = self._factors(coefficients[of_layer], c_out, c_in)
                made.append((taps.reshape(*size, -1), factor_out))
            else:
                kernel = generate((sines if folded else coefficients)[of_layer], pooled[c_out, c_in])
                made.append(kernel.reshape(*size, c_in, c_out))
        return made

    def _factors(
        self, coefficients: Float[Array, "t b"], c_out: int, c_in: int
    ) -> tuple[Float[Array, "t r"], Float[Array, "r c_out"]]:
        """Make the two factors that belong to one kernel alone, so that the kernel is standardised."""
        taps = jnp.repeat(coefficients, self.matrices.rank or 1, axis=1)
        factor_in, factor_out = self.matrices.factors(c_out, c_in)
        if not self.standardise:
            return taps, factor_out
        mean, factor = standard_of_factors(taps, factor_in, factor_out)
        # One more product, of ones, takes the mean away.
        return _with_ones(taps), jnp.concatenate([factor_out, -mean[None]]) * factor

    @property
    def sizes(self) -> tuple[str, ...]:
        """What it consists of, in words: one line."""
        layers = len(self.kernel_shapes)
        return (f"{layers} layer{'s' * (layers > 1)}: {self.matrices}, {self.network.hidden} sines",)

    def _points(self, h: Float[Array, ""]) -> Float[Array, "taps 3"]:
        positions, layers = _tap_coordinates(self.kernel_shapes, self.numbers)
        s = layers * step_size(h) if self.conditioned else jnp.asarray(layers / layers[-1])
        return jnp.concatenate([jnp.asarray(positions), s[:, None]], axis=1)


def _with_ones(columns: Float[Array, "n r"]) -> Float[Array, "n r_and_one"]:
    return jnp.pad(columns, ((0, 0), (0, 1)), constant_values=1)


def _plain(taps: Float[Array, "t b"], matrices: Float[Array, "b i o"]) -> Float[Array, "t i o"]:
    """Make the kernel Σ_b taps[t, b] matrices[b]."""
    return combine(taps, matrices.reshape(len(matrices), -1)).reshape(-1, *matrices.shape[1:])


def _standardised(taps: Float[Array, "t b"], matrices: Float[Array, "b i o"]) -> Float[Array, "t i o"]:
    """Make the same kernel, standardised (see :func:`standardise`), in fewer passes over what is large.

    With B = B° + B̄, its mean over input channels apart, the kernel without its mean is Σ_b a_tb B°_b + Σ_b (a_tb − ā_b)
    B̄_b. The first term sums to zero over input channels and the second is the same for all of them, so that the
    variance is the sum of theirs, and nothing is subtracted from what is large.
    """
    means = jnp.mean(matrices, axis=1)
    varying = _plain(taps, matrices - means[:, None])
    level = (taps - jnp.mean(taps, axis=0, keepdims=True)) @ means
    variance = jnp.mean(varying**2, axis=(0, 1)) + jnp.mean(level**2, axis=0)
    factor = scale(variance, fan_in=len(taps) * matrices.shape[1])[None]
    return varying * factor[None] + (level * factor)[:, None]


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

    def __call__(self, points: Float[Array, "points inputs"]) -> Float[Array, "points outputs"]:
        """Return the coefficients at each point."""
        return self.sines(points) @ self.coefficients[...]

    def sines(self, points: Float[Array, "points inputs"]) -> Float[Array, "points hidden"]:
        """Return what the coefficients are sums of."""
        return jnp.sin(points @ self.weight[...] + self.bias[...][None])


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

    def __call__(self, c_out: int, c_in: int) -> Float[Array, "count c_out c_in"]:
        """Return the matrices, averaged down to these channels; of products the factors are: it comes to the same."""
        if self.rank is None:
            return adaptive_average(self.matrices[...], (self.count, c_out, c_in))
        left, right = self._averaged(c_out, c_in)
        return left @ right

    def factors(self, c_out: int, c_in: int) -> tuple[Float[Array, "c_in r"], Float[Array, "r c_out"]]:
        """Return the products' factors, averaged down to these channels, their R = count·rank columns side by side."""
        left, right = self._averaged(c_out, c_in)
        return jnp.moveaxis(right, 2, 0).reshape(c_in, -1), jnp.swapaxes(left, 1, 2).reshape(-1, c_out)

    def _averaged(
        self, c_out: int, c_in: int
    ) -> tuple[Float[Array, "count c_out rank"], Float[Array, "count rank c_in"]]:
        assert self.rank is not None
        left = adaptive_average(self.factor_out[...], (self.count, c_out, self.rank))
        return left, adaptive_average(self.factor_in[...], (self.count, self.rank, c_in))

    def __str__(self) -> str:
        what = "matrices" if self.rank is None else f"products of rank {self.rank}"
        return f"{self.count} {what}, {self.c_out}×{self.c_in}"
