"""What a module's forward does with the arrays that it holds, read off the program that JAX traces of it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, Literal

_SAME = "convert_element_type", "copy", "copy_p", "sharding_constraint", "pvary"
_RANDOM = "random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"


def puppet_own_kernel(kernel):
    """The kernel, marked as the one that a layer convolves with, as its class does."""
    return kernel


_OWN_KERNEL = puppet_own_kernel.__name__
own_kernel = jax.jit(puppet_own_kernel)


class _Origin(NamedTuple):
    """What a value is: ``whole``, an argument of the program, if it is one; ``parts``, the arguments of three axes and
    more that it is computed from, not through a convolution or a matrix product."""

    whole: int | None = None
    parts: frozenset[int] = frozenset()


class Uses:
    """What a program does with its arguments, which are counted from 0.

    Args:
        program: the program.

    Attributes:
        read: arguments that something is computed from, other than a convolution from a kernel that is marked.
        kernels: arguments that kernels of convolutions are, or are computed from, but for marked ones.
        results: of each result, which argument it is, or ``None``.
        draws: whether random numbers are drawn.
    """

    def __init__(self, program: Any):
        self.read: set[int] = set()
        self.kernels: set[int] = set()
        self.draws = False
        self._sizes = [getattr(variable.aval, "size", 0) for variable in program.jaxpr.invars]
        axes = [getattr(variable.aval, "ndim", 0) for variable in program.jaxpr.invars]
        given = [_Origin(i, frozenset([i] if count > 2 else [])) for i, count in enumerate(axes)]
        self.results = [origin.whole for origin in self._follow(program.jaxpr, given)]

    def _follow(self, program: Jaxpr, given: Sequence[_Origin]) -> list[_Origin]:
        """The origins of the results of a program, or of a part of it, from those of its arguments."""
        origins: dict[Any, _Origin] = dict(zip(program.invars, given, strict=False))

        def of(value):
            return _Origin() if isinstance(value, Literal) else origins.get(value, _Origin())

        for step in program.eqns:
            arguments, count = [of(value) for value in step.invars], len(step.outvars)
            if step.params.get("name") == _OWN_KERNEL:
                continue
            # What a function, a branch or a loop's body takes comes last among the operands.
            inner = [self._follow(part, arguments[max(0, len(arguments) - len(part.invars)) :]) for part in parts(step)]
            ways = [results for results in inner if len(results) == count]
            results = map(self._either, *ways) if ways else [self._computed(step, arguments)] * count
            origins.update(zip(step.outvars, results, strict=True))
        return [of(value) for value in program.outvars]

    def _computed(self, step: Any, arguments: list[_Origin]) -> _Origin:
        name = step.primitive.name
        if name in _SAME:
            return arguments[0]
        self.read.update(origin.whole for origin in arguments if origin.whole is not None)
        self.draws |= name in _RANDOM
        if name == "conv_general_dilated":
            parts = arguments[1].parts  # with a scale and the like, which are smaller
            largest = max((self._sizes[part] for part in parts), default=0)
            self.kernels.update(part for part in parts if self._sizes[part] == largest)
            return _Origin()
        return _Origin() if name == "dot_general" else _Origin(None, _all_parts(arguments))

    def _either(self, *origins: _Origin) -> _Origin:
        """What comes of one of several branches."""
        if len(set(origins)) == 1:
            return origins[0]
        self.read.update(origin.whole for origin in origins if origin.whole is not None)
        return _Origin(None, _all_parts(origins))


def _all_parts(origins: Sequence[_Origin]) -> frozenset[int]:
    return frozenset().union(*(origin.parts for origin in origins))


def parts(step: Any) -> Iterator[Jaxpr]:
    """The programs inside a step: a function's, those of branches, a loop's body, whose condition is passed over."""
    for key, value in step.params.items():
        for each in value if isinstance(value, tuple | list) else [value]:
            part = getattr(each, "jaxpr", each)
            if isinstance(part, Jaxpr) and key != "cond_jaxpr":
                yield part
