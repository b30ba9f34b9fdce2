"""Everything that is measured, by name.

A contender is a function ``case -> Contender`` in ``jax_side.py``, ``torch_side.py`` or ``engine_side.py`` and a line
in the table below; to add one, write the two under one name. Its module is imported only in the process that runs it,
so PyTorch and JAX never meet in one. A function raises ``Unavailable`` where what it needs is not installed: the
benchmark then goes on without it and says so.
"""

import dataclasses
import importlib
import math
import time
from collections.abc import Callable

from bench.case import relative_error


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


@dataclasses.dataclass
class Contender:
    """``call()`` does the work once and returns when it is done.

    ``error(result)`` compares what the first call returned with the case's answers and gives a relative error; without
    it there is nothing to compare. ``notes`` goes into the JSON.
    """

    call: Callable[[], object]
    error: Callable[[object], float] | None = None
    notes: dict = dataclasses.field(default_factory=dict)


# name: (framework, what it is)
CONTENDERS: dict[str, tuple[str, str]] = {
    # Images to logits.
    "compile_predict": ("jax", "pj.compile_predict(model), the ODE's kernels"),
    "compile_predict_continuous": ("jax", "pj.compile_predict(model), continuous kernels"),
    "compile_predict_full": ("jax", "pj.compile_predict(model), the ODE's kernels, every layer for every image"),
    "exact": ("jax", "the model as it stands, kernels by diffrax for every image"),
    "static_jax": ("jax", "static twin at D_max in JAX, one shared kernel a layer"),
    "complexity": ("jax", "complexity alone, a part of every puppet's time"),
    "torch_batched": ("torch", "PyTorch, conventional method, batched"),
    "torch_one_by_one": ("torch", "PyTorch, conventional method, image by image"),
    "torch_static": ("torch", "PyTorch (oneDNN), static CNN at D_max"),
    "torch_compile": ("torch", "the same, torch.compile with frozen parameters"),
    "onnxruntime": ("engine", "ONNX Runtime, static CNN at D_max"),
    "openvino": ("engine", "OpenVINO, static CNN at D_max"),
    # One training step: loss, gradient, AdamW.
    "train_ode": ("jax", "training step, the ODE's kernels for the bins at hand"),
    "train_continuous": ("jax", "training step, continuous kernels for the bins at hand"),
    "train_exact": ("jax", "training step, kernels by diffrax for every image"),
    "train_static_jax": ("jax", "training step, static twin in JAX"),
    "train_torch_batched": ("torch", "training step, PyTorch, conventional method, batched"),
    "train_torch_static": ("torch", "training step, PyTorch, static CNN"),
    "train_torch_compile": ("torch", "the same, torch.compile"),
    # Complexities to kernels.
    "generate_exact": ("jax", "kernels of a batch by diffrax, one solve an image"),
    "generate_continuous": ("jax", "the same, by the continuous puppeteer"),
    "bake": ("jax", "compile_predict's kernels, once for a trained model"),
    "torch_generate": ("torch", "kernels of a batch in PyTorch, as the batched method makes them"),
}


def make(name: str, case) -> Contender:
    """The contender of this name, ready to be called. Raises ``Unavailable``."""
    return getattr(importlib.import_module(f"bench.contenders.{CONTENDERS[name][0]}_side"), name)(case)


def fastest(case, ways: dict[str, Callable], answer: str | None) -> Contender:
    """The fastest of some ways to compute one thing, each held to the answer first; all their times in the notes."""
    seconds, errors = {}, {}
    for name, way in ways.items():
        result = way()
        if answer is not None:
            errors[name] = relative_error(result, case.arrays[answer])
        seconds[name] = math.inf
        for _ in range(3):
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            if seconds[name] > 2.0 * min(seconds.values()):
                break
    chosen = min(seconds, key=seconds.get)
    notes = {"chosen": chosen, "seconds": seconds}
    return Contender(ways[chosen], (lambda _: max(errors.values())) if errors else None, notes)
