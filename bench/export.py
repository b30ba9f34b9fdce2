"""``python -m bench speed export``: how soon an exported model answers in a fresh process, and how fast it then is."""

import dataclasses
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench import cifar, machine, results_file, timing
from bench.table import markdown

TARGET_S = 3.0
BUDGET_S = 0.3
STAGES = {
    "start": "Python starts",
    "import": "import of jax and numpy",
    "load": "pj.load: checks and deserialisation",
    "compile": "compilation",
    "run": "the answer itself",
    "all": "all until the answer",
    "processor": "processor time of the whole process",
}

# As somebody runs it who has jax and a copy of puppet_jax/artifact.py; the second answer is without compilation.
_SCRIPT = """
import time
start = time.perf_counter()
import hashlib, importlib.util, json, sys
import jax, jax.export, numpy as np
imported = time.perf_counter()
artifact, file, image = sys.argv[1:]
spec = importlib.util.spec_from_file_location("artifact", artifact)
module = sys.modules["artifact"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
image = np.load(image)
model = module.load(file)
loaded = time.perf_counter()
answer = [np.asarray(each) for each in model(image)]
answered = time.perf_counter()
print("answered", flush=True)
again = time.perf_counter()
[np.asarray(each) for each in model(image)]
run = time.perf_counter() - again
digest = hashlib.sha256(b"".join(each.tobytes() for each in answer)).hexdigest()
alone = "puppet_jax" not in sys.modules
seconds = {"import": imported - start, "load": loaded - imported, "compile": answered - loaded - run, "run": run}
print(json.dumps({"seconds": seconds, "sha256": digest, "alone": alone}))
"""


@dataclasses.dataclass(frozen=True)
class Export:
    """Export a pretrained model, time fresh processes that load it, and compare it with compile_predict in turns."""

    model: str = "puppet_s_cifar10"
    """Of puppet_jax.list_pretrained()."""
    batches: tuple[int, ...] = (1, 64)
    """Images in a batch, one comparison each."""
    rounds: int = 7
    """Fresh processes, and turns of each side."""
    output: Path | None = None
    """JSON to write; none: bench/results/export.json."""


def run(options: Export) -> int:
    """Measure, write, print. 0; 1 if a process failed; 2 if there is no such model."""
    # As the fresh processes: a program compiled before, and kept, would not be compiled here.
    for name in [name for name in os.environ if name.startswith("JAX_COMPILATION_CACHE")]:
        del os.environ[name]
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    import puppet_jax as pj
    from puppet_jax import artifact

    result = {**machine.describe(), "model": options.model, "rounds": options.rounds}
    try:
        model, info = pj.load_pretrained(options.model), pj.pretrained_info(options.model)
    except ValueError as error:
        print(f"error: --model: {error}", file=sys.stderr)
        return 2
    shape = (*info["image_size"], info["create"]["in_channels"])
    if shape != (cifar.SIZE, cifar.SIZE, 3):
        print(f"error: --model: {options.model} takes images {shape}, expected one for CIFAR's", file=sys.stderr)
        return 2
    predict = pj.compile_predict(model)

    def images_of(batch: int) -> np.ndarray:
        return cifar.images(cifar.complexities(batch), lambda images: predict(images).complexity)

    with tempfile.TemporaryDirectory() as folder:
        file, small, image = (Path(folder) / name for name in ("model.puppet", "puppeteer.puppet", "image.npy"))
        start = time.perf_counter()
        pj.export(predict, file, image_shape=shape, classes=info["class_names"])
        result |= {"export_s": time.perf_counter() - start, "bytes": file.stat().st_size}
        pj.export(predict, small, image_shape=shape, classes=info["class_names"], store="puppeteer")
        loaded = pj.load(file)
        result["program_bytes"] = loaded.metadata["files"][artifact.PROGRAM]["bytes"]
        one = images_of(1)
        np.save(image, one)
        answer = hashlib.sha256(b"".join(np.asarray(each).tobytes() for each in loaded(one))).hexdigest()
        found, of_small = [], []
        for _ in range(options.rounds):
            fresh, other = (first_answer(each, image, artifact.__file__) for each in (file, small))
            if fresh is None or other is None:
                return 1
            found.append(fresh)
            of_small.append(other["seconds"]["all"])
            print(f"first answer: {fresh['seconds']['all']:.2f} s", file=sys.stderr, flush=True)
        result["puppeteer"] = {"bytes": small.stat().st_size, "seconds": of_small}
    result["seconds"] = {stage: [each["seconds"][stage] for each in found] for stage in STAGES}
    result["same_bytes"] = all(each["sha256"] == answer for each in found)
    result["alone"] = all(each["alone"] for each in found)
    middle = statistics.median(result["seconds"]["all"])
    result["target"] = {"seconds": TARGET_S, "reached": middle <= TARGET_S}
    result["batches"] = [
        {"batch": size, **compare(predict, loaded, images_of(size), options.rounds, jax.block_until_ready)}
        for size in options.batches
    ]
    results_file.finish(options.output or results_file.FOLDER / "export.json", result, report(result))
    return 0


def first_answer(file: Path, image: Path, artifact: str) -> dict | None:
    """Seconds of each of ``STAGES`` in a fresh process; ``None`` if it failed, its own words on standard error."""
    before, start = _processor_time(), time.perf_counter()
    command = [sys.executable, "-c", _SCRIPT, artifact, str(file), str(image)]
    # In the folder of the file: the repository is not on its path.
    with subprocess.Popen(command, cwd=file.parent, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        everything = time.perf_counter() - start
        rest = process.stdout.read()
    if process.returncode != 0:
        print(f"error: a fresh process ended with code {process.returncode}", file=sys.stderr)
        return None
    told = json.loads(rest)
    seconds = told["seconds"]
    own = {"all": everything, "processor": _processor_time() - before}
    return {**told, "seconds": {"start": everything - sum(seconds.values()), **seconds, **own}}


def _processor_time() -> float:
    """Of the processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(predict, loaded, images: np.ndarray, rounds: int, wait) -> dict:
    """Time both in turns, and how far their answers are apart."""
    native, exported = predict(images), loaded(images)  # compiled here
    sides = {"native": predict, "exported": loaded}
    calls = {name: lambda side=side: wait(side(images)) for name, side in sides.items()}
    times = timing.in_turns({name: partial(timing.seconds_of, call, BUDGET_S) for name, call in calls.items()}, rounds)
    apart = np.abs(np.asarray(exported.logits) - np.asarray(native.logits)).max()
    return {
        "native_s": times["native"],
        "exported_s": times["exported"],
        "ratio": dataclasses.asdict(timing.ratio(times["exported"], times["native"])),
        "error_of_batch": float(apart / np.abs(np.asarray(native.logits)).max()),
        "same_depths": bool(np.array_equal(exported.depth, native.depth)),
    }


def report(result: dict) -> str:
    """A result as Markdown."""
    stages = [
        (what, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
        for (stage, what), seconds in zip(STAGES.items(), result["seconds"].values(), strict=True)
    ]
    ratio = "{median:.2f} ({low:.2f} to {high:.2f})"
    batches = [
        (line["batch"], ratio.format(**line["ratio"]), f"{line['error_of_batch']:.1e}") for line in result["batches"]
    ]
    goal = f"{result['target']['seconds']:g} s, {'reached' if result['target']['reached'] else 'missed'}"
    head = ("batch", "time over compile_predict's (quartiles)", "error of logits")
    return "\n\n".join(
        [
            f"{result['model']}: {result['bytes']:,} bytes, of them program {result['program_bytes']:,}. Target of the "
            f"first answer: {goal}.",
            markdown(("until the first answer", "s", "least to greatest"), stages),
            markdown(head, batches),
        ]
    )
