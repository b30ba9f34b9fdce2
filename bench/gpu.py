"""One command for a machine with a GPU: is it right there, and how fast is it?

    python bench/gpu.py [--output FILE]

Needs the library's core dependencies alone, and finds the package beside it. First every lowering and the whole model
are compared with the CPU, then a table is printed: this library beside the static CNN (cuDNN's) and kernels for every
image, interleaved, as ratios with quartiles; then the lowerings beside each other, and with what is left of the time
the throughput of training on batches of CIFAR-10's shape. Without a GPU it says so and ends with exit code 3, unless
``--cpu`` asks for the same on the CPU.
"""

import argparse
import functools
import json
import os
import pathlib
import shlex
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import puppet_jax as pj
from bench import machine
from puppet_jax.puppets.bank_convolution import LOWERINGS
from puppet_jax.puppets.convolution import Choice, convolve

SIZES = ((64, 64, 16), (64, 32, 32), (64, 128, 8), (256, 64, 16), (1024, 64, 16))  # batch, channels, map
LAYERS = 7
LAYOUT = ("NHWC", "HWIO", "NHWC")
LOWERINGS_HERE = [name for name in LOWERINGS if not name.startswith("native")]  # the native ones are for CPUs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write the figures to")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU instead, to try the script")
    parser.add_argument("--quick", action="store_true", help="one tiny size, three layers, two rounds")
    parser.add_argument("--seconds", type=float, default=420.0, help="begin no further size after this long")
    arguments = parser.parse_args()
    began = time.perf_counter()
    device = find_device(arguments.cpu)
    if device is None:
        print("no GPU: jax sees only", ", ".join(map(str, jax.devices())), "- install jax with CUDA, or use --cpu")
        return 3
    command = shlex.join(["python", "bench/gpu.py", *sys.argv[1:]])
    result = {**machine.describe(), "command": command, "device": str(device.device_kind), "jax": jax.__version__}
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        names = ("continuous",) if arguments.quick else ("continuous", "ode", "printed", "stored")
        result["correct"] = check_lowerings() + check_models(names, "puppet_xs" if arguments.quick else "puppet_s")
    failed = [line for line in result["correct"] if not line["ok"]]
    for line in result["correct"]:
        print(f"{'ok  ' if line['ok'] else 'FAIL'} {line['what']}: {line['error']:.1e} (at most {line['limit']:.0e})")
    result["speed"], result["lowerings"] = [], []
    with jax.default_device(device):
        for size in ((4, 8, 8),) if arguments.quick else SIZES:
            if time.perf_counter() - began > arguments.seconds:
                print(f"left out for lack of time: {size}")
                continue
            short = {"rounds": 2, "layers": 3} if arguments.quick else {"rounds": 15, "layers": LAYERS}
            result["speed"] += measure(size, **short)
            result["lowerings"] += measure_lowerings(size, short["rounds"])
        result["throughput"] = []
        for preset, batch in (("puppet_xs", 8),) if arguments.quick else (("puppet_s", 512), ("puppet_m", 512)):
            if time.perf_counter() - began < arguments.seconds:
                result["throughput"].append(throughput(preset, batch, steps=2 if arguments.quick else 50))
    if arguments.output:
        partial = arguments.output.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
        os.replace(partial, arguments.output)
    return 1 if failed else 0


def find_device(cpu: bool):
    if cpu:
        return jax.devices("cpu")[0]
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return None


def line(what: str, found, expected, limit: float) -> dict:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    error = float(np.abs(found - expected).max() / (np.abs(expected).max() + 1e-12))
    return {"what": what, "error": error, "limit": limit, "ok": bool(error <= limit)}


def on_cpu(function, *arguments):
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        return jax.tree.map(np.asarray, function(*jax.device_put(arguments, cpu)))


def check_lowerings() -> list[dict]:
    """Each lowering of the convolution, forward and both gradients, against XLA's own on the CPU."""
    rng = np.random.default_rng(0)
    lines = []
    for stride, padding, k in ((1, "SAME", 3), (2, "SAME", 5), (1, "VALID", 3)):
        x = rng.standard_normal((17, 9, 8, 6)).astype(np.float32)
        bank = rng.standard_normal((5, k, k, 6, 7)).astype(np.float32)
        index = rng.integers(-1, 5, 17)

        def plain(x, choice, stride=stride, padding=padding):
            kernel = jnp.where(choice.index >= 0, choice.bank[choice.index], 0.0)
            strides = (stride, stride)
            return jax.lax.conv_general_dilated(x[None], kernel, strides, padding, dimension_numbers=LAYOUT)[0]

        def everything(function, x, bank, index=index):
            value = lambda x, bank: jax.vmap(function, (0, Choice(0, None)))(x, Choice(jnp.asarray(index), bank))  # noqa: E731
            return value(x, bank), *jax.grad(lambda *both: jnp.sum(value(*both) ** 2), (0, 1))(x, bank)

        expected = on_cpu(jax.jit(functools.partial(everything, plain)), x, bank)
        for lowering in LOWERINGS_HERE:
            mine = functools.partial(convolve, stride=stride, padding=padding, lowering=lowering)
            found = jax.jit(functools.partial(everything, mine))(x, bank)
            for name, a, b in zip(("value", "image gradient", "bank gradient"), found, expected, strict=True):
                lines.append(line(f"{lowering} {k}×{k} stride {stride} {padding}, {name}", a, b, 1e-4))
    return lines


def check_models(names: tuple[str, ...], preset: str) -> list[dict]:
    """Complexity, logits and gradients of the named puppeteers, and the compiled prediction, against the CPU."""
    images = synthetic_images(32, 32)
    lines = [line("complexity", jax.jit(pj.complexity)(images), on_cpu(jax.jit(pj.complexity), images), 1e-4)]
    for name in names:
        model = pj.create(preset, puppeteer=name, rngs=nnx.Rngs(0))
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


def synthetic_images(batch: int, side: int) -> np.ndarray:
    """Noise of 2 to 256 levels over a ramp: complexities from low to that of photographs."""
    rng = np.random.default_rng(1)
    levels = np.geomspace(2, 256, batch).astype(int)
    noise = [rng.integers(0, n, (side, side, 3)) * (255 // max(n - 1, 1)) for n in levels]
    return np.clip(np.stack(noise), 0, 255).astype(np.uint8)


def make_model(channels: int, side: int, layers: int, puppeteer, measurement=None):
    specs = [pj.LayerSpec(channels, stride=32 // side), *[pj.LayerSpec(channels)] * (layers - 1)]
    puppet = pj.PlainPuppet(specs, in_channels=3, num_classes=10, rngs=nnx.Rngs(0))
    return pj.PuppetCNN(puppeteer(puppet.kernel_shapes, rngs=nnx.Rngs(1)), puppet, measurement)


def measure(size: tuple[int, int, int], rounds: int, layers: int) -> list[dict]:
    """Prediction and training step of one size; each contender's time over the static CNN's."""
    batch, channels, side = size
    images = jnp.asarray(synthetic_images(batch, 32))
    model = make_model(channels, side, layers, pj.ContinuousPuppeteer)
    ode = make_model(channels, side, layers, pj.OdePuppeteer)
    exact = make_model(channels, side, layers, pj.OdePuppeteer, pj.Measure(bin=None))
    static = make_model(channels, side, layers, pj.StoredPuppeteer)
    predict = pj.compile_predict(model)
    prediction = {
        "static CNN, all layers": jitted(static, full_depth),
        "compile_predict": lambda: predict(images).logits,
        "ODE, kernels for every image": jitted(exact, lambda m, x: m(x)),
    }
    step = {
        "static CNN, all layers": training(static, full_depth),
        "continuous": training(model, lambda m, x: m(x)),
        "ODE": training(ode, lambda m, x: m(x)),
        "ODE, kernels for every image": training(exact, lambda m, x: m(x)),
    }
    rows = []
    for kind, contenders in (("predict", prediction), ("training step", step)):
        runs = {
            name: run if name == "compile_predict" else functools.partial(run, images)
            for name, run in contenders.items()
        }
        rows += compare(kind, size, runs, "static CNN, all layers", rounds)
    return rows


def measure_lowerings(size: tuple[int, int, int], rounds: int) -> list[dict]:
    """One layer's convolution with both gradients, by each lowering; images in the bins of a batch of CIFAR-10."""
    batch, channels, side = size
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, side, side, channels)), jnp.float32)
    bank = jnp.asarray(rng.standard_normal((7, 3, 3, channels, channels)), jnp.float32)
    index = jnp.asarray(np.sort(rng.choice(7, batch, p=(0.02, 0.05, 0.13, 0.3, 0.3, 0.15, 0.05))))

    def both(lowering):
        def value(x, bank):
            one = functools.partial(convolve, lowering=lowering)
            return jax.vmap(one, (0, Choice(0, None)))(x, Choice(index, bank))

        return jax.jit(lambda x, bank: jax.vjp(value, x, bank)[1](x))

    runs = {name: functools.partial(both(name), x, bank) for name in ("gathered", "ragged")}
    return compare("one layer", size, runs, "gathered", rounds)


def compare(kind: str, size, runs: dict, base: str, rounds: int) -> list[dict]:
    """Times of ``runs`` in turns, each over that of ``base``."""
    first = {name: seconds(run) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    rows = []
    for name, values in times.items():
        low, median, high = np.quantile(np.array(values) / np.array(times[base]), (0.25, 0.5, 0.75))
        row = {"size": size, "kind": kind, "contender": name, "ms": 1e3 * float(np.median(values)), "base": base}
        row |= {"over_base": float(median), "quartiles": [float(low), float(high)]}
        rows.append(row | {"first_call_s": first[name], "seconds": values})
        print(
            f"{kind:<14} {size!s:<16} {name:<28} {row['ms']:9.3f} ms   {median:6.2f} × {base} "
            f"({low:.2f} to {high:.2f})   first call {first[name]:.1f} s"
        )
    return rows


def throughput(preset: str, batch: int, steps: int) -> dict:
    """Images a second of training on batches of CIFAR-10's shape."""
    graphdef, state = nnx.split(pj.create(preset, rngs=nnx.Rngs(0)))
    optimiser = optax.adamw(1e-3)
    images = jnp.asarray(synthetic_images(batch, 32))
    labels = jnp.arange(batch) % 10

    def loss(state, images):
        logits = nnx.merge(graphdef, state)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state, opt_state, images):
        value, gradient = jax.value_and_grad(loss)(state, images)
        updates, opt_state = optimiser.update(gradient, opt_state, state)
        return optax.apply_updates(state, updates), opt_state, value

    state, opt_state, value = step(state, optimiser.init(state), images)
    jax.block_until_ready(value)
    began = time.perf_counter()
    for _ in range(steps):
        state, opt_state, value = step(state, opt_state, images)
    jax.block_until_ready(value)
    rate = steps * batch / (time.perf_counter() - began)
    print(f"training {preset}, batches of {batch}: {rate:,.0f} images/s")
    return {"preset": preset, "batch": batch, "steps": steps, "images_per_s": rate}


def full_depth(model: pj.PuppetCNN, images):
    """The static CNN: one kernel a layer for the whole batch, an ordinary convolution, every layer."""
    kernels = model.puppeteer(0.0)
    unit = images.astype(jnp.float32) / 255.0
    return jax.vmap(lambda image: model.puppet(image, kernels, model.max_depth))(unit)


def jitted(model, function):
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, images: function(nnx.merge(graphdef, state), images))
    return functools.partial(run, state)


def training(model, function):
    graphdef, state = nnx.split(model)
    optimiser = optax.adamw(1e-4)

    def loss(state, images):
        return -jnp.mean(jax.nn.log_softmax(function(nnx.merge(graphdef, state), images))[:, 0])

    @jax.jit
    def step(state, opt_state, images):
        updates, opt_state = optimiser.update(jax.grad(loss)(state, images), opt_state, state)
        return optax.apply_updates(state, updates), opt_state

    return functools.partial(step, state, optimiser.init(state))


def seconds(run) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
