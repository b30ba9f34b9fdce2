"""A traced forward as a flat list of steps, and three questions to it: is it the same computation as another, what
would be zero if some value were, and what is needed for the result."""

import dataclasses
import re
from collections.abc import Hashable, Iterable
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

_INLINED = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
)
_MARK = "puppet_jax:"
# Primitives whose result is zero where their argument is; where either factor is; where all arguments are.
_KEEPS_ZERO = frozenset(
    {"abs", "broadcast_in_dim", "convert_element_type", "copy", "div", "erf", "expm1", "name", "neg", "reduce_max"}
    | {"reduce_precision", "reduce_sum", "reduce_window_max", "reduce_window_sum", "reshape", "rev", "slice", "sqrt"}
    | {"square", "squeeze", "stop_gradient", "tanh", "transpose"}
)
_PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
_ALL_ZERO = frozenset({"add", "add_any", "sub", "max", "min", "concatenate", "pad"})


@dataclasses.dataclass(frozen=True)
class Literal:
    """A number in the program's text."""

    value: bytes
    dtype: str


Value = int | Literal


@dataclasses.dataclass(frozen=True)
class Step:
    """One primitive: its name, what it reads and writes, what it writes looks like, and its parameters."""

    name: str
    reads: tuple[Value, ...]
    writes: tuple[int, ...]
    avals: tuple[str, ...]
    params: dict[str, Any]

    @property
    def mark(self) -> str | None:
        name = self.params.get("name") if self.name == "name" else None
        return name.removeprefix(_MARK) if isinstance(name, str) and name.startswith(_MARK) else None


def marked(x, text: str):
    """``x``, and a step in the program that says where: :attr:`Step.mark`."""
    return checkpoint_name(x, _MARK + text)


class Program:
    """A jaxpr without its nested calls. Loops and branches stay single steps.

    Args:
        closed: the jaxpr.
        labels: a name for each of its inputs, the image last.
        operands: its inputs but the image.
    """

    def __init__(self, closed: core.ClosedJaxpr, labels: Iterable[str], operands: list[Any]):
        self.closed, self.operands = closed, operands
        self.steps: list[Step] = []
        self._count = 0
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.known: dict[int, Hashable] = {}
        environment: dict[Any, Value] = {}
        for variable, label in zip(closed.jaxpr.invars, labels, strict=True):
            self.known[self._new(environment, variable)] = label
        self.image = self._count - 1
        self._constants(closed, environment)
        self._inline(closed.jaxpr, environment)
        self.outputs = tuple(self._value(v, environment) for v in closed.jaxpr.outvars)

    def _new(self, environment: dict[Any, Value], variable: Any) -> int:
        environment[variable] = self._count
        self.shapes[self._count] = getattr(variable.aval, "shape", ())
        self._count += 1
        return self._count - 1

    def _value(self, atom: Any, environment: dict[Any, Value]) -> Value:
        if isinstance(atom, core.Literal):
            return Literal(np.asarray(atom.val).tobytes(), str(atom.aval))
        return environment[atom]

    def _constants(self, closed: core.ClosedJaxpr, environment: dict[Any, Value]) -> None:
        for variable, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
            place = self._new(environment, variable)
            concrete = not isinstance(value, jax.core.Tracer)
            if concrete and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            self.known[place] = (str(variable.aval), np.asarray(value).tobytes()) if concrete else id(value)

    def _inline(self, jaxpr: core.Jaxpr, environment: dict[Any, Value]) -> None:
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            reads = tuple(self._value(v, environment) for v in equation.invars)
            inner = [v for v in equation.params.values() if isinstance(v, core.Jaxpr | core.ClosedJaxpr)]
            if name in _INLINED and len(inner) == 1:
                inside: dict[Any, Value] = {}
                nested = inner[0]
                if isinstance(nested, core.ClosedJaxpr):
                    self._constants(nested, inside)
                    nested = nested.jaxpr
                if len(nested.invars) == len(reads):
                    inside |= zip(nested.invars, reads, strict=True)
                    self._inline(nested, inside)
                    environment |= {
                        outer: self._value(v, inside) for outer, v in zip(equation.outvars, nested.outvars, strict=True)
                    }
                    continue
            writes = tuple(self._new(environment, v) for v in equation.outvars)
            avals = tuple(str(v.aval) for v in equation.outvars)
            self.steps.append(Step(name, reads, writes, avals, dict(equation.params)))

    def numbers(self, table: dict[Hashable, int]) -> tuple[Hashable, ...]:
        """A number for each output, from a ``table`` that programs share: equal if they are computed alike."""
        found: dict[Value, Hashable] = {}
        for value, key in self.known.items():
            found[value] = table.setdefault(("known", key), len(table))
        for step in self.steps:
            reads = tuple(found.get(v, v) for v in step.reads)
            if step.mark is not None:
                found[step.writes[0]] = reads[0]
                continue
            params = re.sub(r"0x[0-9a-f]+", "", repr(step.params))
            for i, write in enumerate(step.writes):
                found[write] = table.setdefault((step.name, reads, step.avals, params, i), len(table))
        return tuple(found.get(v, v) for v in self.outputs)

    def reached(self, start: Iterable[int], leave_out: range = range(0)) -> set[int]:
        """All that is computed from these values; the steps numbered ``leave_out`` are not followed."""
        found = set(start)
        for i, step in enumerate(self.steps):
            if i not in leave_out and not found.isdisjoint(step.reads):
                found.update(step.writes)
        return found

    def zero(self, start: Iterable[int]) -> set[Value]:
        """All that is zero if these values are."""
        found: set[Value] = set(start)

        def is_zero(value: Value) -> bool:
            return value in found or (isinstance(value, Literal) and not any(value.value))

        for step in self.steps:
            reads = step.reads[1:] if step.name == "select_n" else step.reads
            if (
                (step.name in _KEEPS_ZERO and is_zero(reads[0]))
                or (step.name in _PRODUCTS and any(map(is_zero, reads)))
                or ((step.name in _ALL_ZERO or step.name == "select_n") and all(map(is_zero, reads)))
            ):
                found.update(step.writes)
        return found

    def needed(self, without: int) -> set[Value]:
        """What the outputs are computed from, if ``without`` were given."""
        found: set[Value] = set(self.outputs)
        for step in reversed(self.steps):
            if without not in step.writes and not found.isdisjoint(step.writes):
                found.update(step.reads)
        return found
