"""Contenders in PyTorch. Of several ways to do a thing each is tried at the size at hand, and the fastest taken."""

from functools import partial

import numpy as np

from bench import machine
from bench.case import Case
from bench.contenders import Contender, Unavailable, fastest

try:
    import torch
except ImportError:
    raise Unavailable("torch is not installed; pip install -e '.[bench]'") from None

from bench.peers.conventional_torch import ConventionalPuppet
from bench.peers.static_torch import StaticPuppet

LEARNING_RATE = 1e-4

torch.set_num_threads(len(machine.cores()))


# Images to logits.


def torch_batched(case: Case) -> Contender:
    ways = {name: _inference(model, _images(case)) for name, model in _conventional(case).items()}
    return fastest(case, ways, "logits")


def torch_one_by_one(case: Case) -> Contender:
    model = _conventional(case)["grouped"]
    return fastest(case, {"": _inference(model.one_by_one, _images(case))}, "logits")


def torch_static(case: Case) -> Contender:
    ways = {name: _inference(model, _images(case)) for name, model in _static(case, baked=True).items()}
    return fastest(case, ways, "static_logits")


def torch_compile(case: Case) -> Contender:
    from torch._inductor import config

    # Parameters become constants, which oneDNN packs ahead: what PyTorch's documentation advises for CPUs.
    config.freezing = True
    models = _static(case, baked=True)
    ways = {name: _inference(torch.compile(model.eval()), _images(case)) for name, model in models.items()}
    return fastest(case, ways, "static_logits")


# Training steps.


def train_torch_batched(case: Case) -> Contender:
    ways = {name: _training(case, model) for name, model in _conventional(case).items()}
    return fastest(case, ways, "loss")


def train_torch_static(case: Case, compiled: bool = False) -> Contender:
    models = _static(case, baked=False)
    ways = {name: _training(case, torch.compile(model) if compiled else model) for name, model in models.items()}
    return fastest(case, ways, "static_loss")


train_torch_compile = partial(train_torch_static, compiled=True)


# Complexities to kernels.


def torch_generate(case: Case) -> Contender:
    generate = _conventional(case)["grouped"].generate
    return fastest(case, {"": _inference(generate, torch.from_numpy(case.arrays["h"]))}, None)


def _conventional(case: Case) -> dict[str, ConventionalPuppet]:
    return {name: ConventionalPuppet(case.config, case.weights(), name) for name in ("grouped", "matmul")}


def _static(case: Case, baked: bool) -> dict[str, StaticPuppet]:
    make = partial(StaticPuppet, case.config, case.weights("static"), baked=baked)
    return {"contiguous": make(channels_last=False), "channels_last": make(channels_last=True)}


def _training(case: Case, model):
    images, labels = _images(case), torch.from_numpy(case.arrays["labels"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _inference(function, argument):
    def run():
        with torch.inference_mode():
            return function(argument)

    return run


def _images(case: Case):
    return torch.from_numpy(np.ascontiguousarray(case.arrays["images"].transpose(0, 3, 1, 2)))
