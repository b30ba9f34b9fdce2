"""Contenders in JAX: this library, and its peers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import puppet_jax as pj
from bench.case import Case, make_model
from bench.contenders import Contender
from bench.peers import scan_jax, static_jax, vmap_jax
from puppet_jax.bank import make_bank
from puppet_jax.batch import SLOTS

LEARNING_RATE = 1e-4


# Images to logits.


def compile_predict(case: Case) -> Contender:
    predict = pj.compile_predict(make_model(case.size))
    images = jnp.asarray(case.arrays["images"])
    return Contender(lambda: jax.block_until_ready(predict(images)).logits, _logits_error(case))


def exact(case: Case) -> Contender:
    # Continuous complexity: kernels for every image, and other ones than a bin's.
    model = make_model(case.size, measurement=pj.Measure(bin=None))
    return dataclasses.replace(_forward(case, model, lambda model, images: model(images)), error=None)


def plain_vmap(case: Case) -> Contender:
    return _forward(case, make_model(case.size), lambda model, images: vmap_jax.forward(model, images, case.config))


def static(case: Case) -> Contender:
    params = static_jax.parameters(case.config, _static_weights(case), baked=True)
    run = jax.jit(functools.partial(static_jax.forward, config=case.config, baked=True))
    images = jnp.asarray(case.arrays["images"])
    return Contender(lambda: jax.block_until_ready(run(params, images)), _logits_error(case, "static_logits"))


def complexity(case: Case) -> Contender:
    run, images = jax.jit(pj.complexity), jnp.asarray(case.arrays["images"])
    return Contender(lambda: jax.block_until_ready(run(images)), _error(case.arrays["complexity"]))


# Training steps.


def train_ode(case: Case) -> Contender:
    return _train_model(case, make_model(case.size))


def train_continuous(case: Case) -> Contender:
    return _train_model(case, make_model(case.size, "continuous"), answer=None)


def train_exact(case: Case, adjoint: str = "recursive") -> Contender:
    model = make_model(case.size, measurement=pj.Measure(bin=None), adjoint=adjoint)
    return _train_model(case, model, answer=None)


def train_exact_direct(case: Case) -> Contender:
    return train_exact(case, "direct")


def train_exact_backsolve(case: Case) -> Contender:
    return train_exact(case, "backsolve")


def train_vmap(case: Case) -> Contender:
    model = make_model(case.size)
    return _train_model(case, model, lambda model, images: vmap_jax.forward(model, images, case.config))


def train_static(case: Case) -> Contender:
    params = static_jax.parameters(case.config, _static_weights(case), baked=False)
    forward = functools.partial(static_jax.forward, config=case.config, baked=False)
    return _train(case, params, forward, "static_loss")


# Complexities to kernels.


def generate_exact(case: Case) -> Contender:
    return _generate(case, make_model(case.size).puppeteer, gradient=False)


def generate_continuous(case: Case) -> Contender:
    return _generate(case, make_model(case.size, "continuous").puppeteer, gradient=False)


def generate_exact_as_read(case: Case) -> Contender:
    return _generate(case, make_model(case.size).puppeteer, _as_read)


def generate_continuous_as_read(case: Case) -> Contender:
    return _generate(case, make_model(case.size, "continuous").puppeteer, _as_read)


def _as_read(puppeteer, h):
    # (K, K, C_in, C_out): what a puppet takes, where the protocol's transposition vanishes in its opposite. Handed out
    # of a program as (C_out, C_in, K, K) the kernels are copied once more, which no forward pass does.
    return tuple(jnp.transpose(kernel, (2, 3, 1, 0)) for kernel in puppeteer(h))


def generate_bank(case: Case, gradient: bool = False) -> Contender:
    # All that a batch needs of generation: the kernels of as many bins as it may meet at a time.
    return _bank(case, make_model(case.size).puppeteer, gradient)


def generate_bank_gradient(case: Case) -> Contender:
    return generate_bank(case, gradient=True)


def generate_bank_continuous_gradient(case: Case) -> Contender:
    return _bank(case, make_model(case.size, "continuous").puppeteer, gradient=True)


def bake(case: Case) -> Contender:
    model = make_model(case.size)
    return Contender(lambda: jax.block_until_ready(pj.compile_predict(model).bank))


def generate_exact_gradient(case: Case) -> Contender:
    return _generate(case, make_model(case.size).puppeteer, gradient=True)


# The integrator alone.


def diffrax(case: Case, gradient: bool = False) -> Contender:
    return _generate(case, make_model(case.size).puppeteer, lambda puppeteer, h: puppeteer.trajectory(h), gradient)


def scan(case: Case, gradient: bool = False) -> Contender:
    return _generate(case, make_model(case.size).puppeteer, scan_jax.trajectory, gradient)


def diffrax_gradient(case: Case) -> Contender:
    return diffrax(case, gradient=True)


def scan_gradient(case: Case) -> Contender:
    return scan(case, gradient=True)


def _static_weights(case: Case) -> dict:
    weights = case.weights()
    return weights | {name.removeprefix("static/"): a for name, a in weights.items() if name.startswith("static/")}


def _forward(case: Case, model, function) -> Contender:
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, images: function(nnx.merge(graphdef, state), images))
    images = jnp.asarray(case.arrays["images"])
    return Contender(lambda: jax.block_until_ready(run(state, images)), _logits_error(case))


def _train_model(case: Case, model, function=lambda model, images: model(images), answer="loss") -> Contender:
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return _train(case, params, lambda params, images: function(nnx.merge(graphdef, params, rest), images), answer)


def _train(case: Case, params, forward, answer: str | None) -> Contender:
    optimiser = optax.adamw(LEARNING_RATE)
    images, labels = jnp.asarray(case.arrays["images"]), jnp.asarray(case.arrays["labels"])

    def loss(params, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(forward(params, images), labels).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        value, gradient = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    # Copied, as the step gives away what it is handed.
    held = [jax.tree.map(jnp.copy, params), optimiser.init(params)]

    def call():
        held[0], held[1], value = step(*held, images, labels)
        return jax.block_until_ready((value, held))[0]

    error = None if answer is None else _error(case.arrays[answer])
    return Contender(call, error, compiled=lambda: step.lower(*held, images, labels).compile())


def _generate(case: Case, puppeteer, function=lambda puppeteer, h: puppeteer(h), gradient: bool = False) -> Contender:
    graphdef, params, rest = nnx.split(puppeteer, nnx.Param, ...)
    h = jnp.asarray(case.arrays["h"])
    kernels = lambda params, h: jax.vmap(lambda h: function(nnx.merge(graphdef, params, rest), h))(h)  # noqa: E731
    run = jax.jit(_gradient(kernels) if gradient else kernels)
    return Contender(lambda: jax.block_until_ready(run(params, h)))


def _bank(case: Case, puppeteer, gradient: bool) -> Contender:
    graphdef, params, rest = nnx.split(puppeteer, nnx.Param, ...)
    h = jnp.linspace(*np.quantile(case.arrays["h"], (0.0, 1.0)), SLOTS)
    kernels = lambda params, h: make_bank(nnx.merge(graphdef, params, rest), h).kernels  # noqa: E731
    run = jax.jit(_gradient(kernels) if gradient else kernels)
    return Contender(lambda: jax.block_until_ready(run(params, h)), notes={"sets": SLOTS})


def _gradient(kernels):
    # Odd and not linear: neither a sum (nothing to backpropagate but ones) nor squares (constant if standardised).
    return jax.grad(lambda params, h: sum(jnp.sum(k**3) for k in jax.tree.leaves(kernels(params, h))))


def _error(answer):
    def error(result) -> float:
        return float(np.max(np.abs(np.asarray(result) - answer)) / np.max(np.abs(answer)))

    return error


def _logits_error(case: Case, answer: str = "logits"):
    return _error(case.arrays[answer])
