"""OdePuppeteer: the conventional method. Kernels are points on the trajectory of an ODE (eqs. 1 and 2)."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from puppet_jax._complexity import initial_value, step_size
from puppet_jax.puppeteers import _bilinear as bilinear
from puppet_jax.puppeteers._base import Puppeteer, parameter
from puppet_jax.puppeteers._kernels import Kernels, KernelShape, adaptive_average, check_standardisable, standardise

Initial = Literal["constant", "low_rank", "full"]
Adjoint = Literal["recursive", "backsolve", "direct"]
Activation = Literal["tanh", "relu", "identity"]

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "identity": lambda x: x}
_ROOT_TOLERANCE = 1e-5


class OdePuppeteer(Puppeteer):
    """Kernels along dP/dt = G(P), P(0) = P0(H): the kernel of layer l is P at t = l·dl(H), l = 1 … L.

    The state P has the puppet's largest kernel shape, (C_out,max, C_in,max, K_max²). The published field G is one
    depthwise-separable convolution that reads P as an image of C_out,max channels on the plane (C_in,max, K_max²):
    depthwise 3×3 (zero padding), activation, pointwise across channels. Layer l uses P averaged down to its own
    shape. diffrax integrates; ``solver="Euler"`` with one step a layer is eq. (2),
    P_l = P_{l−1} + dl·G(P_{l−1}).

    Args:
        kernel_shapes: (C_out, C_in, K, K) of each layer.
        initial: the state at t = 0. ``"constant"`` is the printed form: P0 of eq. (7) everywhere. ``"low_rank"``
            adds a learned sum of ``rank`` outer products, ``"full"`` a learned tensor. From a constant state a 3×3
            stencil tells input channels apart only from the borders inwards, so the printed form learns little.
        rank: of the ``"low_rank"`` tensor.
        activation: inside G. ``"relu"`` costs smoothness in H; with anything but ``"tanh"`` G is unbounded.
        standardise: standardise each kernel before use; the printed form does not.
        solver: name of any diffrax ODE solver ("Euler", "Heun", "Tsit5", "Kvaerno5", …) or an instance of one.
            Implicit ones factor a Jacobian of the whole state: for small states only.
        steps_per_layer: fixed steps between two layers. Not used when ``tolerance`` is given.
        tolerance: relative and absolute tolerance of an adaptive solve (PID controller); needs a solver with an
            error estimate. A solve that fails yields non-finite kernels, never plausible ones.
        adjoint: how gradients are computed. ``"recursive"``: exact, checkpointed; a state a layer is kept,
            O(√steps) with ``tolerance``.
            ``"direct"``: exact, forward mode too, O(steps) states. ``"backsolve"``: the continuous adjoint, no
            state kept, gradients exact only in the limit of small steps.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: malformed shapes, or an option outside its range (the message lists what is allowed).
        TypeError: ``solver`` is not a name or a solver.
    """

    def __init__(
        self,
        kernel_shapes: Sequence[KernelShape],
        *,
        initial: Initial = "low_rank",
        rank: int = 4,
        activation: Activation = "tanh",
        standardise: bool = True,
        solver: str | diffrax.AbstractSolver = "Euler",
        steps_per_layer: int = 1,
        tolerance: float | None = None,
        adjoint: Adjoint = "recursive",
        rngs: nnx.Rngs,
    ):
        super().__init__(kernel_shapes)
        _check_choice("initial", initial, Initial)
        _check_choice("activation", activation, Activation)
        _check_choice("adjoint", adjoint, Adjoint)
        if rank < 1:
            raise ValueError(f"OdePuppeteer: rank must be at least 1, got {rank}")
        if steps_per_layer < 1:
            raise ValueError(f"OdePuppeteer: steps_per_layer must be at least 1, got {steps_per_layer}")
        if standardise:
            check_standardisable(self.kernel_shapes, "OdePuppeteer")
        self.activation = activation
        self.standardise = standardise
        self.solver = nnx.static(_find_solver(solver))
        self.steps_per_layer = steps_per_layer
        self.tolerance = _check_tolerance(tolerance, self.solver)
        self.adjoint = adjoint

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
        elif initial == "full":
            self.initial_full = parameter(rngs, 1.0, c_out, c_in, k2)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(C_out,max, C_in,max, K_max²), the shape of the ODE's state."""
        c_out, c_in, k = (max(shape[axis] for shape in self.kernel_shapes) for axis in range(3))
        return c_out, c_in, k * k

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Kernels of one image.

        Args:
            h: its complexity, a scalar >= 0.

        Returns:
            One float32 kernel (C_out, C_in, K, K) a layer. Layers beyond D(h) are the same trajectory continued.

        Raises:
            ValueError: ``h`` is not a scalar.
        """
        states = self._states(h)
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

    def trajectory(self, h: Real[ArrayLike, ""]) -> Float[Array, "layers c_out c_in k2"]:
        """The ODE's state at t = dl, 2·dl, …, L·dl, before pooling and standardisation."""
        return jnp.transpose(self._states(h), (0, 3, 2, 1))

    def _states(self, h: Real[ArrayLike, ""]) -> Float[Array, "layers k2 c_in c_out"]:
        h = self._scalar(h)
        layers = len(self.kernel_shapes)
        # In units of layers, τ = t / dl, every image is read at the same times 1 … L: dP/dτ = dl·G(P). The times are
        # then constants of the program and one Euler step is eq. (2) to the letter.
        args = {"dl": step_size(h), **self._parameters()}
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(self._slope),
            self.solver,
            t0=0.0,
            t1=float(layers),
            y0=_channels_last(self.initial_state(h)),
            args=args,
            adjoint=self._adjoint(layers),
            throw=False,
            **self._stepping(layers),
        )
        return solution.ys

    def initial_state(self, h: Real[ArrayLike, ""]) -> Float[Array, "c_out c_in k2"]:
        """P(0): P0(H) everywhere, plus the learned tensor if there is one."""
        state = jnp.broadcast_to(initial_value(h), self.state_shape)
        if self.initial == "low_rank":
            factors = self.initial_out[...], self.initial_in[...], self.initial_tap[...]
            return state + jnp.einsum("ro,ri,rk->oik", *factors)
        return state + self.initial_full[...] if self.initial == "full" else state

    def field(self, state: Float[Array, "c_out c_in k2"]) -> Float[Array, "c_out c_in k2"]:
        """G(P), the right-hand side of eq. (1)."""
        return _channels_last(_field(_channels_last(state), _ACTIVATIONS[self.activation], **self._parameters()))

    def _parameters(self) -> dict[str, Array]:
        names = "depthwise", "depthwise_bias", "pointwise", "pointwise_bias"
        return {name: getattr(self, name)[...] for name in names}

    def _slope(self, t, state, args):
        del t
        dl, parameters = args["dl"], {name: value for name, value in args.items() if name != "dl"}
        return dl * _field(state, _ACTIVATIONS[self.activation], **parameters)

    def _adjoint(self, layers: int) -> diffrax.AbstractAdjoint:
        if self.adjoint == "backsolve":
            return diffrax.BacksolveAdjoint()
        if self.adjoint == "direct":
            return diffrax.DirectAdjoint()
        # With fixed steps, as many states as there are kernels to keep anyway: at a step a layer none is computed a
        # third time, a quarter of the gradient's time at 128 channels.
        return diffrax.RecursiveCheckpointAdjoint(checkpoints=layers if self.tolerance is None else None)

    def _stepping(self, layers: int) -> dict:
        at_layers = diffrax.SaveAt(ts=[float(layer) for layer in range(1, layers + 1)])
        if self.tolerance is not None:
            controller = diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance)
            return {"dt0": None, "saveat": at_layers, "stepsize_controller": controller, "max_steps": 4096}
        steps = layers * self.steps_per_layer
        if self.adjoint == "backsolve":  # supports neither SaveAt(steps) nor steps to given times
            return {"dt0": 1.0 / self.steps_per_layer, "saveat": at_layers, "max_steps": steps + layers}
        # Saving by step and not by time spares the interpolation, in the gradient too (diffrax issue 592).
        times: Any = np.arange(steps + 1, dtype=np.float32) / self.steps_per_layer
        return {
            "dt0": None,
            "saveat": diffrax.SaveAt(steps=self.steps_per_layer),
            "stepsize_controller": diffrax.StepTo(ts=times),
            "max_steps": steps,
        }


def _channels_last(state):
    """(C_out, C_in, K²) to (K², C_in, C_out), and back. The integrator's own order: shifts along the plane are then
    shifts of whole rows of channels, three times as fast on a CPU, and the convolution reads kernels in the same."""
    return jnp.transpose(state, (2, 1, 0))


def _field(state, activation, *, depthwise, depthwise_bias, pointwise, pointwise_bias):
    mixed = bilinear.depthwise(state[None], jnp.transpose(depthwise, (1, 2, 0)))[0] + depthwise_bias[None, None]
    rows = activation(mixed).reshape(-1, pointwise.shape[1])
    return bilinear.combine(rows, pointwise.T).reshape(state.shape) + pointwise_bias[None, None]


def _check_choice(name: str, value, choices) -> None:
    if value not in get_args(choices):
        raise ValueError(f"OdePuppeteer: {name} must be one of {get_args(choices)}, got {value!r}")


def _check_tolerance(tolerance: float | None, solver: diffrax.AbstractSolver) -> float | None:
    if tolerance is None:
        return None
    if not tolerance > 0:
        raise ValueError(f"OdePuppeteer: tolerance must be positive, got {tolerance}")
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"OdePuppeteer: {type(solver).__name__} has no error estimate, so it cannot meet a tolerance; "
            'use solver="Tsit5", or leave tolerance out and set steps_per_layer'
        )
    return float(tolerance)


def _find_solver(solver: str | diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    if isinstance(solver, str):
        found = _ode_solvers().get(solver.lower())
        if found is None:
            names = ", ".join(sorted(cls.__name__ for cls in _ode_solvers().values()))
            raise ValueError(f"OdePuppeteer: unknown solver {solver!r}; diffrax has these for ODEs: {names}")
        if issubclass(found, diffrax.AbstractImplicitSolver):
            # With fixed steps there is no step controller to take the root finder's tolerance from.
            return found(root_finder=diffrax.VeryChord(rtol=_ROOT_TOLERANCE, atol=_ROOT_TOLERANCE))
        return found()
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"OdePuppeteer: solver must be a name or a diffrax solver, got {type(solver).__name__}; "
            'for example solver="Tsit5" or solver=diffrax.Tsit5()'
        )
    if solver.term_structure is not diffrax.AbstractTerm:
        raise ValueError(
            f"OdePuppeteer: {type(solver).__name__} is not for plain ODEs (it splits the field or needs noise); "
            'use for example solver="Tsit5"'
        )
    return solver


def _ode_solvers() -> dict[str, Any]:
    return {
        name.lower(): cls
        for name, cls in inspect.getmembers(diffrax, inspect.isclass)
        if issubclass(cls, diffrax.AbstractSolver)
        and not inspect.isabstract(cls)
        and getattr(cls, "term_structure", None) is diffrax.AbstractTerm
    }
