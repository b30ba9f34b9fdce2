"""The training program as processes that a test can start many of, and end."""

import contextlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from train.runs import parameters


def live(arguments: list[str], log: Path) -> None:
    """What such a process does."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from train.__main__ import main

    os._exit(main(arguments))


@contextlib.contextmanager
def lives(programs: Path) -> Iterator[Callable]:
    """Within, ``begin(log, *arguments)`` starts a process. Each is a copy of one that has imported everything and not
    begun anything, and compiled programs are kept in ``programs``: many would otherwise spend minutes on getting ready.
    """
    cache = {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cache["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.commands.train", "sklearn.datasets", "matplotlib.pyplot", "tensorboardX"])
    begun = []

    def begin(log: Path, *arguments: str) -> multiprocessing.Process:
        begun.append(context.Process(target=live, args=(list(arguments), log)))
        begun[-1].start()
        return begun[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name, value)
        try:
            yield begin
        finally:
            for process in begun:
                process.kill()
            multiprocessing.forkserver._forkserver._stop()  # its environment is this one


def newest(folder: Path) -> int:
    """Step of the last completed checkpoint; 0 if there is none."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics, but for what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]


def same_parameters(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same parameters, to the bit."""
    arrays, expected = (parameters.load(folder / "params.safetensors")[0] for folder in (one, other))
    assert arrays.keys() == expected.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    return True
