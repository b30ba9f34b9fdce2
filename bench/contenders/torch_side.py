"""Contenders in PyTorch. Of several ways to do a thing each is tried at the size at hand, and the fastest taken."""

import itertools
import os
import time
import warnings
from functools import partial

import numpy as np

from bench.case import Case, relative_error
from bench.contenders import Contender, Unavailable

try:
    import torch
except ImportError:
    raise Unavailable("torch is not installed; pip install -e '.[bench]'") from None

from bench.peers.conventional_torch import ConventionalPuppet, Options
from bench.peers.static_torch import StaticPuppet

LEARNING_RATE = 1e-4
LAYOUTS = [Options(state_layout=layout) for layout in ("contiguous", "channels_last")]
_CHOICES = (True, False), ("grouped", "matmul"), ("contiguous", "channels_last")
OPTIONS = [Options(*chosen) for chosen in itertools.product(*_CHOICES)]

torch.set_num_threads(len(os.sched_getaffinity(0)))


def torch_batched(case: Case) -> Contender:
    return _fastest(case, _each(case, OPTIONS, lambda model, images: lambda: model(images)), "logits")


def torch_one_by_one(case: Case) -> Contender:
    return _fastest(case, _each(case, LAYOUTS, lambda model, images: lambda: model.one_by_one(images)), "logits")


def torch_generate(case: Case) -> Contender:
    h = torch.from_numpy(case.arrays["h"])
    return _fastest(case, _each(case, LAYOUTS, lambda model, images: lambda: model.generate(h)), None)


def torch_static(case: Case) -> Contender:
    images, ways = _images(case), {}
    for layout, model in _static(case, baked=True).items():
        ways[layout] = partial(model, images)
        if (frozen := _frozen(model, images)) is not None:
            ways[f"{layout}, traced and frozen"] = partial(frozen, images)
    return _fastest(case, ways, "static_logits")


def train_torch_batched(case: Case) -> Contender:
    return _fastest(case, _each(case, OPTIONS, partial(_training, case)), "loss", inference=False)


def train_torch_static(case: Case) -> Contender:
    ways = {layout: _training(case, model, _images(case)) for layout, model in _static(case, baked=False).items()}
    return _fastest(case, ways, "static_loss", inference=False)


def _each(case: Case, options, call) -> dict:
    images, weights = _images(case), case.weights()
    return {str(chosen): call(ConventionalPuppet(case.config, weights, chosen), images) for chosen in options}


def _static(case: Case, baked: bool) -> dict[str, StaticPuppet]:
    make = partial(StaticPuppet, case.config, case.weights("static"), baked=baked)
    return {"contiguous": make(channels_last=False), "channels_last": make(channels_last=True)}


def _training(case: Case, model, images):
    labels = torch.from_numpy(case.arrays["labels"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _frozen(model, images):
    # TorchScript is deprecated, and still what packs weights for oneDNN ahead of time.
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model.eval(), images)))
            frozen(images)
    except Exception:
        return None
    return frozen


def _fastest(case: Case, ways: dict, answer: str | None, inference: bool = True) -> Contender:
    """The fastest of some ways to compute one thing, each held to the answer first; all their times in the notes."""
    if inference:
        ways = {name: _inference(way) for name, way in ways.items()}
    seconds, errors = {}, {}
    for name, way in ways.items():
        result = way()
        if answer is not None:
            errors[name] = relative_error(result, case.arrays[answer])
        seconds[name] = np.inf
        for _ in range(3):
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            if seconds[name] > 2.0 * min(seconds.values()):
                break
    chosen = min(seconds, key=seconds.get)
    notes = {"chosen": chosen, "seconds": seconds, "threads": torch.get_num_threads()}
    return Contender(ways[chosen], (lambda _: max(errors.values())) if errors else None, notes)


def _inference(way):
    def run():
        with torch.inference_mode():
            return way()

    return run


def _images(case: Case):
    return torch.from_numpy(np.ascontiguousarray(case.arrays["images"].transpose(0, 3, 1, 2)))
