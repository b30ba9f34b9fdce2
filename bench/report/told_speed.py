"""The README on speed: its first sentence, the table of ratios, and GPUs."""

from bench.report.results import Results
from bench.report.speed import cell, compared
from bench.report.told import link, tell
from bench.report.words import Language, number
from bench.table import markdown

_FILE = "speed.json"
# kind, of what, whose time, over whose
_ROWS = (
    ("predict", "prediction: PyTorch, conventional, batched", "torch_batched", "compile_predict"),
    ("predict", "prediction: PyTorch, conventional, image by image", "torch_one_by_one", "compile_predict"),
    ("predict", "prediction: PyTorch (oneDNN), static CNN at full depth", "torch_static", "compile_predict"),
    ("predict", "prediction: JAX, static twin at full depth", "static_jax", "compile_predict"),
    ("predict", "prediction: JAX, exact path", "exact", "compile_predict"),
    ("train", "training step, ODE: JAX, static twin", "train_static_jax", "train_interpolated"),
    ("train", "training step, continuous: JAX, static twin", "train_static_jax", "train_continuous"),
    ("train", "training step, ODE: PyTorch, static CNN", "train_torch_static", "train_interpolated"),
    ("train", "training step, continuous: PyTorch, static CNN", "train_torch_static", "train_continuous"),
    ("train", "training step, ODE: PyTorch, conventional, batched", "train_torch_batched", "train_interpolated"),
    ("train", "training step, continuous: PyTorch, conventional, batched", "train_torch_batched", "train_continuous"),
    ("train", "training step, ODE: JAX, exact path", "train_exact", "train_interpolated"),
    ("train", "training step, ODE: JAX, plain `vmap`", "train_vmap", "train_interpolated"),
)


def first_sentence(data: dict, say: Language) -> str:
    """The range of prediction's ratios to PyTorch's static CNN and to the conventional method in PyTorch."""
    told = []
    for peer, said in (
        ("torch_static", "{range} times the speed of PyTorch's static CNN at full depth"),
        ("torch_batched", "{range} times the speed of the conventional method in PyTorch"),
    ):
        sizes = [one["contenders"] for name, one in data["measurements"].items() if name.startswith("predict ")]
        found = [ratio.median for size in sizes if (ratio := compared(size, peer, "compile_predict"))]
        if found:
            low, high = number(min(found)), number(max(found))
            told.append(say(said, range=say("{low} to {high}", low=low, high=high) if low != high else low))
    if not told:
        return say("Prediction was not compared with PyTorch.")
    said = "Prediction runs at {told} (CPU with {cores} cores, {file})."
    cores = data["machine"]["cores_used"]
    return say(said, told=say(" and ").join(told), cores=cores, file=link(_FILE))


def speed(results: Results) -> str:
    return tell(results, _FILE, _speed)


def gpu(results: Results) -> str:
    """Whether there are timings on a GPU."""
    say, names = results.say, results.names("gpu*.json")
    if not names:
        return say(
            "The GPU's and TPU's lowerings of the per-sample convolution are tested for correctness on the CPU; they "
            "have not been timed on those devices. `python bench/gpu.py` does it on a GPU."
        )
    parts = [
        tell(
            results, name, lambda data, say, name=name: say("{device}: {file}", device=data["device"], file=link(name))
        )
        for name in names
    ]
    return say("Timed on a GPU: {told}. A TPU has not been timed.", told=say.several(parts))


def _speed(data: dict, say: Language) -> str:
    found = {}
    for name, one in data["measurements"].items():
        kind, _, size = name.partition(" ")
        if kind in ("predict", "train"):
            found.setdefault(size, {})[kind] = one["contenders"]
    rows = [
        (say(what), *(cell(one.get(kind, {}), over, under, say) for one in found.values()))
        for kind, what, over, under in _ROWS
    ]
    told = say(
        "{processor}, {cores} cores, float32, seven layers, complexities distributed as in CIFAR-10, measured in "
        "turns; sizes are batch, channels, map. Above 1 ours is faster; medians and quartiles of {rounds} rounds "
        "({file}). Prediction is `compile_predict`, complexity included; training is on interpolated kernels.",
        processor=data["machine"]["processor"],
        cores=data["machine"]["cores_used"],
        rounds=data["rounds"],
        file=link(_FILE),
    )
    there = [row for row in rows if any(each != "–" for each in row[1:])]
    parts = [told, markdown([say("their time over ours"), *found], there)]
    for row in data["rows"]:
        if row["number"] == 12:
            said = "Generation without interpolation, continuous instead of the ODE: {n} times as fast ({where})."
            if row["under"].endswith("_as_read"):
                said = "The same, kernels left in the order that the convolution reads: {n} times as fast ({where})."
            spread = say.spread(row["median"], row["low"], row["high"])
            parts.append(say(said, n=spread, where=row["measurement"]))
    return "\n\n".join(parts)
