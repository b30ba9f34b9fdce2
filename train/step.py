"""One optimiser step and one evaluated batch, as pure functions under jit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from puppet_jax.puppeteers.interpolate import FULL_RANGE
from train.augment import augment
from train.build import interpolated
from train.config import Config


class Tally(NamedTuple):
    """Sums over an epoch's training images, kept on the device so that no step waits for the host."""

    loss: jax.Array
    correct: jax.Array
    seen: jax.Array


class TrainState(NamedTuple):
    """All that a step reads and replaces: with the order of images, enough to go on from where it was."""

    params: nnx.State
    opt_state: Any
    step: jax.Array
    tally: Tally


def empty_tally() -> Tally:
    return Tally(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def start(params: nnx.State, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step. The parameters are copied, as the step gives away what it is handed."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32), empty_tally())


def make_train_step(
    graphdef: nnx.GraphDef,
    optimiser: optax.GradientTransformation,
    config: Config,
    interval: tuple[float, float] = FULL_RANGE,
) -> Callable:
    """The jitted function ``(state, rest, images, labels) -> state``, the buffers of ``state`` donated.

    ``rest`` is the model's state that is not trained; ``images`` are uint8 ``(B, H, W, C)`` and stay so until the
    model reads them, so complexity is measured on the augmented image that the model sees. ``interval`` is that of
    ``config.nodes``, in bits.
    """
    base_key = jax.random.key(config.seed)

    def loss_fn(params, rest, images, labels):
        logits = interpolated(nnx.merge(graphdef, params, rest), config.nodes, interval)(images)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), logits

    def step(state: TrainState, rest, images, labels) -> TrainState:
        # The key follows from the step's number alone: a run that is cut and continued draws the same.
        images = augment(images, jax.random.fold_in(base_key, state.step), config.augment)
        (loss, logits), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, rest, images, labels)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        tally = Tally(
            state.tally.loss + loss * len(labels),
            state.tally.correct + jnp.sum(jnp.argmax(logits, -1) == labels),
            state.tally.seen + len(labels),
        )
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1, tally)

    return jax.jit(step, donate_argnums=0)


def make_eval_step(graphdef: nnx.GraphDef) -> Callable:
    """The jitted function ``(params, rest, images, labels) -> (loss, correct)``, both per image ``(B,)``."""

    @jax.jit
    def evaluate(params, rest, images, labels):
        logits = nnx.merge(graphdef, params, rest)(images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return loss, jnp.argmax(logits, -1) == labels

    return evaluate
