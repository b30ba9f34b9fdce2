"""Each primitive of a traced function as nodes of an ONNX graph."""

import functools
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from puppet_jax._onnx_graph import Graph, Value, element

_SAME = ("copy", "copy_p", "name", "optimization_barrier", "reduce_precision", "stop_gradient", "pvary")
_ALIKE = "abs acos acosh add and asin asinh atan atanh ceil cos cosh div erf exp floor log max min mul neg not or pow "
_ALIKE += "sign sin sinh sqrt sub tan tanh xor"
# How each is made of ONNX's operators: of ``do(operator, *operands, **attributes)``, the operands, and parameters.
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(lambda op, do, *x, **_: do(op, *x), name.capitalize()) for name in _ALIKE.split()},
    "clamp": lambda do, low, x, high: do("Min", do("Max", x, low), high),
    "convert_element_type": lambda do, x, new_dtype, **_: do("Cast", x, to=element(new_dtype)),
    "eq": lambda do, x, y: do("Equal", x, y),
    "expm1": lambda do, x, **_: do("Sub", do("Exp", x), 1),
    "ge": lambda do, x, y: do("GreaterOrEqual", x, y),
    "gt": lambda do, x, y: do("Greater", x, y),
    "integer_pow": lambda do, x, y: do("Mul", x, x) if y == 2 else do("Pow", x, y),
    "le": lambda do, x, y: do("LessOrEqual", x, y),
    "log1p": lambda do, x, **_: do("Log", do("Add", x, 1)),
    "logistic": lambda do, x, **_: do("Sigmoid", x),
    "lt": lambda do, x, y: do("Less", x, y),
    "ne": lambda do, x, y: do("Not", do("Equal", x, y)),
    "round": lambda do, x, **_: do("Round", x),
    "rsqrt": lambda do, x, **_: do("Reciprocal", do("Sqrt", x)),
    "select_n": lambda do, which, *cases: do("Where", which, *cases[::-1]),
    "square": lambda do, x: do("Mul", x, x),
}
_RULES: dict[str, Callable[..., Any]] = {}


def walk(graph: Graph, traced: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
    """Add what a traced function computes, but for what its results do not need, and return these."""
    jaxpr, values = traced.jaxpr, dict(zip(traced.jaxpr.invars, arguments, strict=True))
    needed, kept = {var for var in jaxpr.outvars if not isinstance(var, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            kept.append(eqn)
            needed |= {var for var in eqn.invars if not isinstance(var, Literal)}
    values |= {v: graph.constant(c) for v, c in zip(jaxpr.constvars, traced.consts, strict=True) if v in needed}

    def value(var):
        return _number(var.aval.dtype, var.val) if isinstance(var, Literal) else values[var]

    for eqn in kept[::-1]:
        found = _equation(graph, eqn, list(map(value, eqn.invars)))
        values |= zip(eqn.outvars, [found] if isinstance(found, Value) else found, strict=True)
    return list(map(value, jaxpr.outvars))


def _equation(graph: Graph, eqn: Any, values: list[Value]) -> Any:
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if name in _SAME:
        return values
    inner = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None)
    if inner is not None and name != "scan":
        return walk(graph, ClosedJaxpr(inner, ()) if isinstance(inner, Jaxpr) else inner, values)
    problem = next((value.problem for value in values if value.problem), "")
    if problem and name not in ("cond", "scan"):
        return _problem(eqn, problem)
    if name in _ELEMENTWISE:
        if all(value.number is not None for value in values):
            with jax.ensure_compile_time_eval():
                number = eqn.primitive.bind(*(jnp.asarray(v.number, v.dtype) for v in values), **eqn.params)
            return Value(out.shape, out.dtype, number=np.asarray(number)[()])
        if name == "select_n" and values[0].number is not None:
            return values[1 + int(values[0].number)]
        return _elementwise(graph, name, out, *values, **eqn.params)
    if name in _RULES:
        try:
            return _RULES[name](graph, out, *values, **eqn.params)
        except NotImplementedError as error:
            return _problem(eqn, f"{name!r} of {error}")
    if formula := getattr(eqn.primitive, "formula", None):
        if eqn.params.get("sets", 1) == 1:
            # The index tells which images skip this. Nothing reads their results.
            values[1] = values[1]._replace(number=0)
        elif values[1].name in graph.ranges and eqn.params["geometry"].kernel == (1, 1):
            formula = _by_own_matrix
        of_formula = jax.make_jaxpr(functools.partial(formula, **eqn.params))
        return walk(graph, of_formula(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values)), values)
    return _problem(eqn, f"{name!r} of {', '.join(str(each.aval) for each in eqn.invars) or 'nothing'}")


def _problem(eqn: Any, problem: str) -> list[Value]:
    return [Value(var.aval.shape, var.aval.dtype, problem=problem) for var in eqn.outvars]


def _number(dtype: Any, number: Any) -> Value:
    return Value((), np.dtype(dtype), number=np.asarray(number, dtype)[()])


def _elementwise(graph: Graph, name: str, out: Any, *values: Value, **params: Any) -> Value:
    def do(op, *operands, **attributes):
        arrays = [each if isinstance(each, Value) else _number(values[0].dtype, each) for each in operands]
        return graph.elementwise(op, arrays, out.shape, out.dtype, **attributes)

    return _ELEMENTWISE[name](do, *values, **params)


def _rule(name: str) -> Callable:
    return lambda rule: _RULES.setdefault(name, rule)


@_rule("broadcast_in_dim")
def _broadcast(graph, out, value, *, shape, broadcast_dimensions, **_):
    axes = [axis if value.shape[i] == shape[axis] else -1 for i, axis in enumerate(broadcast_dimensions)]
    return graph.relabelled(value, shape, axes)


for _name in ("reshape", "squeeze", "expand_dims"):
    _RULES[_name] = lambda graph, out, value, **_: graph.reshaped(value, out.shape)
_RULES["transpose"] = lambda graph, out, value, *, permutation: graph.relabelled(
    value, out.shape, np.argsort(permutation).tolist()
)


@_rule("iota")
def _iota(graph, out, *, dimension, **_):
    name = graph.node("Range", *(graph.tensor(number, out.dtype) for number in (0, out.shape[dimension], 1)))
    graph.ranges.add(name)
    return Value(out.shape, out.dtype, name, (dimension,))


def _by_own_matrix(images, index, bank, **_):
    """A convolution by pixel of as many images as there are kernels, one after the other."""
    return jnp.einsum("shwi,sio->shwo", images, bank[:, 0, 0])


@_rule("slice")
def _slice(graph, out, value, *, start_indices, limit_indices, strides):
    steps = strides or (1,) * len(out.shape)
    if axes := [axis for axis in value.order if axis >= 0 and value.shape[axis] != out.shape[axis]]:
        spans = (graph.ints(*(each[axis] for axis in axes)) for each in (start_indices, limit_indices))
        places, steps = graph.ints(*map(value.order.index, axes)), graph.ints(*(steps[axis] for axis in axes))
        value = value._replace(name=graph.node("Slice", value.name, *spans, places, steps))
    return value._replace(shape=out.shape)


@_rule("split")
def _split(graph, out, value, *, sizes, axis):
    names = [value.name] * len(sizes)
    if axis in value.order and len(sizes) > 1:
        place = value.order.index(axis)
        names = graph.node("Split", value.name, graph.ints(*sizes), outputs=len(sizes), axis=place)
    shapes = ((*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes)
    return [value._replace(shape=shape, name=name) for shape, name in zip(shapes, names, strict=True)]


@_rule("concatenate")
def _concatenate(graph, out, *values, dimension):
    base = max((value.order for value in values), key=len)
    axes = {axis for value in values for axis in value.order if axis >= 0} | {dimension}
    order = base if set(base) == axes else tuple(sorted(axes))
    names = [graph.arranged(value, order, full=True) for value in values]
    return Value(out.shape, out.dtype, graph.node("Concat", *names, axis=order.index(dimension)), order)


@_rule("pad")
def _pad(graph, out, value, filling, *, padding_config):
    changed = [axis for axis, widths in enumerate(padding_config) if any(widths)]
    if not changed:
        return value
    order = [axis for axis in value.order if axis >= 0]
    order += [axis for axis in changed if axis not in order]
    fill, sizes = graph.arranged(filling, ()), list(value.shape)
    name, ends = graph.arranged(value, order, full=True), {axis: list(padding_config[axis][:2]) for axis in changed}

    def padded(name, places, widths):
        pads = [low for low, _ in widths] + [high for _, high in widths]
        return graph.node("Pad", name, graph.ints(*pads), fill, graph.ints(*places))

    for axis in changed:
        if between := padding_config[axis][2]:  # beside each element; those after the last one are taken away
            place = order.index(axis)
            name = padded(graph.node("Unsqueeze", name, graph.ints(place + 1)), [place + 1], [(0, between)])
            sizes[axis] *= between + 1
            name = graph.node("Reshape", name, graph.lengths(sizes[each] for each in order))
            ends[axis][1] -= between
    name = padded(name, [order.index(axis) for axis in changed], ends.values())
    return Value(out.shape, out.dtype, name, tuple(order))


@_rule("gather")
def _gather(graph, out, value, indices, *, dimension_numbers, slice_sizes, **_):
    """Parts along one axis, each of length 1; the first or last part where there is none."""
    axes, order = dimension_numbers.collapsed_slice_dims, list(dimension_numbers.offset_dims)
    if tuple(slice_sizes) == value.shape:  # all there is, whatever the indices
        kept = iter(order)
        return graph.relabelled(
            value, out.shape, [-1 if axis in axes else next(kept) for axis in range(len(value.shape))]
        )
    others = zip(slice_sizes, value.shape, range(len(value.shape)), strict=True)
    if (
        dimension_numbers.start_index_map != axes
        or len(axes) != 1
        or any(m != n for m, n, i in others if i not in axes)
    ):
        raise NotImplementedError("other parts than along one axis")
    chosen = graph.reshaped(indices, indices.shape[:-1])
    low, high = (_number(chosen.dtype, n) for n in (0, value.shape[axes[0]] - 1))
    chosen = graph.full(_elementwise(graph, "clamp", chosen, low, chosen, high))
    order[axes[0] : axes[0]] = [axis for axis in range(len(out.shape)) if axis not in order]
    name = graph.node("Gather", graph.full(value).name, chosen.name, axis=axes[0])
    return Value(out.shape, out.dtype, name, tuple(order))


def _reduction(op: str, logical: bool, graph: Graph, out: Any, value: Value, *, axes: Sequence[Any], **_: Any) -> Value:
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    times = math.prod(value.shape[axis] for axis in axes if axis not in value.order) if op == "ReduceSum" else 1
    if times != 1:  # constant along some of them
        if value.number is not None:
            return Value(out.shape, out.dtype, number=value.number * value.dtype.type(times))
        value = _elementwise(graph, "mul", value, value, _number(value.dtype, times))
    name, places = value.name, [place for place, axis in enumerate(value.order) if axis in axes]
    if places:
        name = graph.node("Cast", name, to=element(np.int32)) if logical else name
        name = graph.node(op, name, graph.ints(*places), keepdims=0)
        name = graph.node("Cast", name, to=element(bool)) if logical else name
    order = tuple(kept.index(axis) if axis >= 0 else -1 for axis in value.order if axis not in axes)
    return value._replace(shape=out.shape, name=name, order=order)


for _name, _op in (("sum", "Sum"), ("max", "Max"), ("min", "Min"), ("and", "Min"), ("or", "Max")):
    _RULES[f"reduce_{_name}"] = functools.partial(_reduction, f"Reduce{_op}", _name in ("and", "or"))


@_rule("dot_general")
def _dot(graph, out, left, right, *, dimension_numbers, **_):
    contract, batch = dimension_numbers
    letters, sides, axes = iter(string.ascii_letters), ({}, {}), []
    for i, j in (*zip(*batch, strict=True), *zip(*contract, strict=True)):
        sides[0][i] = sides[1][j] = next(letters)
    for value, of_side in zip((left, right), sides, strict=True):
        others = [axis for axis in range(len(value.shape)) if axis not in of_side]
        of_side |= {axis: next(letters) for axis in others}
        axes.append([axis for axis in value.order if axis in others])  # as they stand; if missing, in the result too
    results = "".join(sides[0][axis] for axis in batch[0])
    for i, of_side in enumerate(sides):
        results += "".join(of_side[axis] for axis in sorted(of_side) if axis not in (*batch[i], *contract[i]))
    shared = [pair for pair in zip(*batch, strict=True) if pair[0] in left.order or pair[1] in right.order]
    lefts, rights = ([pair[i] for pair in shared] for i in (0, 1))
    orders = [*lefts, *axes[0], *contract[0]], [*rights, *contract[1], *axes[1]]
    tensors = [graph.arranged(each, order, full=True) for each, order in zip((left, right), orders, strict=True)]
    terms = ["".join(of_side[axis] for axis in order) for of_side, order in zip(sides, orders, strict=True)]
    stand = terms[0][: len(lefts) + len(axes[0])] + terms[1][len(rights) + len(contract[1]) :]
    if len(contract[0]) == 1 and len(axes[1]) <= 1 and (not shared or len(axes[0]) == len(axes[1]) == 1):
        name = graph.node("MatMul", *tensors)
    else:
        name = graph.node("Einsum", *tensors, equation=f"{','.join(terms)}->{stand}")
    return Value(out.shape, out.dtype, name, tuple(map(results.index, stand)))


@_rule("conv_general_dilated")
def _conv(graph, out, images, kernel, *, window_strides, padding, dimension_numbers, feature_group_count, **params):
    of_images, of_kernel, of_out = dimension_numbers
    if params["batch_group_count"] != 1:
        raise NotImplementedError("groups of images")
    if any(each != 1 for each in params["lhs_dilation"]) or min(map(min, padding)) < 0:
        config = [(0, 0, 0)] * len(images.shape)
        for axis, (low, high), d in zip(of_images[2:], padding, params["lhs_dilation"], strict=True):
            config[axis] = low, high, d - 1
        shape = [n + low + high + (n - 1) * d for n, (low, high, d) in zip(images.shape, config, strict=True)]
        padded = jax.ShapeDtypeStruct(shape, images.dtype)
        images = _pad(graph, padded, images, _number(images.dtype, 0), padding_config=config)
        padding = ((0, 0),) * len(padding)
    plain = not any(map(any, padding)) and {*window_strides, feature_group_count} == {1}
    if plain and {kernel.shape[axis] for axis in of_kernel[2:]} == {1} and images.order[-1:] == of_images[1:2]:
        there = [axis for axis in images.order if axis >= 0]
        matrix = graph.arranged(kernel, (of_kernel[1], of_kernel[0]), full=True)
        name = graph.node("MatMul", graph.arranged(images, there), matrix)
        return Value(out.shape, out.dtype, name, tuple(of_out[of_images.index(axis)] for axis in there))
    pads = [low for low, _ in padding] + [high for _, high in padding]
    static = {"strides": list(window_strides), "dilations": list(params["rhs_dilation"]), "pads": pads}
    static = {key: each for key, each in static.items() if {*each} != {key != "pads"}}  # what is not the default
    static |= {"group": feature_group_count} if feature_group_count > 1 else {}
    names = graph.arranged(images, of_images, full=True), graph.arranged(kernel, of_kernel, full=True)
    return Value(out.shape, out.dtype, graph.node("Conv", *names, **static), tuple(of_out))


@_rule("puppet_depthwise_forward")
def _depthwise(graph, out, images, index, bank, *, geometry, sets, **_):
    if sets != 1:
        raise NotImplementedError("several kernels")
    static = {"dimension_numbers": ((0, 3, 1, 2), (3, 0, 1, 2), (0, 3, 1, 2)), "lhs_dilation": (1, 1)}
    static |= {"rhs_dilation": (1, 1), "batch_group_count": 1, "feature_group_count": bank.shape[3]}
    return _conv(graph, out, images, bank, window_strides=geometry.stride, padding=geometry.padding, **static)


@_rule("puppet_finish")
def _finish(graph, out, maps, index, images, scale, shift, *, groups, relu, residual, epsilon, **_):
    """Group normalisation as instance normalisation of groups, and what follows it."""
    axes, channels = maps.order, maps.shape[3]
    axes = axes if len(axes) == 4 and axes[:2] == (0, 3) else (0, 3, 2, 1)
    name, own = graph.arranged(maps, axes, full=True), groups == channels
    if not own:
        name = graph.node("Reshape", name, graph.ints(0, groups, -1))
    of_groups = [graph.tensor(np.full(groups, number, np.float32)) for number in (1, 0)]
    if own:
        of_groups = [graph.arranged(each, (0,), full=True) for each in (scale, shift)]
    name = graph.node("InstanceNormalization", name, *of_groups, epsilon=epsilon)
    if not own:
        name = graph.node("Reshape", name, graph.lengths(maps.shape[axis] for axis in axes))
    y = Value(out.shape, out.dtype, name, axes)
    for op, other in [] if own else [("Mul", scale), ("Add", shift)]:
        y = graph.elementwise(op, [y, graph.relabelled(other, out.shape, [3])], out.shape, out.dtype)
    y = graph.elementwise("Relu", [y], out.shape, out.dtype) if relu else y
    y = graph.elementwise("Add", [y, images], out.shape, out.dtype) if residual else y
    places = graph.ints(*(place for place, axis in enumerate(y.order) if axis in (1, 2)))
    order = tuple(min(axis, 1) for axis in y.order if axis not in (1, 2))
    mean = Value((out.shape[0], channels), scale.dtype, graph.node("ReduceMean", y.name, places, keepdims=0), order)
    return [y, mean]


def _pool(op, graph, out, value, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    windows = list(zip(window_dimensions, window_strides, padding, strict=True))
    spatial = [axis for axis, (window, stride, pad) in enumerate(windows) if (window, stride, *pad) != (1, 1, 0, 0)]
    others = [axis for axis in range(len(value.shape)) if axis not in spatial]
    others.sort(key=lambda axis: (value.shape[axis] == 1, value.order.index(axis) if axis in value.order else -1))
    if {*base_dilation, *window_dilation} != {1} or math.prod(value.shape[axis] for axis in others[2:]) != 1:
        raise NotImplementedError("such windows")
    static = {
        "kernel_shape": [windows[axis][0] for axis in spatial],
        "strides": [windows[axis][1] for axis in spatial],
        "pads": [windows[axis][2][end] for end in (0, 1) for axis in spatial],
    }
    order = (*others[:2], *spatial)
    name = graph.arranged(value, order, full=True)
    if op == "MaxPool":
        return Value(out.shape, out.dtype, graph.node(op, name, **static), order)
    mean = Value(out.shape, out.dtype, graph.node("AveragePool", name, **static, count_include_pad=1), order)
    return _elementwise(graph, "mul", out, mean, _number(value.dtype, math.prod(window_dimensions)))


_RULES |= {f"reduce_window_{kind}": functools.partial(_pool, op) for kind, op in (("max", "MaxPool"), ("sum", ""))}


@_rule("cond")
def _cond(graph, out, index, *operands, branches, **_):
    if index.number is not None:
        return walk(graph, branches[int(np.clip(index.number, 0, len(branches) - 1))], operands)
    if len(branches) != 2:
        raise NotImplementedError("several branches")
    orders: list[tuple[Any, ...]] = []
    avals, flag = branches[0].out_avals, graph.node("Cast", index.name, to=element(bool))

    def branch(which):
        found = walk(graph, branches[which], operands)
        orders[:] = orders or [graph.every_axis(value) for value in found]
        return [graph.full(value, order) for value, order in zip(found, orders, strict=True)]

    bodies = {f"{name}_branch": graph.subgraph(functools.partial(branch, i)) for name, i in (("then", 1), ("else", 0))}
    names = graph.node("If", flag, outputs=len(avals), varies=True, **bodies)
    return [Value(a.shape, a.dtype, name, order) for a, name, order in zip(avals, names, orders, strict=True)]


@_rule("scan")
def _scan(graph, out, *values, jaxpr, num_consts, num_carry, reverse, length, **_):
    moving, avals = values[num_consts:], jaxpr.out_avals
    # Of rows of one number each has it.
    moving = [v if i >= num_carry and v.number is not None else graph.full(v) for i, v in enumerate(moving)]
    inputs = [value.name for value in moving if value.number is None]
    if reverse or len(inputs) == num_carry:
        raise NotImplementedError("nothing but a count, or backwards")
    insides = [
        Value(a.shape, a.dtype, value.name and graph.varying(), tuple(range(len(value.name and a.shape))), value.number)
        for a, value in zip(jaxpr.in_avals[num_consts:], moving, strict=True)
    ]

    def step():
        return list(map(graph.full, walk(graph, jaxpr, [*values[:num_consts], *insides])))

    body = graph.subgraph(step, [graph.info(each) for each in insides if each.number is None])
    names = graph.node(
        "Scan", *inputs, outputs=len(avals), varies=True, body=body, num_scan_inputs=len(inputs) - num_carry
    )
    shapes = [a.shape if i < num_carry else (length, *a.shape) for i, a in enumerate(avals)]
    return [Value(s, a.dtype, name, tuple(range(len(s)))) for s, a, name in zip(shapes, avals, names, strict=True)]
