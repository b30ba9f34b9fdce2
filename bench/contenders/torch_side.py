"""Contenders in PyTorch. Of several ways to do a thing each is tried at the size at hand, and the fastest taken."""

import itertools
import os
import time
import warnings

import numpy as np

from bench.case import Case
from bench.contenders import Contender, Unavailable

try:
    import torch
except ImportError:
    raise Unavailable("torch is not installed; pip install -e '.[bench]'") from None

from bench.peers.conventional_torch import ConventionalPuppet, Options
from bench.peers.static_torch import StaticPuppet

LEARNING_RATE = 1e-4

torch.set_num_threads(len(os.sched_getaffinity(0)))


def batched(case: Case) -> Contender:
    return _fastest(case, _each(case, _options(), lambda model, images: lambda: model(images)), "logits")


def one_by_one(case: Case) -> Contender:
    options = [Options(state_layout=layout) for layout in ("contiguous", "channels_last")]
    return _fastest(case, _each(case, options, lambda model, images: lambda: model.one_by_one(images)), "logits")


def generate(case: Case) -> Contender:
    h = torch.from_numpy(case.arrays["h"])
    options = [Options(state_layout=layout) for layout in ("contiguous", "channels_last")]
    return _fastest(case, _each(case, options, lambda model, images: lambda: model.generate(h)), None)


def static(case: Case) -> Contender:
    images, ways = _images(case), {}
    for channels_last in (False, True):
        model = StaticPuppet(case.config, _static_weights(case), baked=True, channels_last=channels_last)
        layout = "channels_last" if channels_last else "contiguous"
        ways[layout] = lambda model=model: model(images)
        if (frozen := _frozen(model, images)) is not None:
            ways[f"{layout}, traced and frozen"] = lambda frozen=frozen: frozen(images)
    return _fastest(case, ways, "static_logits")


def train_batched(case: Case) -> Contender:
    return _fastest(case, _each(case, _options(), _training(case)), "loss", inference=False)


def train_static(case: Case) -> Contender:
    images, ways = _images(case), {}
    for channels_last in (False, True):
        model = StaticPuppet(case.config, _static_weights(case), baked=False, channels_last=channels_last)
        ways["channels_last" if channels_last else "contiguous"] = _training(case)(model, images)
    return _fastest(case, ways, "static_loss", inference=False)


def _options() -> list[Options]:
    choices = (True, False), ("grouped", "matmul"), ("contiguous", "channels_last")
    return [Options(*chosen) for chosen in itertools.product(*choices)]


def _each(case: Case, options, call) -> dict:
    images = _images(case)
    return {str(chosen): call(ConventionalPuppet(case.config, case.weights(), chosen), images) for chosen in options}


def _training(case: Case):
    labels = torch.from_numpy(case.arrays["labels"])

    def of(model, images):
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

        def step():
            optimiser.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimiser.step()
            return loss.detach()

        return step

    return of


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
    error = _error(case.arrays[answer]) if answer in case.arrays else None
    seconds, errors = {}, {}
    for name, way in ways.items():
        result = way()
        errors[name] = error(result) if error else None
        seconds[name] = np.inf
        for _ in range(3):
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            if seconds[name] > 2.0 * min(seconds.values()):
                break
    chosen = min(seconds, key=seconds.get)
    notes = {"chosen": chosen, "seconds": seconds, "threads": torch.get_num_threads()}
    worst = max(errors.values()) if error else None
    return Contender(ways[chosen], (lambda result: worst) if error else None, notes)


def _inference(way):
    def run():
        with torch.inference_mode():
            return way()

    return run


def _error(answer):
    def error(result) -> float:
        return float(np.max(np.abs(result.numpy() - answer)) / np.max(np.abs(answer)))

    return error


def _images(case: Case):
    return torch.from_numpy(np.ascontiguousarray(case.arrays["images"].transpose(0, 3, 1, 2)))


def _static_weights(case: Case) -> dict:
    weights = case.weights()
    return weights | {name.removeprefix("static/"): a for name, a in weights.items() if name.startswith("static/")}
