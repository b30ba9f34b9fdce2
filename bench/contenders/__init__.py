"""Everything that is measured, by name.

A contender is a function ``case -> Contender`` in ``jax_side.py`` or ``torch_side.py`` and a line in the table below;
to add one, write the two. Its module is imported only in the process that runs it, so PyTorch and JAX never meet in
one. A factory raises ``Unavailable`` where what it needs is not installed or not written yet: the benchmark then goes
on without it and says so.
"""

import dataclasses
import importlib
from collections.abc import Callable


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


@dataclasses.dataclass
class Contender:
    """``call()`` does the work once and returns when it is done.

    ``error(result)`` compares what the first call returned with the case's answers and gives a relative error; without
    it there is nothing to compare. ``notes`` goes into the JSON. ``compiled()`` is XLA's executable, if there is one.
    """

    call: Callable[[], object]
    error: Callable[[object], float] | None = None
    notes: dict = dataclasses.field(default_factory=dict)
    compiled: Callable[[], object] | None = None


_JAX, _TORCH = "bench.contenders.jax_side", "bench.contenders.torch_side"

# name: (module, function in it, what it is)
CONTENDERS: dict[str, tuple[str, str, str]] = {
    # Images to logits.
    "compile_predict": (_JAX, "compile_predict", "pj.compile_predict(model)"),
    "exact": (_JAX, "exact", "the model as it stands, kernels by diffrax for every image"),
    "vmap": (_JAX, "plain_vmap", "the same kernels, plain jax.vmap of lax.conv_general_dilated"),
    "static_jax": (_JAX, "static", "static twin at D_max in JAX, one shared kernel a layer"),
    "complexity": (_JAX, "complexity", "complexity alone, a part of every puppet's time"),
    "torch_batched": (_TORCH, "batched", "PyTorch, conventional method, batched"),
    "torch_one_by_one": (_TORCH, "one_by_one", "PyTorch, conventional method, image by image"),
    "torch_static": (_TORCH, "static", "PyTorch (oneDNN), static CNN at D_max"),
    # One training step: loss, gradient, AdamW.
    "train_ode": (_JAX, "train_ode", "training step, the ODE's kernels for the bins at hand"),
    "train_continuous": (_JAX, "train_continuous", "the same, from the continuous puppeteer instead of the ODE"),
    "train_exact": (_JAX, "train_exact", "training step, kernels by diffrax for every image"),
    "train_exact_direct": (_JAX, "train_exact_direct", "the same, DirectAdjoint"),
    "train_exact_backsolve": (_JAX, "train_exact_backsolve", "the same, BacksolveAdjoint"),
    "train_vmap": (_JAX, "train_vmap", "training step, plain jax.vmap"),
    "train_static_jax": (_JAX, "train_static", "training step, static twin in JAX"),
    "train_torch_batched": (_TORCH, "train_batched", "training step, PyTorch, conventional method, batched"),
    "train_torch_static": (_TORCH, "train_static", "training step, PyTorch, static CNN"),
    # Complexities to kernels.
    "generate_exact": (_JAX, "generate_exact", "kernels of a batch by diffrax, one solve an image"),
    "generate_continuous": (_JAX, "generate_continuous", "the same, by the continuous puppeteer"),
    "generate_exact_as_read": (_JAX, "generate_exact_as_read", "generate_exact, in the order the convolution reads"),
    "generate_continuous_as_read": (
        _JAX,
        "generate_continuous_as_read",
        "generate_continuous, in the order the convolution reads",
    ),
    "generate_bank": (_JAX, "generate_bank", "the ODE's kernels for as many bins as a batch generates at a time"),
    "bake": (_JAX, "bake", "compile_predict's kernels, once for a trained model"),
    "generate_exact_gradient": (_JAX, "generate_exact_gradient", "generate_exact, with gradient"),
    "generate_bank_gradient": (_JAX, "generate_bank_gradient", "generate_bank, with gradient"),
    "generate_bank_continuous_gradient": (
        _JAX,
        "generate_bank_continuous_gradient",
        "the same, by the continuous puppeteer",
    ),
    "torch_generate": (_TORCH, "generate", "kernels of a batch in PyTorch, as the batched method makes them"),
    # The integrator alone.
    "diffrax": (_JAX, "diffrax", "trajectories by diffrax"),
    "scan": (_JAX, "scan", "trajectories by a hand-written lax.scan"),
    "diffrax_gradient": (_JAX, "diffrax_gradient", "trajectories by diffrax, with gradient"),
    "scan_gradient": (_JAX, "scan_gradient", "trajectories by lax.scan, with gradient"),
}


def framework(name: str) -> str:
    return "torch" if CONTENDERS[name][0] == _TORCH else "jax"


def make(name: str, case) -> Contender:
    """The contender of this name, ready to be called. Raises ``Unavailable``."""
    module, function, _ = CONTENDERS[name]
    return getattr(importlib.import_module(module), function)(case)
