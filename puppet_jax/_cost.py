"""What one image costs a puppet: multiplications and maps, counted in the program that JAX traces, nothing compiled."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Jaxpr, Literal

from puppet_jax._batch import make_bank
from puppet_jax._model import PuppetCNN
from puppet_jax.any_cnn._traced import parts

_SAME_NUMBERS = "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy", "name", "slice"


@dataclasses.dataclass(eq=False)
class _Map:
    """An array that is computed from the image."""

    size: int


def cost(model: PuppetCNN, image_shape: tuple[int, ...], depth: int | None = None) -> tuple[int, int]:
    """Multiplications of one image (H, W, C), and numbers in the largest two maps that are alive while one of them is
    computed; see :class:`Summary`. To a ``depth`` that images can leave at, or the full one."""
    if depth is not None:
        model = nnx.clone(model)
        model.puppet.cut(depth)
    graphdef, state = nnx.split(model)

    def run(images, state):
        model, zero = nnx.merge(graphdef, state), jnp.zeros(1, jnp.int32)
        bank = make_bank(model.puppeteer, jnp.zeros(1)).kernels[: len(model.puppet.kernel_shapes)]
        return model.puppet.batch(images, (zero,) * len(bank), bank, zero + model.max_depth, zero)

    program = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), state).jaxpr
    steps: list[tuple[int, list[_Map]]] = []
    _follow(program, [_Map(math.prod(image_shape)), *[None] * (len(program.invars) - 1)], 1, steps)
    touches = [(one, place) for place, (_, touched) in enumerate(steps) for one in touched]
    last, first = dict(touches), dict(reversed(touches))
    computed = [place for place, (multiplications, _) in enumerate(steps) if multiplications]
    alive = ([one.size for one in last if first[one] <= place <= last[one]] for place in computed)
    largest = max((sum(sorted(sizes)[-2:]) for sizes in alive), default=0)
    return sum(multiplications for multiplications, _ in steps), largest


def _follow(program: Jaxpr, given: Sequence[_Map | None], times: int, steps: list) -> list[_Map | None]:
    """Append to ``steps`` what a program multiplies, and the maps that it reads and writes, and return its results.
    ``given`` are its arguments, ``None`` for what is no map, such as kernels; it runs so many ``times``."""
    maps: dict[Any, _Map | None] = dict(zip(program.invars, given, strict=True))
    for step in program.eqns:
        arguments = [None if isinstance(value, Literal) else maps.get(value) for value in step.invars]
        read = [one for one in arguments if one is not None]
        # A function, a loop's body, or the last of the branches, which computes what the others skip.
        *_, part = None, *parts(step)
        results: list[_Map | None] = [*read[:1]] if step.primitive.name in _SAME_NUMBERS else []
        if part is not None:  # what it takes comes last among the operands
            own = arguments[len(arguments) - len(part.invars) :]
            results = _follow(part, own, times * step.params.get("length", 1), steps)
        for value, found in itertools.zip_longest(step.outvars, results):
            size = getattr(value.aval, "size", 0)
            maps[value] = (found if found and found.size == size else _Map(size)) if read else None
        if read:
            steps.append((times * _multiplications(step), [*read, *(maps[value] for value in step.outvars)]))
    return [None if isinstance(value, Literal) else maps.get(value) for value in program.outvars]


def _multiplications(step: Any) -> int:
    """Of a convolution or a matrix product: of each number of its result as many as are summed up."""
    name, size = step.primitive.name, step.outvars[0].aval.size
    shapes = [jnp.shape(value.aval) for value in step.invars]
    if name == "dot_general":
        return size * math.prod(shapes[0][axis] for axis in step.params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        return size * math.prod(shapes[1]) // shapes[1][step.params["dimension_numbers"].rhs_spec[0]]
    ends = {"puppet_forward": 4, "puppet_layer": 4, "puppet_depthwise_forward": 3}
    return size * math.prod(shapes[2][1 : ends[name]]) if name in ends else 0
