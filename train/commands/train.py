"""``python -m train``: from the command line to a finished run and its exit code.

Exit codes: 0 trained; 1 the loss diverged, or another process was lost; 2 something to put right (a flag, a data set, a
folder, a full disk); 130 ended by Ctrl-C and 143 by SIGTERM, to be resumed.
"""

import dataclasses
import json
import shlex
import signal
import sys
from pathlib import Path

import jax
import tyro

from train import data, devices
from train.config import CONNECTION, Config, ResolvedConfig, resolve
from train.errors import UserError
from train.runs import run_folder
from train.runs.resume import check
from train.steps import interrupt
from train.steps.loop import Diverged, train

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
                folder, dataset = prepare(config)
                to_write = folder if devices.is_first() else None
                with run_folder.locked(to_write):
                    summary = train(config, dataset, to_write)
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
        return resolve(config)
    ran = run_folder.configuration(config.resume)
    # The run's values are the defaults, so that a flag that is not given contradicts nothing.
    new = {name: getattr(Config(), name) for name in (*CONNECTION, "out", "overwrite")}
    asked = resolve(_parse(arguments, dataclasses.replace(ran, **new)))
    check(ran, asked)
    return asked


def prepare(config: ResolvedConfig) -> tuple[Path | None, data.Dataset]:
    """The run's folder, ``None`` where another process makes it, and the data.

    Raises:
        UserError: the data or the folder cannot be had.
    """
    dataset = data.load(
        config.data,
        config.data_dir,
        config.evaluate_on,
        image_size=config.image_size,
        validation_share=config.validation_share,
    )
    folder, skipped = config.resume, dataset.skipped
    if skipped and devices.is_first():
        shown = "".join(f"\n  {skip.path}: {skip.reason}" for skip in skipped[:SHOWN])
        more = f"\n  and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        _tell(f"left out {len(skipped)} images that cannot be read:{shown}{more}")
    if folder is None and devices.is_first():
        sizes = {"train_images": len(dataset.train), "test_images": len(dataset.test)}
        description = run_folder.describe(config, **sizes, skipped_images=len(skipped))
        folder = run_folder.make_folder(config)
        run_folder.write_json(folder / "config.json", description)
    return folder, dataset


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
