"""OdePuppeteer: the conventional method. Kernels are points on the trajectory of an ODE (eqs. 1 and 2)."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from puppet_jax._complexity import initial_value, step_size
from puppet_jax._integers import integer
from puppet_jax.convolution._lowerings import Geometry
from puppet_jax.convolution._primitives import depthwise_p
from puppet_jax.puppeteers._base import Puppeteer, parameter
from puppet_jax.puppeteers._kernels import (
    Kernels,
    KernelShape,
    adaptive_average,
    check_standardisable,
    product,
    standardise,
)

Initial = Literal["constant", "low_rank"]


class OdePuppeteer(Puppeteer):
    """Kernels along dP/dt = G(P), P(0) = P0(H): the kernel of layer l is P at t = l·dl(H), l = 1 … L.

    The state P has the puppet's largest kernel shape, (C_out,max, C_in,max, K_max²), of equal sides. The published
    field G is one depthwise-separable convolution that reads P as an image of C_out,max channels on the plane
    (C_in,max, K_max²): depthwise 3×3 (zero padding), tanh, pointwise across channels. Layer l uses P averaged
    down to its own shape; layers beyond D(H) are the same trajectory continued. One step of Euler's method is eq. (2),
    P_l = P_{l−1} + dl·G(P_{l−1}). For gradients one state a layer is kept.

    Args:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.
        initial: the state at t = 0. ``"constant"`` is the printed form: P0 of eq. (7) everywhere. ``"low_rank"``
            adds a learned sum of ``rank`` outer products. From a constant state a 3×3 stencil tells input channels
            apart only from the borders inwards, so the printed form learns little.
        rank: of the ``"low_rank"`` tensor.
        standardise: standardise each kernel before use; the printed form does not.
        solver: an explicit ODE solver of diffrax, such as ``diffrax.Tsit5()``; ``None`` is ``diffrax.Euler()``.
        steps_per_layer: its steps between two layers.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: malformed shapes, or an option outside its range (the message lists what is allowed).
        TypeError: ``solver`` is not an explicit ODE solver.
    """

    def __init__(
        self,
        kernel_shapes: Sequence[KernelShape],
        *,
        initial: Initial = "low_rank",
        rank: int = 4,
        standardise: bool = True,
        solver: diffrax.AbstractSolver | None = None,
        steps_per_layer: int = 1,
        rngs: nnx.Rngs,
    ):
        super().__init__(kernel_shapes)
        if initial not in get_args(Initial):
            raise ValueError(f"OdePuppeteer: initial must be one of {get_args(Initial)}, got {initial!r}")
        rank = integer(rank, "OdePuppeteer: rank")
        if standardise:
            check_standardisable(self.kernel_shapes, "OdePuppeteer")
        self.standardise = standardise
        self.solver = nnx.static(_explicit(diffrax.Euler() if solver is None else solver))
        self.steps_per_layer = integer(steps_per_layer, "OdePuppeteer: steps_per_layer")

        c_out, c_in, k2 = self.state_shape
        # LeCun et al. 1998: each linear map keeps the variance of what it reads.
        self.depthwise = parameter(rngs, 1 / 3, c_out, 3, 3)
        self.depthwise_bias = nnx.Param(jnp.zeros((c_out,), jnp.float32))
        self.pointwise = parameter(rngs, 1 / math.sqrt(c_out), c_out, c_out)
        self.pointwise_bias = nnx.Param(jnp.zeros((c_out,), jnp.float32))
        self.initial = initial
        if initial == "low_rank":
            scale = rank ** (-1 / 6)  # three factors, `rank` terms: entries of standard deviation 1
            self.initial_out = parameter(rngs, scale, rank, c_out)
            self.initial_in = parameter(rngs, scale, rank, c_in)
            self.initial_tap = parameter(rngs, scale, rank, k2)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(C_out,max, C_in,max, K_max²), the shape of the ODE's state."""
        c_out, c_in, k_h, k_w = (max(sizes) for sizes in zip(*self.kernel_shapes, strict=True))
        return c_out, c_in, max(k_h, k_w) ** 2

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Make the kernels of one image."""
        states = self._states(self._scalar(h))
        k2, c_in, c_out = states.shape[1:]
        k = math.isqrt(k2)
        kernels = tuple(
            jnp.transpose(
                adaptive_average(state.reshape(k, k, c_in, c_out), (*shape[2:], shape[1], shape[0])), (3, 2, 0, 1)
            )
            # Split, as the gradient of slices is a sum of padded arrays.
            for state, shape in zip(jnp.split(states, len(states)), self.kernel_shapes, strict=True)
        )
        return tuple(standardise(kernel) for kernel in kernels) if self.standardise else kernels

    def _states(self, h: Float[Array, ""]) -> Float[Array, "layers k2 c_in c_out"]:
        """Return the ODE's state at t = dl, 2·dl, …, L·dl, before averaging and standardisation."""
        # In units of layers, τ = t / dl, every image is read at the same times 1 … L: dP/dτ = dl·G(P). The times are
        # then constants of the program and one Euler step is eq. (2) to the letter.
        term = diffrax.ODETerm(self._slope)
        args = {"dl": step_size(h), **self._parameters()}
        start = _channels_last(self.initial_state(h))
        times = np.arange(len(self.kernel_shapes) * self.steps_per_layer + 1, dtype=np.float32) / self.steps_per_layer
        ends = np.stack([times[:-1], times[1:]], axis=1).reshape(-1, self.steps_per_layer, 2)

        # With diffrax's solver but not its loop: that checks constants by a callback to Python, which no program for
        # another platform and no file can hold, and it differentiates in none of JAX's manual meshes.
        def step(carry, ends):
            state, memory = carry
            state, _, _, memory, _ = self.solver.step(term, *ends, state, args, memory, made_jump=False)
            return (state, memory), None

        @jax.checkpoint  # a state a layer is kept, no more than there are kernels
        def layer(carry, ends):
            carry, _ = lax.scan(step, carry, ends) if self.steps_per_layer > 1 else step(carry, ends[0])
            return carry, carry[0]

        memory = self.solver.init(term, times[0], times[1], start, args)
        return lax.scan(layer, (start, memory), jnp.asarray(ends))[1]

    def initial_state(self, h: Real[ArrayLike, ""]) -> Float[Array, "c_out c_in k2"]:
        """Return P(0): P0(H) everywhere, plus the learned tensor if there is one."""
        state = jnp.broadcast_to(initial_value(h), self.state_shape)
        if self.initial == "low_rank":
            factors = self.initial_out[...], self.initial_in[...], self.initial_tap[...]
            return state + jnp.einsum("ro,ri,rk->oik", *factors)
        return state

    def _parameters(self) -> dict[str, Array]:
        names = "depthwise", "depthwise_bias", "pointwise", "pointwise_bias"
        return {name: getattr(self, name)[...] for name in names}

    def _slope(self, t, state, args):
        del t
        dl, parameters = args["dl"], {name: value for name, value in args.items() if name != "dl"}
        return dl * _field(state, **parameters)


def _channels_last(state):
    """Transpose (C_out, C_in, K²) to (K², C_in, C_out), and back.

    The integrator's own order: shifts along the plane are then shifts of whole rows of channels, three times as fast
    on a CPU, and the convolution reads kernels in the same.
    """
    return jnp.transpose(state, (2, 1, 0))


def _field(state, *, depthwise, depthwise_bias, pointwise, pointwise_bias):
    """G of a state in the integrator's order: an image of K² × C_in pixels, both convolutions those of images."""
    geometry, index = Geometry(state.shape[:2], (3, 3), (1, 1), ((1, 1), (1, 1))), jnp.zeros(1, jnp.int32)
    taps = jnp.transpose(depthwise, (2, 1, 0))[None]
    (mixed,) = depthwise_p.bind(state[None], index, taps, geometry=geometry, sets=1, lowering=None)
    rows = jnp.tanh(mixed + depthwise_bias[None, None]).reshape(1, -1, pointwise.shape[1])
    return product(rows, pointwise.T[None], index).reshape(state.shape) + pointwise_bias[None, None]


def _explicit(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """Return the solver, or raise ``TypeError`` if it is none that takes fixed steps along a plain ODE."""
    if (
        not isinstance(solver, diffrax.AbstractSolver)
        or isinstance(solver, diffrax.AbstractImplicitSolver)
        or solver.term_structure is not diffrax.AbstractTerm
    ):
        raise TypeError(
            f"OdePuppeteer: solver must be an explicit ODE solver of diffrax, got {type(solver).__name__}; for example "
            "solver=diffrax.Tsit5()"
        )
    return solver
