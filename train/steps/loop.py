"""Training, from the first step to the last figure, in one function to be read from top to bottom."""

import contextlib
import dataclasses
import functools
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from tqdm import tqdm

import puppet_jax as pj
from puppet_jax._pretrained import flat
from train import data, devices
from train.build import build
from train.config import ResolvedConfig
from train.errors import UserError
from train.runs import model_file, resume, run_folder
from train.runs.checkpoint import DAMAGED, Checkpoints
from train.runs.model_file import About, Trained
from train.runs.origins import begin_with, teacher_of
from train.steps import interrupt
from train.steps.evaluation import accuracy_by, confusion, evaluate, kernels_by_bin, measure
from train.steps.exits import at_exits, dial
from train.steps.optimiser import learning_rate, make_optimiser
from train.steps.progress import Progress, means
from train.steps.step import Tally, empty_tally, make_eval_step, make_train_step, start
from train.telling import compiling, say

# Steps dispatched ahead of the one that is looked at, so that the device never waits for the host.
AHEAD = 2
# A run of more seconds than these is told how long it will take; a step takes about so many times as long as the
# evaluation of its images (3.0 to 3.5 with presets on images of 32 and 64 pixels).
LONG, OF_EVALUATION = 600, 3.3
# Fewer steps than these hardly teach anything.
FEW = 100
# The groups of parameters that a summary counts.
PARAMETERS = ("generator", "normalisation", "head", "total", "static_twin")


class Diverged(UserError):
    """The loss stopped being a number."""

    code = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """All of a training that can be refused, put together before anything is written; ``began`` is when, by
    ``time.perf_counter``."""

    mesh: jax.sharding.Mesh
    model: pj.PuppetCNN
    teacher: Trained | None
    data: dict[str, Any]
    about: About
    steps_per_epoch: int
    total_steps: int
    began: float


def plan(config: ResolvedConfig, dataset: data.Dataset) -> Plan:
    """Divide the batch among the devices and make the model; refused are a batch that the devices do not allow, options
    that the model refuses, and nothing to start or learn from."""
    began = time.perf_counter()
    fingerprint = data.fingerprint(dataset)
    mesh = devices.make_mesh(config, fingerprint)
    steps_per_epoch = data.steps_per_epoch(len(dataset.train), config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    if config.max_steps is not None:
        total_steps = min(total_steps, config.max_steps)
    *size, channels = dataset.train.images.shape[1:]
    model = build(config, num_classes=dataset.num_classes, in_channels=channels, image_size=size)
    model.image_shape = *size, channels
    about = model_file.describe(config, fingerprint)
    if config.resume is not None and Checkpoints.there(config.resume):
        digest = run_folder.described(config.resume).began
    else:
        digest = None if config.start_from is None else begin_with(model, config, about)
    teacher = teacher_of(config, about)
    about = model_file.describe(config, fingerprint, digest)
    return Plan(mesh, model, teacher, fingerprint, about, steps_per_epoch, total_steps, began)


def train(
    config: ResolvedConfig, dataset: data.Dataset, folder: Path | None, planned: Plan | None = None
) -> dict[str, Any]:
    """Train a model and fill the run's folder (``None`` for a process that writes nothing), or go on with a run that is
    there. ``planned`` is of :func:`plan`, where it was called before.

    Returns:
        what ``summary.json`` holds. Its accuracy is the last epoch's: no epoch is chosen by the test images.

    Raises:
        UserError: checkpoints cannot be read or written.
        Diverged: the loss became NaN or infinite; the last good checkpoint stays.
        Interrupted: SIGTERM or Ctrl-C; all steps so far are saved.
    """
    planned = planned or plan(config, dataset)
    mesh, model, began = planned.mesh, planned.model, planned.began
    steps_per_epoch, total_steps = planned.steps_per_epoch, planned.total_steps
    epochs = math.ceil(total_steps / steps_per_epoch)

    # The model, split once into what it is (graphdef), what is trained (params) and the rest of its state.
    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    optimiser = functools.partial(make_optimiser, config)
    rate = functools.partial(jax.jit(lambda steps, step: learning_rate(config, steps)(step)), total_steps)
    eval_step = make_eval_step(graphdef, mesh)
    groups = pj.summary(model)
    say(str(groups))
    if total_steps < FEW and config.max_steps is None:
        say(
            f"note: {total_steps} steps of {config.batch_size} images are few to learn from; more by --epochs, or by a "
            "smaller --batch-size"
        )
    of_train = measure(model, dataset.train, config.batch_size, mesh)

    # The run's position: its beginning, or that of its last good checkpoint.
    at = resume.Position(start(params, optimiser(total_steps), config), empty_tally(), history=[])
    with Checkpoints(folder, every=config.checkpoint_steps) as checkpoints:
        if config.resume is not None:
            at = _resumed(at, resume.restore(checkpoints, at), total_steps, folder)
        done, history, train_seconds = int(at.tally.step), at.history, at.train_seconds
        teacher, teaching = (None, None) if planned.teacher is None else nnx.split(planned.teacher.model)
        state, tally, rest, teaching = devices.shared(mesh, (at.state, at.tally, rest, teaching))

        # Run once ahead, so that seconds and images per second do not include compilation.
        balanced = config.class_weights == "balanced"
        weights = data.class_weights(dataset.train, dataset.num_classes) if balanced else None
        step = make_train_step(graphdef, optimiser, config, mesh, teacher, weights)
        numbers = devices.shared(mesh, (np.uint32(config.seed), np.int32(total_steps)))
        step = functools.partial(step, numbers=numbers, teaching=teaching)
        # A signal that this process was sent: the step passes it on to the others.
        signs = {s: devices.rows(mesh, np.full(mesh.local_mesh.size, s, np.int32)) for s in (0, *interrupt.SIGNALS)}
        if done < total_steps:
            first = (
                next(data.padded_batches(x, config.batch_size)) for x in (dataset.train.images, dataset.train.labels)
            )
            batch = tuple(devices.rows(mesh, devices.own_rows(x)) for x in first)
            with compiling("the evaluation"):
                jax.block_until_ready(eval_step(state.evaluated, rest, *batch))
            clock = time.perf_counter()
            jax.block_until_ready(eval_step(state.evaluated, rest, *batch))
            each, left = OF_EVALUATION * (time.perf_counter() - clock), total_steps - done
            if each * left > LONG:
                time_left = tqdm.format_interval(each * left)
                say(f"about {time_left} to go after compiling: {left:,} steps of about {each:.2g} s")
            with compiling("the training step"):
                # On a copy, as the step donates its buffers. (Calling a function compiled ahead of time is slower.)
                jax.block_until_ready(step(jax.tree.map(jnp.copy, state), tally, rest, *batch, signs[0]))
                rate(0)
        compile_seconds = time.perf_counter() - began
        loop_began = time.perf_counter()

        batches = data.train_batches(
            dataset.train,
            config.batch_size,
            seed=config.seed,
            start_step=done,
            stop_step=total_steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        taken = None
        recent: deque[Tally] = deque(maxlen=AHEAD + 1)
        shown = Progress(folder, config, at.tally, total_steps, steps_per_epoch)
        with contextlib.closing(batches), shown as progress, interrupt.noted() as asked:
            clock = time.perf_counter() - at.epoch_seconds
            for images, labels in batches:
                batch = devices.rows(mesh, images), devices.rows(mesh, labels)
                state, tally = step(state, tally, rest, *batch, signs[asked.signum])
                done += 1
                ends_epoch = done % steps_per_epoch == 0 or done == total_steps

                # Look at the oldest of the recent steps: waiting for it leaves work queued on the device. All processes
                # look at the same one, so that they stop and save at the same step.
                recent.append(tally)
                settled = tally if ends_epoch else recent[0]
                progress.look(settled)
                stop, bad_step = int(settled.stop), int(settled.bad_step)
                if bad_step:
                    what = f"the loss or its gradient is not finite at step {bad_step}"
                    raise Diverged(_advice(what, checkpoints, config))

                accuracy = None
                if ends_epoch:
                    mean, seconds = means(tally.sums), time.perf_counter() - clock
                    train_seconds += seconds
                    loss, taken = evaluate(eval_step, state.evaluated, rest, dataset.test, config.batch_size, mesh)
                    test_loss = float(loss.mean(dtype=float))
                    accuracy = float((taken == dataset.test.labels).mean(dtype=float))
                    if not math.isfinite(test_loss):
                        raise Diverged(_advice(f"the model is not finite after step {done}", checkpoints, config))
                    line = {
                        "epoch": math.ceil(done / steps_per_epoch),
                        "step": done,
                        "train_loss": mean["loss"],
                        "train_accuracy": mean["accuracy"],
                        "test_loss": test_loss,
                        "test_accuracy": accuracy,
                        "learning_rate": float(rate(done - 1)),
                        "seconds": round(seconds, 4),
                        "images_per_second": round(int(tally.sums.seen) / seconds, 1),
                        "complexity_mean": mean["complexity"],
                        "depth_mean": mean["depth"],
                    }
                    history.append(line)
                    if folder is not None:
                        run_folder.append_line(folder / "metrics.jsonl", line)
                    progress.epoch(line)
                    tally = devices.shared(mesh, empty_tally(done))
                    clock = time.perf_counter()

                if stop or done == total_steps or checkpoints.due(done, ends_epoch, accuracy):
                    so_far = time.perf_counter() - clock
                    now = resume.Position(state, tally, history, train_seconds, so_far)
                    if resume.save(checkpoints, now, accuracy):
                        of_step = state.evaluated, planned.about, len(history), done
                        _save_parameters(folder, *of_step)
                        if accuracy is not None and checkpoints.is_best(done):
                            _save_parameters(folder, *of_step, "best.safetensors")
                if stop:
                    checkpoints.wait()
                    raise interrupt.Interrupted(stop)

    loop_seconds = time.perf_counter() - loop_began

    # What the model measured in the images, and the figures.
    if taken is None:  # all steps were done before; only the final files are missing
        _, taken = evaluate(eval_step, state.evaluated, rest, dataset.test, config.batch_size, mesh)
        _save_parameters(folder, state.evaluated, planned.about, len(history), done)
    correct = taken == dataset.test.labels
    of_test = measure(model, dataset.test, config.batch_size, mesh)
    both = ("train", of_train), ("test", of_test)
    nnx.update(model, jax.tree.map(np.asarray, state.evaluated))  # on this process's device alone
    model.eval()
    of_exits = {}
    if model.puppet.exits:
        of_exits = dial(model, at_exits(model, dataset.test, config.batch_size, mesh), dataset.test)
    best = max(history, key=lambda line: line["test_accuracy"])
    summary = {
        "evaluated_on": config.evaluate_on,
        "test_images": len(dataset.test),
        "test_correct": int(correct.sum()),
        "test_accuracy": history[-1]["test_accuracy"],
        "test_loss": history[-1]["test_loss"],
        "best": {name: best[name] for name in ("epoch", "step", "test_accuracy")},
        "epochs": epochs,
        "steps": done,
        "parameters": {name: getattr(groups, name) for name in PARAMETERS},
        "compression": groups.compression,
        "max_depth": model.max_depth,
        "clipped": {name: float(of["clipped"].mean()) for name, of in both},
        "complexity_mean_bits": {name: float(of["complexity"].mean()) for name, of in both},
        "accuracy_by_depth": accuracy_by("depth", of_test["depth"], correct),
        "accuracy_by_bin": accuracy_by("complexity", of_test["complexity"], correct)
        if config.measurement.bin
        else None,
        **of_exits,
        "compile_seconds": round(compile_seconds, 2),
        "train_seconds": round(train_seconds, 2),
        "loop_seconds": round(loop_seconds, 3),  # with evaluation and checkpoints, since the run was last started
        "total_seconds": round(time.perf_counter() - began, 2),
        "peak_memory_bytes": run_folder.peak_memory_bytes(),
    }
    if folder is not None:
        try:
            from train.plots import run_figures  # matplotlib takes a second to import, and is needed only here

            run_figures.draw(
                folder,
                title=f"{config.data_name}, {config.net}, {config.puppeteer}, seed {config.seed}",
                evaluated=config.evaluate_on,
                history=history,
                train=of_train,
                test=of_test,
                max_depth=model.max_depth,
                confusion=confusion(dataset.test.labels, taken, dataset.num_classes),
                class_names=dataset.class_names,
                kernels=kernels_by_bin(model, of_test["complexity"]),
            )
        except Exception as error:  # a matplotlib that cannot draw here is no reason to lose the summary
            say(f"no figures: {type(error).__name__}: {error}")
        run_folder.write_json(folder / "summary.json", summary)
    return summary


def _resumed(
    beginning: resume.Position,
    restored: tuple[resume.Position | None, list[str]],
    total_steps: int,
    folder: Path | None,
) -> resume.Position:
    """The position to go on from, told to the user; lines of metrics past it are dropped."""
    position, problems = restored
    for problem in problems:
        say(f"{problem}; it is renamed to STEP{DAMAGED} and the one before is used")
    if position is None:
        say("no checkpoint was completed before the run was cut: starting from step 0")
        position = beginning
    else:
        say(f"resumed after step {int(position.tally.step)} of {total_steps}")
    if folder is not None:
        run_folder.write_lines(folder / "metrics.jsonl", position.history)
    return position


def _save_parameters(
    folder: Path | None, params: nnx.State, about: About, epoch: int, step: int, name: str = "params.safetensors"
) -> None:
    """Write the parameters of the last checkpoint, as they are evaluated."""
    if folder is not None:
        about = msgspec.structs.replace(about, epoch=epoch, step=step)
        model_file.save(folder / name, flat(params), about)


def _advice(what: str, checkpoints: Checkpoints, config: ResolvedConfig) -> str:
    last = checkpoints.last
    kept = "no checkpoint was saved" if last is None else f"the last good checkpoint, of step {last}, is kept"
    return (
        f"{what}; {kept}. Resuming would come to the same numbers: train anew with a lower --learning-rate (it is "
        f"{config.learning_rate:g})"
    )
