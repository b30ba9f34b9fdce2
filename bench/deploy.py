"""``python -m bench deploy``: one image on one core, beside MLPerf Tiny's ResNet-8 in LiteRT, where ``RESNET8_TFLITE``
names mlcommons/tiny's file ``pretrainedResnet_quant.tflite``."""

import dataclasses
import os
import tempfile
import zlib
from pathlib import Path

from bench import machine, results_file, target
from bench.first_answer import ask

MODEL = "puppet_s_cifar10_int8"
_SCRIPT = """
import os, sys, time, timeit
import numpy as np
kind, file = sys.argv[1:]
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
if kind == "compile_predict":
    import puppet_jax as pj
    predict = pj.compile_predict(pj.load_pretrained(file))
    run = lambda: predict(image).logits.block_until_ready()
elif kind == "onnx":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    run = lambda: session.run(None, {session.get_inputs()[0].name: image})
else:
    from ai_edge_litert.interpreter import Interpreter
    net = Interpreter(file, num_threads=1)
    net.allocate_tensors()
    place, signed = net.get_input_details()[0]["index"], (image ^ 128).view(np.int8)
    run = lambda: (net.set_tensor(place, signed), net.invoke())
print(1000 * np.median(timeit.repeat(run, timer=time.process_time, number=1, repeat=400)[100:]))
"""


@dataclasses.dataclass(frozen=True)
class Deploy:
    """Time one image on one core where a model's bytes count, beside MLPerf Tiny's."""

    rounds: int = 5
    """Turns of every contender, each a process of its own."""


def run(options: Deploy) -> int:
    """Measure milliseconds of processor time, and what each file is; 0."""
    import puppet_jax as pj
    from puppet_jax._pretrained import locate

    model = pj.load_pretrained(MODEL)
    counted, names = pj.summary(model), ("multiplications", "map_bytes", "accuracy")
    ours = counted.multiplications, 4 * counted.map_numbers, pj.pretrained_info(MODEL)["accuracy"]
    # Read off its layers, two maps of 32×32×16 in 8 bits; published, of CIFAR-10 itself.
    theirs = 12_501_632, 2 * 32 * 32 * 16, 0.85
    with tempfile.TemporaryDirectory() as folder:
        files = {"compile_predict": locate(MODEL), "onnx": Path(folder) / "model.onnx"}
        pj.export(pj.compile_predict(model), files["onnx"], weights="int8", batch=1)
        if os.environ.get("RESNET8_TFLITE"):
            files["resnet8"] = Path(os.environ["RESNET8_TFLITE"])
        turns = [{name: ask(_SCRIPT, name, str(file)) for name, file in files.items()} for _ in range(options.rounds)]
        contents = {name: file.read_bytes() for name, file in files.items()}
    found = {
        name: dict(zip(names, theirs if name == "resnet8" else ours, strict=True))
        | {"bytes": len(content), "deflated_bytes": len(zlib.compress(content, 9))}
        | {"milliseconds": target.spread([turn[name] for turn in turns])}
        for name, content in contents.items()
    }
    results_file.write(results_file.FOLDER / "deploy.json", {**machine.describe(), "contenders": found})
    print(target.table([target.row(f"{name}, ms", one["milliseconds"]) for name, one in found.items()]))
    return 0
