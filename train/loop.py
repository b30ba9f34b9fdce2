"""Training, from the first step to the last figure, in one function to be read from top to bottom."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from tqdm import tqdm

import puppet_jax as pj
from train import data, parameters, run
from train.build import build
from train.config import Config, to_json
from train.errors import UserError
from train.evaluation import by_depth, evaluate, measure
from train.optimiser import learning_rate_schedule, make_optimiser
from train.step import empty_tally, make_eval_step, make_train_step, start

# Seconds between two looks at the device for the progress bar.
REFRESH = 0.3


class Diverged(RuntimeError):
    """The loss stopped being a number."""


def train(config: Config, dataset: data.Dataset, folder: Path) -> dict[str, Any]:
    """Train a model and fill the run's folder.

    Args:
        config: resolved (:func:`train.config.resolve`).
        dataset: of :func:`train.data.load`.
        folder: empty (:func:`train.run.make_folder`).

    Returns:
        what ``summary.json`` holds. Its accuracy is the last epoch's: no epoch is chosen by the test images.

    Raises:
        UserError: more images in a batch than there are, or options that the model refuses.
        Diverged: the loss became NaN or infinite; the folder keeps the epochs before.
    """
    began = time.perf_counter()
    steps_per_epoch = len(dataset.train) // config.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"--batch-size: got {config.batch_size}, expected at most the {len(dataset.train)} training images"
        )
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or math.inf)
    epochs = math.ceil(total_steps / steps_per_epoch)

    # The model, split once into what it is (graphdef), what is trained (params) and the rest of its state.
    shape = {"num_classes": dataset.num_classes, "in_channels": dataset.train.images.shape[-1]}
    model = build(config, **shape)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimiser = make_optimiser(config, total_steps)
    schedule = learning_rate_schedule(config.learning_rate, config.warmup, total_steps)
    state = start(params, optimiser)
    eval_step = make_eval_step(graphdef)
    say(str(pj.summary(model)))

    # Compiled ahead, so that images per second and seconds are those of training.
    say("compiling ...")
    of_train = measure(model, dataset.train, config.batch_size)
    # What the images measure, and room for what augmentation does to them.
    interval = (
        max(float(of_train["complexity"].min()) - 0.5, 0.0),
        min(float(of_train["complexity"].max()) + 0.5, 8.0),
    )
    first = next(data.batches(dataset.train, config.batch_size, seed=config.seed, epoch=1))
    step = make_train_step(graphdef, optimiser, config, interval).lower(state, rest, *first).compile()
    compile_seconds = time.perf_counter() - began

    history: list[dict[str, Any]] = []
    train_seconds, done = 0.0, 0
    for epoch in range(1, epochs + 1):
        steps = min(steps_per_epoch, total_steps - done)
        state = state._replace(tally=empty_tally())
        epoch_began, next_look = time.perf_counter(), 1
        # disable=None: no bar where standard error is no terminal; the epoch's line says it all there.
        with tqdm(total=steps, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False, disable=None) as bar:
            order = data.batches(dataset.train, config.batch_size, seed=config.seed, epoch=epoch)
            for index, (images, labels) in zip(range(1, steps + 1), order, strict=False):
                state = step(state, rest, images, labels)
                done += 1
                # Steps are handed to the device ahead of their turn. A look waits for it, so the bar shows steps that
                # are done; there is one in as many steps as take REFRESH seconds.
                if not bar.disable and index >= next_look:
                    loss, accuracy, seen = means(state.tally)
                    pace = index / (time.perf_counter() - epoch_began)
                    speed = pace * config.batch_size
                    bar.set_postfix_str(
                        f"loss {loss:.3f}, accuracy {accuracy:.1%}, {speed:,.0f} images/s", refresh=False
                    )
                    bar.update(index - bar.n)
                    next_look = index + max(1, round(pace * REFRESH))
            train_loss, train_accuracy, seen = means(state.tally)
        seconds = time.perf_counter() - epoch_began
        train_seconds += seconds
        if not math.isfinite(train_loss):
            raise Diverged(
                f"the loss became {train_loss} in epoch {epoch} (by step {done}); try a lower --learning-rate (it is "
                f"{config.learning_rate:g}), a longer --warmup or a smaller --clip-norm"
            )

        test_loss, correct = evaluate(eval_step, state.params, rest, dataset.test, config.batch_size)
        line = {
            "epoch": epoch,
            "step": done,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": float(test_loss.mean(dtype=float)),
            "test_accuracy": float(correct.mean(dtype=float)),
            "learning_rate": float(schedule(done - 1)),
            "seconds": round(seconds, 4),
            "images_per_second": round(seen / seconds, 1),
        }
        history.append(line)
        run.append_line(folder / "metrics.jsonl", line)
        about = {"config": to_json(config), "model": shape, "epoch": epoch, "step": done}
        parameters.save(folder / "params.safetensors", state.params, about)
        say(
            f"epoch {epoch}/{epochs}: train loss {train_loss:.4f}, accuracy {train_accuracy:.2%}; "
            f"{config.evaluate_on} loss {line['test_loss']:.4f}, accuracy {line['test_accuracy']:.2%}; "
            f"{seconds:.1f} s, {line['images_per_second']:,.0f} images/s"
        )

    # What the model measured in the images, and the figures.
    model = nnx.merge(graphdef, state.params, rest)
    of_test = measure(model, dataset.test, config.batch_size)
    groups = pj.summary(model)
    accuracy_by_depth = by_depth(of_test["depth"], correct)
    from train import figures  # matplotlib takes a second to import, and is needed only here

    figures.draw(
        folder,
        title=f"{config.data}, {config.preset}, {config.puppeteer}, seed {config.seed}",
        evaluated=config.evaluate_on,
        history=history,
        train=of_train,
        test=of_test,
        accuracy_by_depth=accuracy_by_depth,
        max_depth=model.max_depth,
    )
    summary = {
        "evaluated_on": config.evaluate_on,
        "test_images": len(dataset.test),
        "test_correct": int(correct.sum()),
        "test_accuracy": line["test_accuracy"],
        "test_loss": line["test_loss"],
        "epochs": epochs,
        "steps": done,
        "parameters": {
            "generator": groups.generator,
            "normalisation": groups.normalisation,
            "head": groups.head,
            "total": groups.total,
            "static_twin": groups.static_twin,
        },
        "compression": groups.compression,
        "max_depth": model.max_depth,
        "clipped": {"train": float(of_train["clipped"].mean()), "test": float(of_test["clipped"].mean())},
        "complexity_mean_bits": {
            "train": float(of_train["complexity"].mean()),
            "test": float(of_test["complexity"].mean()),
        },
        "accuracy_by_depth": accuracy_by_depth,
        "compile_seconds": round(compile_seconds, 2),
        "train_seconds": round(train_seconds, 2),
        "total_seconds": round(time.perf_counter() - began, 2),
        "peak_memory_bytes": run.peak_memory_bytes(),
    }
    run.write_json(folder / "summary.json", summary)
    return summary


def means(tally) -> tuple[float, float, int]:
    """Mean loss, accuracy and number of the images in a tally; waits for the device."""
    loss, correct, seen = jax.device_get(tally)
    return float(loss) / int(seen), int(correct) / int(seen), int(seen)


def say(text: str) -> None:
    """A line on standard error, above the progress bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
