"""``python -m train``: from the command line to a finished run."""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec

from train import config as configuration
from train import data, devices
from train.config import Config, ResolvedConfig, check_resumed, resolve
from train.errors import RESUME, UserError
from train.runs import origins, run_folder
from train.runs.reading import Summary, read_json
from train.runs.source import locate
from train.steps.loop import Plan, plan, train
from train.telling import say
from train.terminal import printable

# How many of the images that cannot be read are named.
SHOWN = 5


def launch(arguments: Sequence[str]) -> int:
    """Train as the flags ask, and return 0. An error after the run's folder was made has a note of how to resume it.

    Raises:
        SystemExit: the parser's: with 0 after ``--help``, with 2 for what is no flag or no value of one.
        UserError: something to put right; or the loss diverged.
        Interrupted: ended by a signal; what was reached is saved.
    """
    config, folder = parse(arguments), None
    devices.connect(config)
    try:
        if config.resume is not None and run_folder.finished(config.resume):
            folder = config.resume
            summary = read_json(folder / "summary.json", Summary)
            say(f"{folder} is finished; nothing to train")
        else:
            config, dataset = prepare(config)
            planned = plan(config, dataset)
            with _folder(config, dataset, planned) as folder:
                summary = msgspec.convert(train(config, dataset, folder, planned), Summary)
    except (KeyboardInterrupt, OSError, jax.errors.JaxRuntimeError) as error:
        if folder is not None:
            error.add_note(RESUME + shlex.quote(str(folder)))
        if isinstance(error, jax.errors.JaxRuntimeError):
            devices.explain(error)
        raise
    if folder is not None and devices.is_first():
        print(report(summary, folder))
    return 0


def parse(arguments: Sequence[str]) -> Config:
    """The configuration of a command line, checked; with ``--resume``, the run's own."""
    config = configuration.parse(arguments, Config())
    if config.resume is None:
        given = {} if config.config is None else configuration.read(config.config)
        if given:
            config = configuration.parse(arguments, Config(**given))
        if config.start_from is not None:
            begun = origins.defaults(locate(config.start_from), config)
            config = configuration.parse(arguments, Config(**begun | given))
        for field in ("start_from", "teacher"):
            name = getattr(config, field)
            if name is not None and Path(name).exists():  # and is no pretrained model's name
                found: dict[str, Any] = {field: str(locate(name).resolve())}
                config = dataclasses.replace(config, **found)
        resolve(config)
        return dataclasses.replace(config, config=None)
    ran = run_folder.described(config.resume).config
    # The run's values are the defaults, so that a flag that is not given contradicts nothing.
    asked = configuration.parse(arguments, dataclasses.replace(ran, distributed=False))
    config = resolve(asked)
    check_resumed(ran, config)
    return config


def prepare(config: Config) -> tuple[ResolvedConfig, data.Dataset]:
    """The configuration with where the data are, resolved, and the data. Nothing is written."""
    if config.resume is None and devices.is_first():
        run_folder.check(config)
    config = dataclasses.replace(config, data=data.located(config.data))
    dataset = data.load(config.data, config.evaluate_on, image_size=config.image_size)
    if config.resume is not None and (wrong := data.differences(dataset, run_folder.described(config.resume).data)):
        raise UserError(
            f"--data {config.data}: not the images that the run began with ({'; '.join(wrong)}); point --data to "
            "those, or train anew"
        )
    if dataset.note:
        say(dataset.note)
    if dataset.skipped:
        shown = "".join(f"\n  {printable(skip.path)}: {printable(skip.reason)}" for skip in dataset.skipped[:SHOWN])
        more = f"\n  and {len(dataset.skipped) - SHOWN} more" if len(dataset.skipped) > SHOWN else ""
        say(f"left out {len(dataset.skipped)}, of which no image was read:{shown}{more}")
    resolved = resolve(config, len(dataset.train))
    if configuration.recipe_for(config.data, len(dataset.train)) == "small" and config.resume is None:
        say(
            f"{len(dataset.train):,} training images are few: --epochs {resolved.epochs} --batch-size "
            f"{resolved.batch_size} --augment {resolved.augment} --measurement.depth {resolved.measurement.depth}"
        )
    return resolved, dataset


@contextlib.contextmanager
def _folder(config: ResolvedConfig, dataset: data.Dataset, planned: Plan) -> Iterator[Path | None]:
    """The run's folder, which no other process then trains in; ``None`` for a process that writes nothing."""
    if not devices.is_first():
        yield None
    elif config.resume is not None:
        with run_folder.locked(config.resume):
            yield config.resume
    else:
        teacher = planned.teacher.digest() if planned.teacher else None
        described = run_folder.describe(config, dataset, planned.data, teacher, planned.about.began)
        with run_folder.created(config, described) as folder:
            yield folder


def report(summary: Summary, folder: Path) -> str:
    """The last lines of a run, for a human."""
    parameters, clipped = summary.parameters, summary.clipped["test"]
    return "\n".join(
        [
            f"{summary.evaluated_on} accuracy  {summary.test_accuracy:.2%}"
            f"  ({summary.test_correct:,} of {summary.test_images:,}, after the last epoch)",
            f"best accuracy  {summary.best['test_accuracy']:.2%}  (after epoch {summary.best['epoch']:.0f}; --best)",
            f"parameters     {parameters['total']:,}: generator {parameters['generator']:,}, normalisation "
            f"{parameters['normalisation']:,}, head {parameters['head']:,}",
            f"compression    {summary.compression:.2f}x against {parameters['static_twin']:,} of the static twin",
            *[f"depth          {clipped:.0%} of these images ask for more than the {summary.max_depth} layers"]
            * (clipped > 0),
            f"time           {summary.steps:,} steps in {summary.train_seconds:.1f} s, compiling "
            f"{summary.compile_seconds:.1f} s, memory {summary.peak_memory_bytes / 2**30:.2f} GiB",
            f"run            {folder}",
        ]
    )
