"""``python -m train``: from the command line to a finished run and its exit code.

Exit codes: 0 trained; 1 the loss diverged, or another process was lost; 2 something to put right (a flag, a data set, a
folder, a full disk); 130 ended by Ctrl-C and 143 by SIGTERM, to be resumed.
"""

import contextlib
import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import tyro

from train import data, devices
from train.config import CONNECTION, Config, ResolvedConfig, resolve
from train.errors import UserError
from train.runs import run_folder, start
from train.runs.resume import check, check_data
from train.runs.source import locate
from train.steps import interrupt
from train.steps.loop import Diverged, Plan, plan, train
from train.terminal import printable

# How many of the images that cannot be read are named.
SHOWN = 5


def launch(arguments: list[str] | None) -> int:
    """Train as the command line asks (``None`` for the process's own), and return the exit code.

    Raises:
        SystemExit: the parser's: with 0 after ``--help``, with 2 for what is no flag or no value of one.
    """
    folder = None
    try:
        config = parse(arguments)
        devices.connect(config)
        with interrupt.raised():
            if config.resume is not None and run_folder.finished(config.resume):
                folder = config.resume
                summary = json.loads((folder / "summary.json").read_text())
                _tell(f"{folder} is finished; nothing to train")
            else:
                config, dataset = prepare(config)
                planned = plan(config, dataset)
                with _folder(config, dataset, planned) as folder:
                    summary = train(config, dataset, folder, planned)
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    except OSError as error:
        _tell(f"error: {error}; what was reached can be resumed{_how(folder)}")
        return 2
    except Diverged as error:
        _tell(f"stopped: {error}")
        return 1
    except KeyboardInterrupt as error:
        signum = getattr(error, "signum", signal.SIGINT)
        _tell(f"\ninterrupted{_how(folder)}")
        return 128 + signum
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        devices.leave(f"lost another process ({str(error).strip().splitlines()[0]}){_how(folder)}")
    if folder is not None and devices.is_first():
        print(report(summary, folder))
    return 0


def parse(arguments: list[str] | None) -> ResolvedConfig:
    """The resolved configuration of a command line; with ``--resume``, the run's own.

    Raises:
        UserError: as :func:`train.config.resolve`; no run to resume, or flags that contradict it.
    """
    config = _parse(arguments, Config())
    if config.resume is None:
        if config.start_from is not None:
            source = locate(config.start_from)
            config = _parse(arguments, dataclasses.replace(Config(), **start.defaults(source, config)))
        for field in ("start_from", "teacher"):
            name = getattr(config, field)
            if name is not None and Path(name).exists():  # and is no pretrained model's name
                found: dict[str, Any] = {field: str(locate(name).resolve())}
                config = dataclasses.replace(config, **found)
        return resolve(config)
    ran = run_folder.described(config.resume).config
    # The run's values are the defaults, so that a flag that is not given contradicts nothing.
    new = {name: getattr(Config(), name) for name in (*CONNECTION, "out", "overwrite")}
    asked = resolve(_parse(arguments, dataclasses.replace(ran, **new)))
    check(ran, asked)
    return asked


def prepare(config: ResolvedConfig) -> tuple[ResolvedConfig, data.Dataset]:
    """The configuration with where the data are, and the data. Nothing is written.

    Raises:
        UserError: the data cannot be had, they are not those of the run to resume, or the folder is taken.
    """
    if config.resume is None and devices.is_first():
        run_folder.check(config)
    config = dataclasses.replace(config, data=data.located(config.data, config.data_dir))
    dataset = data.load(
        config.data,
        config.data_dir,
        config.evaluate_on,
        image_size=config.image_size,
        validation_share=config.validation_share,
    )
    if config.resume is not None:
        check_data(config, dataset, run_folder.described(config.resume).data)
    if dataset.skipped and devices.is_first():
        shown = "".join(f"\n  {printable(skip.path)}: {printable(skip.reason)}" for skip in dataset.skipped[:SHOWN])
        more = f"\n  and {len(dataset.skipped) - SHOWN} more" if len(dataset.skipped) > SHOWN else ""
        _tell(f"left out {len(dataset.skipped)}, of which no image was read:{shown}{more}")
    return config, dataset


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
        with run_folder.created(config, run_folder.describe(config, dataset, teacher, planned.earlier)) as folder:
            yield folder


def report(summary: dict, folder: Path) -> str:
    """The last lines of a run, for a human."""
    parameters = summary["parameters"]
    clipped = summary["clipped"]
    return "\n".join(
        [
            f"{summary['evaluated_on']} accuracy  {summary['test_accuracy']:.2%}"
            f"  ({summary['test_correct']:,} of {summary['test_images']:,}, after the last epoch)",
            f"parameters     {parameters['total']:,}: generator {parameters['generator']:,}, normalisation "
            f"{parameters['normalisation']:,}, head {parameters['head']:,}",
            f"compression    {summary['compression']:.2f}x against {parameters['static_twin']:,} of the static twin",
            f"depth clipped  {clipped['test']:.2%} of {summary['evaluated_on']} images, {clipped['train']:.2%} of "
            f"train (D_max = {summary['max_depth']})",
            f"time           {summary['train_seconds']:.1f} s training, {summary['compile_seconds']:.1f} s compiling, "
            f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB",
            f"run            {folder}",
        ]
    )


def _parse(arguments: list[str] | None, default: Config) -> Config:
    return tyro.cli(
        Config,
        prog="python -m train",
        description="Train a Puppet-CNN and leave its parameters, metrics and figures in a folder.",
        args=arguments,
        default=default,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _how(folder: Path | None) -> str:
    """How to resume the run, if it has a folder."""
    return f"; go on with: python -m train --resume {shlex.quote(str(folder))}" if folder else ""


def _tell(text: str) -> None:
    # Printed by every process: asking whether this is the first would initialise the devices.
    print(text, file=sys.stderr, flush=True)
