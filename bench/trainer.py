"""``python -m bench trainer``: is the trainer held up by its input, its checkpoints or what it tells?"""

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import machine, results_file
from bench.table import markdown

INPUT_TARGET, OVERHEAD_TARGET, EPOCH_TARGET = 5.0, 0.03, 1.1


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Compare a whole run with its bare steps, and the input pipeline alone with the steps it feeds."""

    data: str = "digits"
    """What to train on, as python -m train takes it."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps prepared sets, as python -m train takes it."""
    puppeteer: str = "continuous"
    """Where the kernels come from, as python -m train takes it."""
    epochs: int = 20
    """Epochs of each run; few enough for the images at hand."""
    max_steps: int | None = None
    """Stop each run after so many steps."""
    rounds: int = 5
    """Runs of each kind, in turns; a round's are compared with one another."""
    output: Path | None = None
    """JSON to write; none: bench/results/trainer_DATA.json."""


def run(options: Trainer) -> int:
    """Measure, write, print. 0, or 2 if the data cannot be had."""
    from train import data
    from train.config import Config, resolve
    from train.errors import UserError

    config = Config(
        data=options.data,
        data_dir=options.data_dir,
        puppeteer=options.puppeteer,
        epochs=options.epochs,
        max_steps=options.max_steps,
    )
    try:
        config = resolve(config)
        dataset = data.load(config.data, config.data_dir, config.evaluate_on)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bare = _Bare(config, dataset)
    rounds = [_round(config, dataset, bare, number) for number in range(options.rounds)]
    rows = [
        _row("pipeline alone, images/s over the step's", [r["input"] / r["step"] for r in rounds], ">=", INPUT_TARGET),
        _row(
            "overhead of checkpoints, metrics and events, share of a run that writes nothing",
            [r["whole_s"] / r["silent_s"] - 1 for r in rounds],
            "<=",
            OVERHEAD_TARGET,
        ),
        _row(
            "the trainer's whole loop, over bare batches, steps and evaluations",
            [r["whole_s"] / r["bare_s"] - 1 for r in rounds],
            "<=",
            OVERHEAD_TARGET,
        ),
        _row(
            "training time over pure step time x steps",
            [r["train_s"] / r["pure_s"] for r in rounds],
            "<=",
            EPOCH_TARGET,
        ),
    ]
    result = {
        **machine.describe(),
        "what": f"{config.data}, {config.preset}, {config.puppeteer}, batch {config.batch_size}, {bare.steps} steps a "
        f"run, evaluated {bare.evaluations} times",
        "rounds": rounds,
        "rows": rows,
    }
    output = options.output or results_file.FOLDER / f"trainer_{Path(options.data).name}.json"
    results_file.write(output, result)
    print(result["what"])
    lines = [
        (
            row["what"],
            f"{row['median']:.3g} ({row['low']:.3g} to {row['high']:.3g})",
            f"{row['sense']} {row['target']:g}",
            "reached" if row["reached"] else "missed",
        )
        for row in rows
    ]
    print(markdown(("what", "median (least to greatest)", "target", ""), lines))
    print(f"written: {output}")
    return 0


class _Bare:
    """The run without the trainer: batches, steps, evaluation; and its parts alone."""

    def __init__(self, config, dataset):
        import numpy as np
        from flax import nnx

        from train import data, devices
        from train.build import build
        from train.evaluation import evaluate
        from train.optimiser import make_optimiser
        from train.step import empty_tally, make_eval_step, make_train_step, start

        mesh = devices.make_mesh(config)
        per_epoch = len(dataset.train) // config.batch_size
        self.steps = min(config.epochs * per_epoch, config.max_steps or config.epochs * per_epoch)
        self.evaluations = -(-self.steps // per_epoch)
        model = build(config, num_classes=dataset.num_classes, in_channels=dataset.train.images.shape[-1])
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        optimiser = make_optimiser(config, self.steps)
        step, eval_step = make_train_step(graphdef, optimiser, config, mesh), make_eval_step(graphdef, mesh)
        go_on = devices.rows(mesh, np.zeros(mesh.size, np.int32))

        def begin():
            return devices.shared(mesh, (start(params, optimiser, config), empty_tally(), rest))

        def batches(steps):
            for batch in data.train_batches(dataset.train, config.batch_size, seed=config.seed, stop_step=steps):
                yield tuple(devices.rows(mesh, array) for array in batch)

        def whole():
            state, tally, still = begin()
            for done, batch in enumerate(batches(self.steps), start=1):
                state, tally = step(state, tally, still, *batch, go_on)
                if done % per_epoch == 0 or done == self.steps:
                    evaluate(eval_step, state.params, still, dataset.test, config.batch_size, mesh)
            return tally

        def pure(batch, steps):
            state, tally, still = begin()
            tally.step.block_until_ready()
            began = time.perf_counter()
            for _ in range(steps):
                state, tally = step(state, tally, still, *batch, go_on)
            tally.step.block_until_ready()
            return (time.perf_counter() - began) / steps

        self.whole, self.pure, self.batches = whole, pure, batches
        self.batch_size = config.batch_size
        self.some = next(batches(1))
        pure(self.some, 1)  # compiled
        evaluate(eval_step, params, rest, dataset.test, config.batch_size, mesh)


def _round(config, dataset, bare: _Bare, number: int) -> dict:
    from train.loop import train

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            summaries.append(train(config, dataset, Path(folder)))
        return summaries[-1]["loop_seconds"]

    def silent() -> float:
        return train(config, dataset, None)["loop_seconds"]

    def plain() -> float:
        began = time.perf_counter()
        bare.whole().step.block_until_ready()
        return time.perf_counter() - began

    few = min(bare.steps, 200)
    summaries, seconds, pure = [], {}, [bare.pure(bare.some, few)]
    runs = (("whole_s", whole), ("bare_s", plain), ("silent_s", silent))
    # Every other round in the other order: whoever comes later finds another machine.
    for name, one in runs if number % 2 == 0 else runs[::-1]:
        seconds[name] = one()
        pure.append(bare.pure(bare.some, few))
    many = max(bare.steps, 500)
    began = time.perf_counter()
    for batch in itertools.islice(bare.batches(many), many):
        batch[0].block_until_ready()
    input_s = time.perf_counter() - began
    step_s = statistics.mean(pure)
    return {
        "input": many * bare.batch_size / input_s,
        "step": bare.batch_size / step_s,
        **seconds,
        "train_s": summaries[0]["train_seconds"],
        "pure_s": step_s * bare.steps,
        "test_accuracy": summaries[0]["test_accuracy"],
    }


def _row(what: str, values: list[float], sense: str, target: float) -> dict:
    median = statistics.median(values)
    reached = median >= target if sense == ">=" else median <= target
    row = {"what": what, "median": median, "low": min(values), "high": max(values), "rounds": values}
    return row | {"sense": sense, "target": target, "reached": reached}
