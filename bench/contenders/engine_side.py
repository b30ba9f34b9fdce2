"""The static CNN in inference engines: one ONNX graph, compiled by ONNX Runtime and by OpenVINO."""

import importlib

import numpy as np

from bench import machine
from bench.case import Case
from bench.contenders import Contender, Unavailable, fastest


def onnxruntime(case: Case) -> Contender:
    engine = _imported("onnxruntime")

    def compiled(graph: bytes):
        options = engine.SessionOptions()
        options.intra_op_num_threads = len(machine.cores())
        session = engine.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]

    return _fastest(case, compiled)


def openvino(case: Case) -> Contender:
    engine = _imported("openvino")
    # Float32, which the others compute in: with AMX OpenVINO would choose bfloat16 by itself.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options["INFERENCE_NUM_THREADS"] = str(len(machine.cores()))

    def compiled(graph: bytes):
        model = engine.Core()
        model = model.compile_model(model.read_model(graph), "CPU", options)
        return lambda images: model(images)[0]

    return _fastest(case, compiled)


def _imported(name: str):
    try:
        importlib.import_module("onnx")
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed; pip install -e '.[bench]'") from None


def _fastest(case: Case, compiled) -> Contender:
    """Group normalisation as ONNX's operator, or as the instance normalisation that PyTorch exports it as."""
    from bench.peers import static_onnx

    images = np.ascontiguousarray(case.arrays["images"].transpose(0, 3, 1, 2))
    ways = {}
    for norm in ("GroupNormalization", "InstanceNormalization"):
        run = compiled(static_onnx.graph(case.config, case.weights("static"), images.shape, norm))
        ways[norm] = lambda run=run: run(images)
    return fastest(case, ways, "static_logits")
