"""``python -m bench speed export``: how soon an exported model answers in a fresh process, and how fast it then is."""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench import cifar, first_answer, target, timing
from bench.speed import Options

FILE = "export.json"
TARGET_S = 3.0
BUDGET_S = 0.3
# As somebody runs it who has jax and a copy of puppet_jax/artifact.py.
_SCRIPT = """
import time
start = time.perf_counter()
import importlib.util, json, sys
import jax, jax.export, numpy as np
imported = time.perf_counter()
artifact, file, image = sys.argv[1:]
spec = importlib.util.spec_from_file_location("artifact", artifact)
module = sys.modules["artifact"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
image = np.load(image)
model = module.load(file)
loaded = time.perf_counter()
[np.asarray(each) for each in model(image)]
answered = time.perf_counter()
assert "puppet_jax" not in sys.modules
seconds = {"import": imported - start, "load": loaded - imported, "answer": answered - loaded}
print(json.dumps({"seconds": seconds, "answered_at": time.time()}))
"""


def measure(options: Options, result: dict, path: Path | None) -> None:
    """Fresh processes that load an exported model; then the loaded model beside ``compile_predict`` in turns."""
    import jax

    import puppet_jax as pj
    from puppet_jax import artifact

    info = pj.pretrained_info(first_answer.MODEL)
    predict = pj.compile_predict(pj.load_pretrained(first_answer.MODEL))
    about = {"image_shape": (cifar.SIZE, cifar.SIZE, 3), "classes": info["class_names"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, image = folder / "model.puppet", folder / "image.npy"
        pj.export(predict, file, **about)
        loaded = pj.load(file)
        np.save(image, _images(predict, 1))
        answer = partial(_answer, artifact.__file__, str(file), str(image), folder)
        stages = timing.in_turns({"": answer}, options.rounds)[""]
        result |= {"model": first_answer.MODEL, "bytes": file.stat().st_size, "rows": []}
    result["seconds"] = {stage: [each[stage] for each in stages] for stage in stages[0]}
    everything = target.spread(result["seconds"]["all"])
    result["rows"].append(target.row("exported model, seconds to the first answer", everything, "<=", TARGET_S))
    for batch in (1,) if options.quick else (1, 64):
        images = _images(predict, batch)
        wait = lambda side, images=images: jax.block_until_ready(side(images))  # noqa: E731
        sides = [partial(wait, predict), partial(wait, loaded)]
        native, exported = (side().logits for side in sides)  # compiled here
        turns = {n: partial(timing.seconds_of, side, BUDGET_S) for n, side in enumerate(sides)}
        times = timing.in_turns(turns, options.rounds)
        what = f"exported model, share of compile_predict's time, batch {batch}"
        error = float(np.abs(exported - native).max() / np.abs(native).max())
        result["rows"].append({**target.row(what, target.ratio(times[1], times[0])), "error_of_batch": error})


def _images(predict, batch: int) -> np.ndarray:
    return cifar.images(cifar.complexities(batch), lambda images: predict(images).complexity)


def _answer(artifact: str, file: str, image: str, folder: Path) -> dict[str, float]:
    """Seconds of the stages of a fresh process, and of all until its answer. The repository is not on its path."""
    began = time.time()
    told = first_answer.ask(_SCRIPT, artifact, file, image, cwd=folder)
    return {**told["seconds"], "all": told["answered_at"] - began}
