"""One command for a machine with a GPU: is it right there, and how fast is it?

    python bench/gpu.py [--output FILE]

Needs the library's core dependencies alone, and finds the package beside it. First models of every kind are compared
with the CPU, then a table is printed: this library beside the static CNN (cuDNN's) and kernels for every image,
interleaved, as ratios with quartiles. Without a GPU it says so and ends with exit code 3, unless ``--cpu`` asks for the
same on the CPU.
"""

import argparse
import functools
import pathlib
import shlex
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import puppet_jax as pj
from bench import case, cifar, contenders, machine, results_file, target, timing
from bench.case import Size

SIZES = [Size(64, 64, 16), Size(64, 32, 32), Size(64, 128, 8), Size(256, 64, 16), Size(1024, 64, 16)]
# Prediction and training step; the static CNN, which others are compared with, comes first.
CONTENDERS = (
    ("static_jax", "compile_predict", "exact"),
    ("train_static_jax", "train_continuous", "train_ode", "train_exact"),
)
TINY = Size(4, 8, 8, 2)
QUICK = (("static_jax", "compile_predict"), ("train_static_jax",))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write the figures to")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU instead, to try the script")
    parser.add_argument("--quick", action="store_true", help="one tiny size, two rounds, few checks and contenders")
    arguments = parser.parse_args()
    try:
        device = jax.devices("cpu" if arguments.cpu else "gpu")[0]
    except RuntimeError as error:
        print(f"no GPU: {error}; install jax with CUDA, or use --cpu")
        return 3
    command = shlex.join(["python", "bench/gpu.py", *sys.argv[1:]])
    result = {**machine.describe(), "command": command, "device": str(device.device_kind), "jax": jax.__version__}
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        if arguments.quick:
            models = {"continuous": case.make_model(TINY, "continuous")}
        else:
            names = ("continuous", "ode", "printed", "stored")
            models = {name: pj.create("puppet_s", puppeteer=name, rngs=nnx.Rngs(0)) for name in names}
            models["factored"] = pj.create("puppet_s", width=128, rngs=nnx.Rngs(0))
        result["correct"] = check_models(models)
    failed = [line for line in result["correct"] if not line["ok"]]
    for line in result["correct"]:
        print(f"{'ok  ' if line['ok'] else 'FAIL'} {line['what']}: {line['error']:.1e} (at most {line['limit']:.0e})")
    result["speed"] = []
    with jax.default_device(device):
        for size in [TINY] if arguments.quick else SIZES:
            rounds = 2 if arguments.quick else 15
            result["speed"] += measure(size, QUICK if arguments.quick else CONTENDERS, rounds)
    if arguments.output:
        results_file.write(arguments.output, result)
    return 1 if failed else 0


def line(what: str, found, expected, limit: float) -> dict:
    error = case.relative_error(found, np.asarray(expected))
    return {"what": what, "error": error, "limit": limit, "ok": bool(error <= limit)}


def on_cpu(function, *arguments):
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return jax.tree.map(np.asarray, function(*jax.device_put(arguments, cpu)))


def check_models(models: dict[str, pj.PuppetCNN]) -> list[dict]:
    """Complexity, logits and gradients of models by their puppeteers, and the compiled prediction, against the CPU."""
    images = cifar.images(np.linspace(2.0, 7.2, 32, dtype=np.float32), jax.jit(pj.complexity))  # of all depths
    lines = [line("complexity", jax.jit(pj.complexity)(images), on_cpu(jax.jit(pj.complexity), images), 1e-4)]
    for name, model in models.items():
        graphdef, state = nnx.split(model)

        def logits(state, images, graphdef=graphdef):
            return nnx.merge(graphdef, state)(images)

        def gradient(state, images, logits=logits):
            return jax.grad(lambda state: jnp.mean(logits(state, images) ** 2))(state)

        expected = on_cpu(jax.jit(logits), state, images)
        lines.append(line(f"{name}: logits", jax.jit(logits)(state, images), expected, 1e-3))
        lines.append(line(f"{name}: compile_predict", pj.compile_predict(model)(images).logits, expected, 1e-3))
        a, b = (
            jax.tree.leaves(g) for g in (jax.jit(gradient)(state, images), on_cpu(jax.jit(gradient), state, images))
        )
        flat = [np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in (a, b)]
        lines.append(line(f"{name}: gradient", *flat, 1e-2))
    return lines


def measure(size: Size, kinds: tuple[tuple[str, ...], ...], rounds: int) -> list[dict]:
    """Prediction and training step of one size in turns, each contender's time over that of the first of its kind."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        case.prepare(pathlib.Path(folder), size)
        given = case.load(pathlib.Path(folder), size)
    for names in kinds:
        runs = {name: functools.partial(timing.seconds_of, contenders.make(name, given).call) for name in names}
        first = {name: run() for name, run in runs.items()}
        times = timing.in_turns(runs, rounds)
        for name, values in times.items():
            row = {"size": str(size), "contender": name, "ms": 1e3 * float(np.median(values)), "base": names[0]}
            row |= {**target.ratio(values, times[names[0]]), "first_call_s": first[name], "seconds": values}
            rows.append(row)
            print(
                f"{size!s:<18} {name:<18} {row['ms']:9.3f} ms   {row['median']:6.2f} × {names[0]} "
                f"({row['low']:.2f} to {row['high']:.2f})   first call {first[name]:.1f} s"
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
