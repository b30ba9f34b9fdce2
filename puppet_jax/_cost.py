"""What one image costs a puppet: multiplications and maps, counted in the program that JAX traces, nothing compiled."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one image at full depth, its kernels given. ``str(cost)`` is two lines.

    Attributes:
        multiplications: of convolutions and matrix products, as they are computed: of factored layers three thin
            convolutions, of zeros around a map too; not fewer for Winograd's filtering.
        map_numbers: numbers in the largest two maps that are alive at once, while one is computed from another.
    """

    multiplications: int
    map_numbers: int

    def __str__(self) -> str:
        maps = f"{4 * self.map_numbers:,} bytes as float32, {self.map_numbers:,} as int8"
        all_layers = f"{self.multiplications:,} multiplications an image in convolutions and products, at full depth"
        return f"{all_layers}\nlargest two maps at once {maps}"


@dataclasses.dataclass(eq=False)
class _Map:
    """An array that is computed from the image."""

    size: int


_Step = tuple[int, list[_Map], list[_Map]]  # multiplications, maps read, maps written


def cost(model: PuppetCNN, image_shape: tuple[int, int, int]) -> Cost:
    """Trace a model on one image (H, W, C), and count."""

    def run(images, state, depth):
        model, zero = nnx.merge(graphdef, state), jnp.zeros(1, jnp.int32)
        model.eval()
        bank = make_bank(model.puppeteer, jnp.zeros(1)).kernels
        return model.puppet.batch(images, (zero,) * len(bank), bank, depth, zero)

    graphdef, state = nnx.split(model)
    images, depth = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    program = jax.make_jaxpr(run)(images, state, depth)
    image = _Map(math.prod(image_shape))
    steps, _ = _follow(program.jaxpr, [image, *[None] * (len(program.jaxpr.invars) - 1)])
    last = {one: place for place, (_, read, written) in enumerate(steps) for one in (*read, *written)}
    alive, most = {image}, 0
    for place, (multiplications, _, written) in enumerate(steps):
        alive.update(written)
        if multiplications:
            most = max(most, sum(sorted(one.size for one in alive)[-2:]))
        alive = {one for one in alive if last[one] > place}
    return Cost(_total(steps), most)


def _follow(program: Jaxpr, given: Sequence[_Map | None]) -> tuple[list[_Step], list[_Map | None]]:
    """The steps of a program whose arguments are these maps (``None``: no map, such as a kernel), and its results."""
    steps: list[_Step] = []
    maps: dict[Any, _Map | None] = dict(zip(program.invars, given, strict=True))

    def of(value):
        return None if isinstance(value, Literal) else maps.get(value)

    for step in program.eqns:
        written: list[Any] = step.outvars
        arguments = [of(value) for value in step.invars]
        read = [one for one in arguments if one is not None]
        # Of branches that which costs most: a block that runs. What a part takes comes last among the operands.
        ways = [_follow(part, arguments[len(arguments) - len(part.invars) :]) for part in parts(step)]
        inner, results = max(ways, key=lambda way: _total(way[0]), default=([], []))
        if _total(inner):
            times = step.params.get("length", 1)  # of a loop
            steps += [(times * multiplications, *maps_of) for multiplications, *maps_of in inner]
            results = [
                one and (one if one.size == value.aval.size else _Map(value.aval.size))
                for one, value in zip(results, written, strict=True)
            ]
        elif not read:
            continue
        elif step.primitive.name in _SAME_NUMBERS and read[0].size == written[0].aval.size:
            results = [read[0]]
        else:
            results = [_Map(value.aval.size) for value in written]
        maps.update(zip(written, results, strict=True))
        steps.append((_multiplications(step), read, [one for one in results if one is not None]))
    return steps, [of(value) for value in program.outvars]


def _total(steps: list[_Step]) -> int:
    return sum(multiplications for multiplications, _, _ in steps)


def _multiplications(step: Any) -> int:
    """Of a convolution or a matrix product: of each number of its result as many as are summed up."""
    out: Any = step.outvars[0].aval
    name, shapes = step.primitive.name, [jnp.shape(value.aval) for value in step.invars]
    if name == "dot_general":
        (axes, _), _ = step.params["dimension_numbers"]
        return out.size * math.prod(shapes[0][axis] for axis in axes)
    if name == "conv_general_dilated":
        kernel = shapes[1]
        return out.size * math.prod(kernel) // kernel[step.params["dimension_numbers"].rhs_spec[0]]
    if name in ("puppet_forward", "puppet_layer"):
        return out.size * math.prod(shapes[2][1:4])
    return out.size * math.prod(shapes[2][1:3]) if name == "puppet_depthwise_forward" else 0
