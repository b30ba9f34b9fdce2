"""An ONNX graph under construction, and arrays of a traced function as tensors in it.

An array's axes may stand in another order in its tensor, and those along which it is constant may be missing: moving
axes and broadcasting, which JAX writes out, then cost no node, and a convolution's maps stay channels-first from one
to the next. What depends on parameters alone is in the main graph, wherever it is used: runtimes compute it once.
"""

import itertools
import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

BATCH = 1_000_003
"""What stands for the number of images where a file takes any: a length that is no other axis's, nor a factor of it."""


class Value(NamedTuple):
    """An array of the traced function.

    Attributes:
        shape, dtype: of the array.
        name: of its tensor.
        order: which of the array's axes each of the tensor's is, −1 for one of length 1 that is none of them. The array
            is constant along those that are missing.
        number: what every element is, where that is known; then there is no tensor yet.
        problem: why there can be none, for whoever needs it.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    name: str = ""
    order: tuple[Any, ...] = ()
    number: Any = None
    problem: str = ""


class Graph:
    """Nodes and initializers with short names; equal ones are made once."""

    def __init__(self) -> None:
        self._names = (
            "".join(letters) for n in itertools.count(1) for letters in itertools.product(_LETTERS, repeat=n)
        )
        self._scopes: list[tuple[list, dict]] = [([], {})]
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._tensors: dict[tuple, str] = {}
        self.ranges: set[str] = set()  # names of 0, 1, 2, …
        self._varying: set[str] = set()  # names of what depends on the images

    def varying(self, name: str = "") -> str:
        """A name, new if none is given, of what depends on the images."""
        name = name or next(self._names)
        self._varying.add(name)
        return name

    def tensor(self, array: Any, dtype: Any = None) -> str:
        """The name of a constant."""
        array = np.asarray(array, dtype)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._tensors:
            name = self._tensors[key] = next(self._names)
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._tensors[key]

    def node(self, op: str, *inputs: str, outputs: int = 0, varies: bool = False, **attributes: Any) -> Any:
        """The name of a node's result, or a list of ``outputs``. One that ``varies`` is made where it is asked for."""
        new = varies
        varies = varies or not self._varying.isdisjoint(inputs)
        key = op, inputs, outputs, "" if new else repr(attributes)
        for _, made in [] if new else self._scopes if varies else self._scopes[:1]:
            if key in made:
                return made[key]
        nodes, made = self._scopes[-1 if varies else 0]
        names = [self.varying() if varies else next(self._names) for _ in range(outputs or 1)]
        nodes.append(helper.make_node(op, inputs, names, **attributes))
        result = names if outputs else names[0]
        if not new:
            made[key] = result
        return result

    def ints(self, *numbers: Any) -> str:
        return self.tensor(numbers, np.int64)

    def lengths(self, lengths: Iterable[Any]) -> str:
        """What a tensor is reshaped to: −1 stands for the length that has the batch in it."""
        return self.ints(*(length if length % BATCH else -1 for length in lengths))

    def constant(self, array: Any) -> Value:
        """A constant array; of one number where all of it is the same. A random key has no tensor."""
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return Value(array.shape, array.dtype, problem="random keys")
        array = np.asarray(array)
        if array.size and (array == array.flat[0]).all():
            return Value(array.shape, array.dtype, number=array.flat[0])
        return Value(array.shape, array.dtype, self.tensor(array), tuple(range(array.ndim)))

    # ---- Axes

    def arranged(self, value: Value, axes: Sequence[Any], *, full: bool = False, trimmed: bool = False) -> str:
        """The tensor with these axes of the array in this order. Of those along which it is constant, it has length 1
        unless ``full``; the first of them are left out if ``trimmed``. ``ValueError`` if there is none."""
        if value.problem:
            raise ValueError(
                f"export: the model computes {value.problem}, which is not written as ONNX; leave it out of the "
                "puppetized module, or export to a path that does not end in .onnx"
            )
        name, order = value.name, list(value.order)
        if value.number is not None:
            name = self.tensor(value.number, value.dtype)
        if gone := [place for place, axis in enumerate(order) if axis not in axes]:
            name = self.node("Squeeze", name, self.ints(*gone))
            order = [axis for axis in order if axis in axes]
        there = [axis for axis in axes if axis in order]
        if there != order:
            name = self.node("Transpose", name, perm=[order.index(axis) for axis in there])
        lengths = [value.shape[axis] if full and axis not in order else 1 for axis in axes]
        grows = max(lengths, default=1) != 1
        missing = [place for place, axis in enumerate(axes) if axis not in order]
        if trimmed or grows:  # broadcasting supplies axes before the first
            first = next((place for place, axis in enumerate(axes) if axis in order), len(axes))
            missing = [place - first for place in missing if place > first]
        if missing:
            name = self.node("Unsqueeze", name, self.ints(*missing))
        return self.node("Expand", name, self._sizes(lengths)) if grows else name

    def _sizes(self, lengths: Sequence[Any]) -> str:
        """A tensor of lengths, among them that of the batch."""
        batch = self.node("Shape", "images", start=0, end=1)
        parts = [self.node("Mul", batch, self.ints(n // BATCH)) if n % BATCH == 0 else self.ints(n) for n in lengths]
        return self.node("Concat", *parts, axis=0) if any(n % BATCH == 0 for n in lengths) else self.ints(*lengths)

    def full(self, value: Value, axes: Sequence[Any] | None = None) -> Value:
        """The same array with all of its axes in its tensor, in this order; in their own if ``None``."""
        axes = tuple(range(len(value.shape)) if axes is None else axes)
        return value._replace(name=self.arranged(value, axes, full=True), order=axes, number=None)

    def every_axis(self, value: Value) -> tuple[Any, ...]:
        """All axes of an array, those in its tensor as they stand there."""
        there = [axis for axis in value.order if axis >= 0]
        return (*(axis for axis in range(len(value.shape)) if axis not in there), *there)

    def elementwise(self, op: str, values: Sequence[Value], shape: Any, dtype: Any, **attributes: Any) -> Value:
        """A node whose operands broadcast; the result's axes are in the order of the operand that has most."""
        base = [axis for axis in max((value.order for value in values), key=len) if axis >= 0]
        more = {axis for value in values for axis in value.order if axis >= 0} - set(base)
        order = sorted([*base, *more]) if base == sorted(base) else [*sorted(more), *base]
        names = [self.arranged(value, order, trimmed=True) for value in values]
        return Value(shape, dtype, self.node(op, *names, **attributes), tuple(order))

    def relabelled(self, value: Value, shape: Sequence[Any], axes: Sequence[Any]) -> Value:
        """The same numbers as an array of this shape, whose axis ``axes[i]`` is what axis i was: −1 for one of length 1
        that goes, or along which it is repeated."""
        return value._replace(
            shape=tuple(shape), order=tuple(int(axes[axis]) if axis >= 0 else -1 for axis in value.order)
        )

    def reshaped(self, value: Value, shape: Sequence[Any]) -> Value:
        """The array in this shape; axes that only merge or split stay in their place among the tensor's."""
        if value.number is not None:
            return value._replace(shape=tuple(shape))
        groups, order = _groups(value.shape, shape), value.order
        for old, new in groups:
            places = [order.index(axis) for axis in old if axis in order]
            if len(new) + len(old) > 2 and places and places != list(range(places[0], places[0] + len(old))):
                order = tuple(axis for old, _ in groups for axis in old)
                break
        moved = {old[0]: new for old, new in groups}
        free = [axis for axis, length in enumerate(shape) if length == 1]
        axes: list[int] = []
        for axis in order:
            alone = axis < 0 or value.shape[axis] == 1  # in no group
            axes += [free.pop(0) if free else -1] if alone else moved.get(axis, ())
        name = value.name
        if any(len(old) + len(new) > 2 for old, new in groups if old[0] in order):
            axes = [axis for axis in axes if axis >= 0]
            name = self.node("Reshape", self.arranged(value, order, full=True), self.lengths(shape[a] for a in axes))
        return value._replace(shape=tuple(shape), name=name, order=tuple(axes))

    # ---- Graphs within the graph

    def subgraph(self, make: Callable[[], Iterable[Value]], inputs: Sequence[Any] = ()) -> onnx.GraphProto:
        """What ``make`` adds, as a graph whose results are the values that it returns, all of their axes there."""
        self._scopes.append(([], {}))
        try:
            # A result must be made in the graph itself, and be none of the others.
            results = [each._replace(name=self.node("Identity", each.name, varies=True)) for each in make()]
        finally:
            nodes, _ = self._scopes.pop()
        names = [each.name for each in results]
        return helper.make_graph(_needed(nodes, names), "g", inputs, list(map(self.info, results)))

    def info(self, value: Value) -> onnx.ValueInfoProto:
        """What a graph says of an input or a result."""
        sizes = [value.shape[axis] if value.shape[axis] % BATCH else "batch" for axis in value.order]
        return helper.make_tensor_value_info(value.name, element(value.dtype), sizes)

    def proto(self, inputs: Sequence[Value], outputs: dict[str, Value]) -> onnx.GraphProto:
        """The graph, without what no output needs."""
        nodes, results = self._scopes[0][0], [self.full(value)._replace(name=name) for name, value in outputs.items()]
        for value, result in zip(map(self.full, outputs.values()), results, strict=True):
            nodes.append(helper.make_node("Identity", [value.name], [result.name]))
        nodes = _needed(nodes, outputs)
        used = {name for node in nodes for name in _reads(node)}
        kept = [tensor for name, tensor in self.initializers.items() if name in used]
        return helper.make_graph(nodes, "puppet", [*map(self.info, inputs)], [*map(self.info, results)], kept)


_LETTERS = string.ascii_letters + string.digits


def element(dtype: Any) -> int:
    """ONNX's number of a type, or ``ValueError``."""
    dtype = np.dtype(dtype)
    if dtype.isbuiltin != 1 or dtype.kind not in "biuf":
        raise ValueError(f"export: the model computes in {dtype}, which is not written as ONNX; use dtype float32")
    return helper.np_dtype_to_tensor_dtype(dtype)


def _groups(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes of one size that hold the same numbers, those of length 1 left out."""
    olds = [axis for axis, length in enumerate(old) if length != 1]
    news = [axis for axis, length in enumerate(new) if length != 1]
    groups = []
    while olds:
        group = [olds.pop(0)], [news.pop(0)]
        while (left := math.prod(old[axis] for axis in group[0])) != (
            right := math.prod(new[axis] for axis in group[1])
        ):
            group[left > right].append((news if left > right else olds).pop(0))
        groups.append(group)
    return groups


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, and those that the graphs in it do."""
    graphs = [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in _reads(inner))]


def _needed(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Nodes that make these and what they read, each just before it is read: maps and kernels do not live long."""
    makers = {name: node for node in nodes for name in node.output}
    kept, done, left = [], set(names) - set(makers), [makers[name] for name in reversed([*names]) if name in makers]
    while left:
        waits = [makers[name] for name in _reads(left[-1]) if name in makers and name not in done]
        if waits:
            left.append(waits[0])
        elif (node := left.pop()).output[0] not in done:
            kept.append(node)
            done.update(node.output)
    return kept
