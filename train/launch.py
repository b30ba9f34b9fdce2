"""From a configuration to a finished run: data, folder, training, and what a person or a script is told at the end.

Exit codes: 0 trained; 1 the loss diverged; 2 something to put right (a flag, a data set, a folder); 130 interrupted.
"""

import sys

import tyro

from train import data, run
from train.config import Config, resolve
from train.errors import UserError
from train.loop import Diverged, train


def launch(arguments: list[str]) -> int:
    """Train as the command line asks, and return the exit code."""
    config = tyro.cli(
        Config,
        prog="python -m train",
        description="Train a Puppet-CNN and leave its parameters, metrics and figures in a folder.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    folder = None
    try:
        config = resolve(config)
        dataset = data.load(config.data, config.data_dir, config.evaluate_on)
        folder = run.make_folder(config)
        sizes = {"train_images": len(dataset.train), "test_images": len(dataset.test)}
        run.write_json(folder / "config.json", run.describe(config, **sizes))
        summary = train(config, dataset, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"stopped: {error}. What was reached lies in {folder}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = f"; finished epochs and their parameters lie in {folder}" if folder else ""
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return 130
    print(report(summary, folder))
    return 0


def report(summary: dict, folder) -> str:
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
