"""The static CNN as an ONNX graph: the puppet at D_max with a stored kernel a layer, (N, C, H, W) images of uint8."""

import math
from typing import Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 21, 10


def graph(
    config: dict, weights: dict, shape: tuple[int, ...], norm: Literal["GroupNormalization", "InstanceNormalization"]
) -> bytes:
    """A serialised model that maps ``images`` of this shape to ``logits`` (N, classes), of what ``peers/weights.py``
    exports of a model with stored kernels. Of the operators that normalise groups of channels, the second does so after
    they are brought together in one axis."""
    nodes, constants = [], []

    def constant(array) -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(kind: str, *inputs: str, **attributes) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def normalised(x: str, scale, shift, side: int) -> str:
        channels = len(scale)
        groups = math.gcd(channels, config["norm_groups"])
        if norm == "GroupNormalization":
            return add(norm, x, constant(scale), constant(shift), num_groups=groups, epsilon=1e-5)
        ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
        x = add("Reshape", x, constant(np.array([shape[0], groups, -1])))
        x = add(norm, x, constant(ones), constant(zeros), epsilon=1e-5)
        x = add("Reshape", x, constant(np.array([shape[0], channels, side, side])))
        return add("Add", add("Mul", x, constant(scale[:, None, None])), constant(shift[:, None, None]))

    x = add("Cast", "images", to=TensorProto.FLOAT)
    x = add("Sub", add("Mul", x, constant(np.float32(4.0 / 255.0))), constant(np.float32(2.0)))
    side, channels = shape[-1], shape[1]
    for layer, stride in enumerate(config["strides"]):
        kernel = weights[f"baked/{layer}"]
        side = -(-side // stride)
        y = add("Conv", x, constant(kernel), strides=[stride, stride], auto_pad="SAME_UPPER")
        y = add("Relu", normalised(y, weights[f"norm_scale/{layer}"], weights[f"norm_shift/{layer}"], side))
        x = add("Add", y, x) if (len(kernel), stride) == (channels, 1) else y
        channels = len(kernel)
    features = add("Flatten", add("GlobalAveragePool", x))
    nodes.append(
        helper.make_node(
            "Gemm", [features, constant(weights["head"][:channels]), constant(weights["head_bias"])], ["logits"]
        )
    )
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], len(weights["head_bias"])])
    whole = helper.make_graph(nodes, "static", [images], [logits], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=IR).SerializeToString()
