"""``python -m bench speed trainer``: is the trainer held up by its input, its checkpoints or what it tells?"""

import collections
import tempfile
import time
from pathlib import Path

from bench import target, timing
from bench.command import Options

FILE = "trainer_{data}.json"
INPUT_TARGET, OVERHEAD_TARGET, EPOCH_TARGET = 5.0, 0.03, 1.1
EPOCHS = {"digits": 20}  # of each run, by data set; few enough for the images at hand
ALONE = 500  # batches and steps that are timed alone, at most
_WRITING = "overhead of checkpoints, metrics and events, share of a run that writes nothing"
_LOOP = "the trainer's whole loop, over bare batches, steps and evaluations"


def measure(options: Options, result: dict, path: Path | None) -> None:
    """Whole runs beside their bare steps, and the input pipeline alone beside the steps it feeds."""
    from train import data
    from train.config import Config, resolve
    from train.steps.loop import train

    given = {"data": options.data, "data_dir": options.data_dir, "epochs": EPOCHS.get(options.data, 1)}
    if options.quick:
        given |= {"epochs": 1, "max_steps": 20, "puppeteer": "stored", "width": 4}
    config = resolve(Config(**given))
    dataset = data.load(config.data, config.data_dir, config.evaluate_on)
    bare = _Bare(config, dataset)
    steps, rounds = bare.steps, []
    result |= {name: getattr(config, name) for name in ("data", "preset", "puppeteer", "batch_size")}
    result |= {"steps": steps, "evaluations": -(-steps // bare.per_epoch), "rounds": rounds}

    def whole() -> dict:
        with tempfile.TemporaryDirectory() as folder:
            summary = train(config, dataset, Path(folder))
        named = {"whole_s": "loop_seconds", "train_s": "train_seconds", "test_accuracy": "test_accuracy"}
        return {name: summary[key] for name, key in named.items()}

    measures = {
        "whole": whole,
        "step": lambda: {"step_s": bare.step_seconds(min(steps, ALONE))},
        "bare": lambda: {"bare_s": timing.seconds_of(bare.run)},
        "batch": lambda: {"batch_s": bare.batch_seconds(min(steps, ALONE))},
        "silent": lambda: {"silent_s": train(config, dataset, None)["loop_seconds"]},
    }
    timing.in_turns(measures, options.rounds, lambda found: rounds.append(dict(collections.ChainMap(*found.values()))))
    for what, of, sense, bound in (
        ("pipeline alone, images/s over the step's", lambda r: r["step_s"] / r["batch_s"], ">=", INPUT_TARGET),
        (_WRITING, lambda r: r["whole_s"] / r["silent_s"] - 1, "<=", OVERHEAD_TARGET),
        (_LOOP, lambda r: r["whole_s"] / r["bare_s"] - 1, "<=", OVERHEAD_TARGET),
        ("training time over pure step time x steps", lambda r: r["train_s"] / r["step_s"] / steps, "<=", EPOCH_TARGET),
    ):
        found = target.spread([of(each) for each in rounds], target.LEAST_TO_GREATEST)
        result.setdefault("rows", []).append(target.row(what, found, sense, bound))


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
        self.per_epoch = len(dataset.train) // config.batch_size
        self.steps = min(config.epochs * self.per_epoch, config.max_steps or config.epochs * self.per_epoch)
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

        def run():
            state, tally, still = begin()
            for done, batch in enumerate(batches(self.steps), start=1):
                state, tally = step(state, tally, still, *batch, go_on)
                if done % self.per_epoch == 0 or done == self.steps:
                    evaluate(eval_step, state.params, still, dataset.test, config.batch_size, mesh)
            tally.step.block_until_ready()

        def step_seconds(steps):
            state, tally, still = begin()
            tally.step.block_until_ready()
            began = time.perf_counter()
            for _ in range(steps):
                state, tally = step(state, tally, still, *some, go_on)
            tally.step.block_until_ready()
            return (time.perf_counter() - began) / steps

        def batch_seconds(steps):
            began = time.perf_counter()
            for batch in batches(steps):
                batch[0].block_until_ready()
            return (time.perf_counter() - began) / steps

        some = next(batches(1))
        self.run, self.step_seconds, self.batch_seconds = run, step_seconds, batch_seconds
        step_seconds(1)  # compiled
        evaluate(eval_step, params, rest, dataset.test, config.batch_size, mesh)
