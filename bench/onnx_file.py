"""``python -m bench.onnx_file``: pretrained models and puppets as ONNX files, as C and as wasm, on one core.

Bytes; the greatest difference from ``compile_predict`` among test images (all of the smaller model's), and accuracies;
milliseconds for one image, the least of several; the C's static memory. No wasm where ziglang or wasmtime are missing.
MLPerf Tiny's ResNet-8 in LiteRT too, if ``RESNET8_TFLITE`` names mlcommons/tiny's ``pretrainedResnet_quant.tflite``.
"""

import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import timeit
import zlib
from pathlib import Path

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before anything starts threads

import jax  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from flax import nnx  # noqa: E402

import puppet_jax as pj  # noqa: E402
from bench import c_code, machine, nets, results_file  # noqa: E402
from train.commands import evaluate  # noqa: E402

PUPPETS = {
    "resnet20": nets.resnet20,
    "mobilenet_64": lambda **of: nets.MobileNet(width=64, **of),
    "unet_64": lambda **of: nets.UNet(width=64, **of),
}


def least_ms(run, times: int = 40) -> float:
    """Milliseconds of processor time, the least of many: others may be at work."""
    return 1e3 * min(timeit.repeat(run, timer=time.process_time, number=1, repeat=times))


def as_file(predict: pj.Predictor, path: Path, images, **options) -> tuple[dict, list]:
    """What an ONNX file costs, and its outputs for these images."""
    pj.export(predict, path, **options)
    content, one = path.read_bytes(), onnxruntime.SessionOptions()
    one.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, one, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": images[i : i + 250]}) for i in range(0, len(images), 250)]
    about = {"bytes": len(content), "deflated_bytes": len(zlib.compress(content, 9))}
    about["onnxruntime_ms"] = least_ms(lambda: session.run(None, {"images": images[:1]}))
    return about, list(map(np.concatenate, zip(*parts, strict=True)))


def as_c(path: Path, image: np.ndarray, expected: np.ndarray) -> dict:
    source = path.with_name("puppet.c")
    found: dict = {"memory_bytes": c_code.write(path, source)}
    for level in ("Os", "O3"):
        shared = source.with_name(f"{time.monotonic_ns()}.so")  # a name that no library in this process has had
        command = ["gcc", "-std=c99", f"-{level}", str(source)]
        subprocess.run([*command, "-shared", "-fPIC", "-o", str(shared), "-lm"], check=True)
        subprocess.run([*command, "-c", "-o", str(shared.with_suffix(".o"))], check=True)
        sizes = subprocess.run(["size", str(shared.with_suffix(".o"))], capture_output=True, text=True, check=True)
        outputs = np.zeros_like(expected), np.zeros(1, np.float32), np.zeros(1, np.int32)
        places = [each.ctypes.data_as(ctypes.c_void_p) for each in (image, *outputs)]
        run = ctypes.CDLL(str(shared)).puppet
        found[level] = {
            "code_bytes": int(sizes.stdout.splitlines()[1].split()[0]),
            "ms": least_ms(functools.partial(run, *places), 5),
        }
        found[level]["greatest_difference"] = float(np.abs(outputs[0] - expected).max())
    if all(map(importlib.util.find_spec, ("ziglang", "wasmtime"))):
        found["wasm"] = as_wasm(source, image, expected)
    return found


def as_wasm(source: Path, image: np.ndarray, expected: np.ndarray) -> dict:
    import wasmtime

    file = source.with_suffix(".wasm")
    options = ["-target", "wasm32-wasi", "-Os", "-mexec-model=reactor"]
    options += [f"-Wl,--export={name}" for name in ("puppet", "memory_of_images")]
    extra = source.with_name("images.c")
    extra.write_text("static double place[4096]; void *memory_of_images(void) { return place; }\n")
    command = [sys.executable, "-m", "ziglang", "cc", *options, str(source), str(extra), "-o", str(file)]
    subprocess.run(command, check=True)
    store = wasmtime.Store()
    linker, module = wasmtime.Linker(store.engine), wasmtime.Module.from_file(store.engine, str(file))
    linker.define_wasi()
    store.set_wasi(wasmtime.WasiConfig())
    parts = linker.instantiate(store, module).exports(store)
    begin = parts["memory_of_images"](store)
    logits = begin + -(-image.nbytes // 16) * 16
    places = begin, logits, logits + 1024, logits + 1040
    parts["memory"].write(store, image.tobytes(), begin)
    ms = least_ms(lambda: parts["puppet"](store, *places), 5)
    found = np.frombuffer(parts["memory"].read(store, logits, logits + expected.nbytes), np.float32)
    most = float(np.abs(found - expected.ravel()).max())
    return {"bytes": file.stat().st_size, "ms": ms, "greatest_difference": most}


def resnet8(file: Path, image: np.ndarray) -> dict:
    """The file's bytes and its time; read off its layers, two maps of 32×32×16; published, of CIFAR-10 itself."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(file), num_threads=1)
    net.allocate_tensors()
    place = net.get_input_details()[0]["index"]
    content, counted = file.read_bytes(), {"multiplications": 12_501_632, "map_bytes": 2 * 32 * 32 * 16}
    ms = least_ms(lambda: (net.set_tensor(place, (image ^ 128).view(np.int8)), net.invoke()))
    return {
        "bytes": len(content),
        "deflated_bytes": len(zlib.compress(content, 9)),
        "ms": ms,
        "accuracy": 0.85,
        **counted,
    }


def main() -> None:
    about = {**machine.describe(), "command": "python -m bench.onnx_file", "models": {}, "puppets": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name in (name for name in pj.list_pretrained() if name.endswith("int8")):
            trained, split, _ = evaluate.with_images(evaluate.Evaluate(Path(name)))
            few = len(split) if name.startswith("puppet_s") else 500
            predict, images, labels = pj.compile_predict(trained.model), split.images[:few], split.labels[:few]
            expected = predict(images)
            found, (logits, complexity, _) = as_file(predict, path, images, weights="int8")
            found["compile_predict_ms"] = least_ms(lambda p=predict, i=images[:1]: jax.block_until_ready(p(i).logits))
            found["images"], found["other_complexity"] = len(images), int(np.sum(complexity != expected.complexity))
            found["greatest_difference"] = float(np.abs(logits - expected.logits).max())
            for key, each in (("accuracy", logits), ("compile_predict_accuracy", expected.logits)):
                found[key] = float(np.mean(np.argmax(each, -1) == labels))
            counted = pj.summary(trained.model)
            found |= {"multiplications": counted.multiplications, "map_bytes": 4 * counted.map_numbers}
            found["of_one"], _ = as_file(predict, path, images[:1], weights="int8", batch=1)
            about["models"][name] = {**found, "c": as_c(path, images[:1], np.asarray(expected.logits)[:1])}
        images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
        for name, make in PUPPETS.items():
            options = {"image_shape": (32, 32, 3), "compression": 10, "measurement": pj.Measure(depth="full")}
            model = pj.puppetize(make(rngs=nnx.Rngs(0)), batch_norm="group", rngs=nnx.Rngs(1), **options)
            predict = pj.compile_predict(model)
            numbers = sum(each.size for each in jax.tree.leaves(nnx.state(model, nnx.Param)))
            found, (logits, *_) = as_file(predict, path, images)
            (expected,) = jax.tree.leaves(predict(images).logits)
            found["greatest_difference"] = float(np.abs(logits - expected).max())
            about["puppets"][name] = {"parameter_bytes": 4 * numbers, **found}
    if os.environ.get("RESNET8_TFLITE"):
        about["resnet8"] = resnet8(Path(os.environ["RESNET8_TFLITE"]), images[:1])
    results_file.write(results_file.FOLDER / "onnx.json", about)


if __name__ == "__main__":
    main()
