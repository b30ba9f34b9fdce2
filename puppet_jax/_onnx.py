"""A predictor as an ONNX graph: its puppeteer and its puppet, from images to logits, complexity and depth."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax import lax
from onnx import helper

from puppet_jax._batch import Bank
from puppet_jax._complexity import FLAT, LEVELS, as_unit, fixed_point
from puppet_jax._export import stored
from puppet_jax._measure import MOST_BITS, Measure
from puppet_jax._onnx_graph import BATCH, Graph, Value, element
from puppet_jax._onnx_rules import walk
from puppet_jax._predict import answering
from puppet_jax._stored_dtype import SCALES, StoredDtype, pack
from puppet_jax.any_cnn._modules import leaf_name
from puppet_jax.convolution import whole
from puppet_jax.puppeteers import OdePuppeteer

OPSET, IR_VERSION = 18, 9


def onnx_model(
    predict: Any, shape: tuple[int, ...], dtype: str, weights: StoredDtype, batch: int | None, about: Mapping[str, str]
) -> bytes:
    """Return a file's contents; ``about`` is what it says of itself, by name.

    Kernels are generated in the graph: once, by runtimes that compute in advance what does not depend on images, or for
    each image, in a loop over them unless ``batch`` is 1. Those of an ODE are stored.

    Raises:
        ValueError: the model computes something that is not written as ONNX.
    """
    graph = Graph()
    images = Value((batch or BATCH, *shape), np.dtype(dtype), graph.varying("images"), (0, 1, 2, 3))
    function, arrays = _function(predict, alone=batch == 1)
    held, packed = [], pack(arrays, weights)
    for name in arrays:
        held.append(_unpacked(graph, packed[name], packed.get(name + SCALES), weights))
    h = _complexity(graph, images, predict.measurement)
    arguments = [images, h, *held]
    like = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arguments)
    traced, results = jax.make_jaxpr(function, return_shape=True)(*like)
    outputs = {}
    for (path, _), value in zip(jax.tree.leaves_with_path(results), walk(graph, traced, arguments), strict=True):
        which, *inner = leaf_name(path).split(".")
        outputs[".".join([("logits", "complexity", "depth")[int(which)], *inner])] = value
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph.proto([images], outputs), opset_imports=[opset], ir_version=IR_VERSION)
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _function(predict: Any, alone: bool) -> tuple[Callable, dict[str, np.ndarray]]:
    """``function(images, complexity, *arrays) -> (logits, complexity, depth)``, and the arrays by name."""
    measurement, puppeteer = predict.measurement, predict.puppeteer
    baked = isinstance(puppeteer, OdePuppeteer)
    if baked and predict.bank is None:
        raise ValueError("export: an ODE's kernels for every complexity are not written as ONNX; use Measure(bin=0.25)")
    graphdef, state = nnx.split((predict.puppet, None if baked else puppeteer))
    arrays, filled = stored({"model": state, "kernels": whole(predict.bank.kernels) if baked else ()})

    def function(images, h, *held):
        held = filled(dict(zip(arrays, held, strict=True)))
        puppet, puppeteer = nnx.merge(graphdef, held["model"])
        if measurement.bin is not None:
            width = jnp.float32(measurement.width)
            begins = jnp.clip(jnp.floor(h / width), 0, len(measurement.centres) - 1) * width
            h = (begins + jnp.minimum(begins + width, MOST_BITS)) / 2
        d = measurement.depth_of(h, puppet.depths)

        def run(images, h, d):
            if baked:
                places = Bank(held["kernels"], predict.bank.firsts).indices(measurement.index(h))
                kernels = tuple(jnp.take(k, i, 0, mode="clip") for k, i in zip(held["kernels"], places, strict=True))
            else:
                kernels = puppeteer.bank(h)[: len(puppet.kernel_shapes)]  # of a puppet that was cut
            none = jnp.zeros(len(images), jnp.int32)
            forward = answering(puppet, predict.confidence)
            return forward(as_unit(images), (none,) * len(kernels), kernels, d, none, "gathered")

        of_all = not baked and not puppeteer.conditioned and measurement.depth != "complexity"
        if of_all and predict.confidence is None:
            logits, d = run(images, jnp.ones(1), d)
        elif alone:
            logits, d = run(images, h, d)
        else:

            def of_one(row):
                return jax.tree.map(lambda rows: rows[0], run(*jax.tree.map(lambda each: each[None], row)))

            logits, d = lax.map(of_one, (images, h, d))
        return logits, h, d

    return function, arrays


def _unpacked(graph: Graph, array: np.ndarray, scales: np.ndarray | None, weights: StoredDtype) -> Value:
    """A parameter in float32. Of float16 it is stored so only where all are, as not every compiler of C takes it."""
    if array.dtype == np.float16 and weights == "int8":
        array = array.astype(np.float32)
    value = graph.constant(array)
    if value.number is not None or array.dtype not in (np.float16, np.int8):
        return value._replace(dtype=np.dtype(np.float32)) if array.dtype == np.float16 else value
    name = graph.node("Cast", value.name, to=element(np.float32))
    if scales is not None:
        rows = scales.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
        name = graph.node("Mul", name, graph.tensor(rows))
    return value._replace(name=name, dtype=np.dtype(np.float32))


def _complexity(graph: Graph, images: Value, measurement: Measure) -> Value:
    """Complexity as :func:`puppet_jax.complexity` has it, (B,), in bits; or what the user's own function measures.

    The Fourier transform is a product with cosines and sines on either side. All is in float64, so that hardly a
    frequency falls into another level than it would without rounding.
    """
    batch, *size, channels = images.shape
    if measurement.function is not None:
        traced = jax.make_jaxpr(measurement.measured)(jax.ShapeDtypeStruct(images.shape, images.dtype))
        return walk(graph, traced, [images])[0]
    do, double = graph.node, element(np.float64)

    def number(x):
        return graph.tensor(x, np.float64)

    x = images.name if images.dtype == np.uint8 else do("Mul", images.name, graph.tensor(255, np.float32))
    x = do("Transpose", do("Cast", x, to=double), perm=(0, 3, 1, 2))

    def waves(n):
        k = do("Range", *map(number, (0, n, 1)))
        turns = do("Mod", do("Mul", do("Unsqueeze", k, graph.ints(1)), k), number(n), fmod=1)
        angles = do("Mul", turns, number(2 * math.pi / n))
        return do("Cos", angles), do("Sin", angles)

    (cos, sin), across = waves(size[0]), [do("MatMul", x, wave) for wave in waves(size[1])]
    real = do("Sub", do("MatMul", cos, across[0]), do("MatMul", sin, across[1]))
    imaginary = do("Add", do("MatMul", cos, across[1]), do("MatMul", sin, across[0]))
    power = do("Add", do("Mul", real, real), do("Mul", imaginary, imaginary))
    y = do("Log", do("Add", do("Div", do("Sqrt", power), number(255)), number(1)))
    plane = graph.ints(2, 3)
    low, high = do("ReduceMin", y, plane), do("ReduceMax", y, plane)
    span = do("Sub", high, low)
    flat = do("LessOrEqual", span, do("Mul", high, number(FLAT)))
    steps = do("Where", flat, number(0), do("Div", number(LEVELS - 1), span))
    levels = do("Concat", x, do("Mul", do("Sub", y, low), steps), axis=1)
    levels = do("Reshape", do("Round", levels), graph.ints(0, 2 * channels, -1))
    zeros = graph.full(Value((batch, 2 * channels, LEVELS), np.dtype(np.float64), number=0))
    levels = do("Cast", levels, to=element(np.int32))
    ones = graph.full(Value((batch, 2 * channels, math.prod(size)), np.dtype(np.float64), number=1))
    counts = do("ScatterElements", zeros.name, levels, ones.name, axis=2, reduction="add")
    scale, unit = fixed_point(math.prod(size), 2 * channels)
    bits = do("Mul", do("Log", do("Max", counts, number(1))), number(scale / math.log(2)))
    axes = (0, 1, 2) if batch == 1 else (1, 2)
    sums = do("ReduceSum", do("Round", do("Mul", counts, bits)), graph.ints(*axes), keepdims=0)
    most = 2 * channels * round(math.prod(size) * math.log2(math.prod(size)) * scale)
    h = do("Cast", do("Sub", number(most), sums), to=element(np.float32))
    return Value((batch,), np.dtype(np.float32), do("Mul", h, graph.tensor(unit, np.float32)), (0,)[: batch != 1])
