"""Contenders in JAX: this library, and its peers."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import puppet_jax as pj
from bench.case import Case, make_model, relative_error
from bench.contenders import Contender
from bench.peers import static_jax as static_peer

LEARNING_RATE = 1e-4


# Images to logits.


def compile_predict(
    case: Case, puppeteer: str = "ode", depth: str = "complexity", answer: str | None = "logits"
) -> Contender:
    predict = pj.compile_predict(make_model(case.size, puppeteer, pj.Measure(depth=depth)))
    return _on_images(case, lambda images: predict(images).logits, answer)


compile_predict_full = partial(compile_predict, depth="full", answer="full_logits")
compile_predict_continuous = partial(compile_predict, puppeteer="continuous", answer=None)


def exact(case: Case) -> Contender:
    # Continuous complexity: kernels for every image, and other ones than a bin's, so there is no answer to compare.
    graphdef, state = nnx.split(make_model(case.size, measurement=pj.Measure(bin=None)))
    run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
    return _on_images(case, partial(run, state), None)


def static_jax(case: Case) -> Contender:
    params, forward = _static(case, baked=True)
    return _on_images(case, partial(jax.jit(forward), params), "static_logits")


def complexity(case: Case) -> Contender:
    return _on_images(case, jax.jit(pj.complexity), "complexity")


# Training steps.


def _train_model(case: Case, puppeteer: str = "ode", measurement=None, answer: str | None = None) -> Contender:
    graphdef, params, rest = nnx.split(make_model(case.size, puppeteer, measurement), nnx.Param, ...)
    return _train(case, params, lambda params, images: nnx.merge(graphdef, params, rest)(images), answer)


train_ode = partial(_train_model, answer="loss")
train_continuous = partial(_train_model, puppeteer="continuous")
train_exact = partial(_train_model, measurement=pj.Measure(bin=None))


def train_static_jax(case: Case) -> Contender:
    return _train(case, *_static(case, baked=False), "static_loss")


# Complexities to kernels.


def _generate(case: Case, puppeteer: str) -> Contender:
    graphdef, state = nnx.split(make_model(case.size, puppeteer).puppeteer)
    run = jax.jit(jax.vmap(lambda state, h: nnx.merge(graphdef, state)(h), (None, 0)))
    h = jnp.asarray(case.arrays["h"])
    return Contender(lambda: jax.block_until_ready(run(state, h)))


generate_exact = partial(_generate, puppeteer="ode")
generate_continuous = partial(_generate, puppeteer="continuous")


def bake(case: Case) -> Contender:
    model = make_model(case.size)
    return Contender(lambda: jax.block_until_ready(pj.compile_predict(model).bank))


def _static(case: Case, baked: bool):
    """Parameters of the static CNN, and its forward pass of them."""
    params = static_peer.parameters(case.config, case.weights("static"), baked=baked)
    return params, partial(static_peer.forward, config=case.config, baked=baked)


def _on_images(case: Case, run, answer: str | None) -> Contender:
    images = jnp.asarray(case.arrays["images"])
    return Contender(lambda: jax.block_until_ready(run(images)), _error(case, answer))


def _train(case: Case, params, forward, answer: str | None) -> Contender:
    images, labels = jnp.asarray(case.arrays["images"]), jnp.asarray(case.arrays["labels"])
    return Contender(training(params, forward, images, labels), _error(case, answer))


def training(params, forward, images, labels):
    """A function that does one step, by AdamW, and returns the loss."""
    optimiser = optax.adamw(LEARNING_RATE)

    def loss(params, images, labels):
        return optax.softmax_cross_entropy_with_integer_labels(forward(params, images), labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        value, gradient = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    # Copied, as the step gives away what it is handed.
    held = [jax.tree.map(jnp.copy, params), optimiser.init(params)]

    def call():
        held[0], held[1], value = step(*held, images, labels)
        return jax.block_until_ready((value, held))[0]

    return call


def _error(case: Case, answer: str | None):
    return None if answer is None else partial(relative_error, expected=case.arrays[answer])
