"""``python -m bench speed trainer``: is the trainer held up by its input, its checkpoints or what it tells?"""

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench import machine, results_file, target, timing

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

    given = ("data", "data_dir", "puppeteer", "epochs", "max_steps")
    try:
        config = resolve(Config(**{name: getattr(options, name) for name in given}))
        dataset = data.load(config.data, config.data_dir, config.evaluate_on)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bare = _Bare(config, dataset)
    rounds = _rounds(config, dataset, bare, options.rounds)
    figures = [
        ("pipeline alone, images/s over the step's", lambda r: r["input"] / r["step"], ">=", INPUT_TARGET),
        (
            "overhead of checkpoints, metrics and events, share of a run that writes nothing",
            lambda r: r["whole_s"] / r["silent_s"] - 1,
            "<=",
            OVERHEAD_TARGET,
        ),
        (
            "the trainer's whole loop, over bare batches, steps and evaluations",
            lambda r: r["whole_s"] / r["bare_s"] - 1,
            "<=",
            OVERHEAD_TARGET,
        ),
        ("training time over pure step time x steps", lambda r: r["train_s"] / r["pure_s"], "<=", EPOCH_TARGET),
    ]
    rows = [
        target.row(what, [of(each) for each in rounds], sense, bound, target.LEAST_TO_GREATEST)
        for what, of, sense, bound in figures
    ]
    what = f"{config.data}, {config.preset}, {config.puppeteer}, batch {config.batch_size}, {bare.steps} steps a run"
    what += f", evaluated {bare.evaluations} times"
    output = options.output or results_file.FOLDER / f"trainer_{Path(options.data).name}.json"
    result = {**machine.describe(), "what": what, "rounds": rounds, "rows": rows}
    results_file.finish(output, result, f"{what}\n\n{target.table(rows, 'least to greatest')}")
    return 0


class _Bare:
    """The run without the trainer: batches, steps, evaluation; and its parts alone."""

    def __init__(self, config, dataset):
        import numpy as np
        from flax import nnx

        from train import data, devices
        from train.build import build
        from train.steps.evaluation import evaluate
        from train.steps.optimiser import make_optimiser
        from train.steps.step import empty_tally, make_eval_step, make_train_step, start

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


def _rounds(config, dataset, bare: _Bare, count: int) -> list[dict]:
    """Figures of each round; pure steps are timed before, between and after the runs that they are compared with."""
    from train.steps.loop import train

    few, many = min(bare.steps, 200), max(bare.steps, 500)
    summaries, rounds = [], []
    pure = [bare.pure(bare.some, few)]

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            summaries.append(train(config, dataset, Path(folder)))
        return summaries[-1]["loop_seconds"]

    def silent() -> float:
        return train(config, dataset, None)["loop_seconds"]

    def plain() -> float:
        return timing.seconds_of(lambda: bare.whole().step.block_until_ready())

    def beside_pure_steps(one) -> float:
        seconds = one()
        pure.append(bare.pure(bare.some, few))
        return seconds

    def gather(seconds: dict[str, float]) -> None:
        began = time.perf_counter()
        for batch in itertools.islice(bare.batches(many), many):
            batch[0].block_until_ready()
        of_input = many * bare.batch_size / (time.perf_counter() - began)
        step = statistics.mean(pure)
        pure[:] = [bare.pure(bare.some, few)]
        of_run = {"train_s": summaries[-1]["train_seconds"], "test_accuracy": summaries[-1]["test_accuracy"]}
        speeds = {"input": of_input, "step": bare.batch_size / step}
        rounds.append({**speeds, **seconds, **of_run, "pure_s": step * bare.steps})

    runs = {"whole_s": whole, "bare_s": plain, "silent_s": silent}
    timing.in_turns({name: partial(beside_pure_steps, one) for name, one in runs.items()}, count, gather)
    return rounds
