"""Kernels generated at a few nodes and interpolated: a kernel depends on the image through one scalar only (§5a)."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from puppet_jax.puppeteers.protocol import Kernels, Puppeteer, check_complexity
from puppet_jax.schedule import step_size

FULL_RANGE = (0.0, 8.0)
"""Every complexity there is, in bits: the entropy of 256 levels is at most 8."""

_COUNTS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
_PROBES = 33
_ROUNDING = 3e-5

Nodes = tuple[float, ...]
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where kernels are known, and how to weigh them at any complexity. Plain numbers, so it is static under ``jit``.

    Attributes:
        interval: the complexities covered. Outside, h is clamped to it (see :meth:`clamped`).
        ranges: least and greatest step size dl of each layer's polynomial. Where an image does not reach a layer, that
            layer's (masked) kernel is the one at the end of its range: far outside, a polynomial overflows.
        nodes: step sizes dl of each layer's nodes.
        levels: the least depth D that uses each layer.
    """

    interval: Range
    ranges: tuple[Range, ...]
    nodes: tuple[Nodes, ...]
    levels: tuple[int, ...]

    def weights(self, h: Real[ArrayLike, ""]) -> tuple[Float[Array, " _"], ...]:
        """Each layer's interpolation weights at one image's complexity; they sum to one.

        Raises:
            ValueError: ``h`` is not a scalar.
        """
        h = check_complexity(h, "Grid.weights")
        dl = step_size(jnp.clip(h, *self.interval))
        pairs = list(zip(self.nodes, self.ranges, strict=True))
        weights = {pair: _lagrange(pair[0], jnp.clip(dl, *pair[1])) for pair in dict.fromkeys(pairs)}
        return tuple(weights[pair] for pair in pairs)

    def covers(self, levels: Sequence[int]) -> bool:
        """Whether every layer's kernels are known wherever D reaches the layer's level, within the interval."""
        return all(
            most >= _active(level, *self.interval)[1] for (_, most), level in zip(self.ranges, levels, strict=True)
        )

    def clamped(self, h: Real[ArrayLike, "*batch"]) -> Bool[Array, "*batch"]:
        """Whether a complexity lies outside the interval and is therefore treated as the nearer end of it."""
        low, high = self.interval
        return (jnp.asarray(h) < low) | (jnp.asarray(h) > high)


class InterpolatedPuppeteer(nnx.Module):
    """Another puppeteer, evaluated at nodes in H and interpolated between them; made by :func:`interpolate`.

    The kernel of layer l is the polynomial in dl = tanh(1 / H) through the wrapped puppeteer's kernels at Chebyshev
    nodes: dl is the variable that generation is smooth in, where H is not (near 0 all of it happens below one bit).
    Differentiable in the wrapped puppeteer's parameters. Under ``vmap`` over h the nodes are evaluated once, so that a
    training step generates as many kernel sets as there are nodes, whatever the batch.

    Attributes:
        puppeteer: the wrapped source of kernels, with all the parameters.
        grid: the nodes.
    """

    def __init__(self, puppeteer: Puppeteer, grid: Grid):
        self.puppeteer = puppeteer
        self.kernel_shapes = puppeteer.kernel_shapes
        self.grid = grid

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Kernels of one image of complexity ``h``, a scalar; one (C_out, C_in, K, K) a layer.

        Raises:
            ValueError: ``h`` is not a scalar.
        """
        pairs = zip(self.grid.weights(h), self.tables(), strict=True)
        # Each node's kernel as the convolution reads it, (K, K, C_in, C_out): the product with a batch of weights then
        # writes kernels that need no reordering.
        flat = [(w, jnp.transpose(table, (0, 3, 4, 2, 1))) for w, table in pairs]
        return tuple(jnp.transpose(jnp.tensordot(w, table, axes=1), (3, 2, 0, 1)) for w, table in flat)

    def tables(self) -> tuple[Float[Array, "_ _ _ _ _"], ...]:
        """The wrapped puppeteer's kernels at the nodes, (M_l, C_out, C_in, K, K) for each layer l.

        Layers with the same nodes share one evaluation.
        """
        nodes_of = self.grid.nodes
        evaluated = {nodes: jax.vmap(self.puppeteer)(_complexities(nodes)) for nodes in dict.fromkeys(nodes_of)}
        return tuple(evaluated[nodes][layer] for layer, nodes in enumerate(nodes_of))


def interpolate(
    puppeteer: Puppeteer,
    *,
    interval: tuple[float, float] = FULL_RANGE,
    tolerance: float = 1e-5,
    nodes: int | None = None,
    shared: bool = False,
    levels: Sequence[int] | None = None,
) -> InterpolatedPuppeteer:
    """Wrap a puppeteer so that it is evaluated at M nodes, once for a batch, instead of once for every image.

    Args:
        puppeteer: any source of kernels.
        interval: the complexities to cover, in the unit of h. The default covers every image; a training set's own
            range needs fewer nodes. Nothing is extrapolated: outside, h is clamped to the interval.
        tolerance: greatest relative error of a kernel anywhere in the interval, in the Frobenius norm; the fewest nodes
            that keep it are chosen by evaluating the puppeteer, which must therefore be concrete (not inside ``jit``).
            The default leaves a relative error of logits below 1e-4. A puppeteer's own rounding in float32, at most
            3e-5, is not held against it. :func:`interpolation_error` tells what was reached.
        nodes: M, fixed by the caller instead of by a tolerance.
        shared: give all layers the same nodes over the whole interval, so that one evaluation of each node serves
            them all: the cheapest to generate, for training. Otherwise each layer has its own on the part of the
            interval where it can be active: the fewest to interpolate from, for inference.
        levels: the least depth D(h) that uses each layer, a puppet's ``levels``; the default is a plain puppet's, l for
            layer l.

    Raises:
        ValueError: an empty or negative interval, ``nodes`` < 1, ``levels`` that are not one a layer, all >= 1, or a
            tolerance that 256 nodes do not reach.
    """
    count = len(puppeteer.kernel_shapes)
    levels = tuple(range(1, count + 1) if levels is None else levels)
    if len(levels) != count or min(levels) < 1:
        raise ValueError(f"interpolate: levels must be {count} depths, one a layer, all >= 1, got {levels}")
    low, high = (float(end) for end in interval)
    if not 0 <= low < high < math.inf:
        raise ValueError(f"interpolate: interval must be (low, high) with 0 <= low < high, got {interval}")
    if nodes is not None:
        if nodes < 1:
            raise ValueError(f"interpolate: nodes must be at least 1, got {nodes}")
        return _with_counts(puppeteer, (low, high), [nodes] * count, shared, levels)
    if not tolerance > 0:
        raise ValueError(f"interpolate: tolerance must be positive, got {tolerance}")
    generate = _Generator(puppeteer)
    ranges = _ranges((low, high), levels, shared)
    counts = []
    for layer, layer_range in enumerate(ranges):
        dl, exact = _probes(generate, layer, levels[layer], (low, high))
        errors = {}
        for count in _COUNTS:
            nodes = _chebyshev(*layer_range, count)
            errors[count] = _relative_error(generate(nodes, layer), nodes, layer_range, dl, exact)
            if errors[count] <= tolerance:
                break
        else:
            count = _rounding_floor(errors)
            if count is None:
                raise ValueError(
                    f"interpolate: {_COUNTS[-1]} nodes leave a relative error of {errors[_COUNTS[-1]]:.1e} in layer "
                    f"{layer + 1}, above the tolerance {tolerance:.1e}; narrow the interval to the data's own "
                    "complexities, raise the tolerance, or use a smoother generator (tanh, not relu, inside the ODE; "
                    "a smaller omega)"
                )
        counts.append(count)
    return _with_counts(puppeteer, (low, high), counts, shared, levels)


def _rounding_floor(errors: dict[int, float]) -> int | None:
    """The fewest nodes that reach the floor where more do not help because the puppeteer's own kernels are no more
    exact in float32 (near H = 0 the initial value is steep); ``None`` if the errors are large or still falling."""
    last = [errors[count] for count in _COUNTS[-4:]]
    if max(last) > _ROUNDING or 2 * min(last[2:]) < min(last[:2]):
        return None
    return next(count for count in _COUNTS if errors[count] <= max(last))


def interpolation_error(interpolated: InterpolatedPuppeteer) -> list[float]:
    """The relative error actually reached by each layer, largest over the part of the interval where it is active.

    ‖K̂(h) − K(h)‖ / max_h ‖K(h)‖ in the Frobenius norm, at 33 complexities evenly spaced in dl, the ends included.
    """
    generate = _Generator(interpolated.puppeteer)
    errors = []
    grid = interpolated.grid
    for layer, (nodes, layer_range) in enumerate(zip(grid.nodes, grid.ranges, strict=True)):
        dl, exact = _probes(generate, layer, grid.levels[layer], grid.interval)
        errors.append(_relative_error(generate(nodes, layer), nodes, layer_range, dl, exact))
    return errors


class _Generator:
    """A puppeteer's kernels at any number of step sizes, from one program for eight of them; each is evaluated once."""

    def __init__(self, puppeteer: Puppeteer):
        graphdef, state = nnx.split(puppeteer)
        self._run = jax.jit(lambda h: jax.vmap(nnx.merge(graphdef, state))(h))
        self._known: dict[float, list[np.ndarray]] = {}

    def __call__(self, dls: Nodes, layer: int) -> np.ndarray:
        """Layer ``layer``'s kernels (from 0), one flat row for each of ``dls``."""
        missing = [dl for dl in dict.fromkeys(dls) if dl not in self._known]
        for start in range(0, len(missing), 8):
            part = missing[start : start + 8]
            kernels = [np.asarray(k) for k in self._run(_complexities((*part, *[part[-1]] * (8 - len(part)))))]
            for i, dl in enumerate(part):
                self._known[dl] = [kernel[i].ravel() for kernel in kernels]
        return np.stack([self._known[dl][layer] for dl in dls])


def _probes(generate: _Generator, layer: int, level: int, interval: Range) -> tuple[np.ndarray, np.ndarray]:
    dl = np.linspace(*_active(level, *interval), _PROBES)
    return dl, generate(tuple(dl), layer)


def _relative_error(table: np.ndarray, nodes: Nodes, layer_range: Range, dl: np.ndarray, exact: np.ndarray) -> float:
    # On the host: with JAX each number of nodes would have every operation compiled, for seconds in all.
    weights = _lagrange(nodes, np.clip(dl.astype(np.float32), *layer_range), np)
    norm = np.linalg.norm(exact, axis=1).max()
    return float(np.linalg.norm(weights @ table - exact, axis=1).max() / (norm if norm > 0 else 1.0))


def _with_counts(
    puppeteer: Puppeteer, interval: Range, counts: list[int], shared: bool, levels: tuple[int, ...]
) -> InterpolatedPuppeteer:
    ranges = _ranges(interval, levels, shared)
    # Layers active on the same range share nodes, so that they share an evaluation too.
    most = {r: max(c for c, other in zip(counts, ranges, strict=True) if other == r) for r in ranges}
    return InterpolatedPuppeteer(
        puppeteer, Grid(interval, tuple(ranges), tuple(_chebyshev(*r, most[r]) for r in ranges), levels)
    )


def _ranges(interval: Range, levels: tuple[int, ...], shared: bool) -> list[Range]:
    return [_active(1 if shared else level, *interval) for level in levels]


def _active(level: int, low: float, high: float) -> Range:
    """The step sizes of complexities in [low, high] whose depth reaches ``level``: dl <= 1 / level (eq. 6)."""
    least = math.tanh(1.0 / high)
    most = math.tanh(1.0 / low) if low > 0 else 1.0
    if 1.0 / level <= least:  # never active on this interval: any range serves, the nearest end is taken
        return least, least
    return least, min(most, 1.0 / level)


def _chebyshev(start: float, stop: float, count: int) -> Nodes:
    if start == stop:
        return (start,)
    angles = (2 * np.arange(count) + 1) * np.pi / (2 * count)
    return tuple((start + stop) / 2 - (stop - start) / 2 * np.cos(angles))


def _complexities(nodes: Nodes) -> Float[Array, " _"]:
    """The h whose step size is dl; beyond float32's reach of 1, h = 0."""
    dl = np.asarray(nodes)
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.where(dl < 1.0, 1.0 / np.arctanh(np.minimum(dl, 1 - 1e-15)), 0.0), jnp.float32)


def _lagrange(nodes: Nodes, dl, xp=jnp):
    """Lagrange's basis at ``dl``, any shape, along a last axis, by the barycentric formula (Berrut and Trefethen 2004),
    safe on a node; float32, computed with ``xp``: jax.numpy or numpy."""
    count = len(nodes)
    if count == 1:
        return xp.ones((*dl.shape, 1), np.float32)
    k = np.arange(count)
    signed = ((-1.0) ** k * np.sin((2 * k + 1) * np.pi / (2 * count))).astype(np.float32)
    difference = dl[..., None] - np.asarray(nodes, np.float32)
    on_node = difference == 0.0
    terms = signed / xp.where(on_node, np.float32(1.0), difference)
    weights = terms / xp.sum(terms, axis=-1, keepdims=True)
    return xp.where(xp.any(on_node, axis=-1, keepdims=True), on_node.astype(np.float32), weights)
