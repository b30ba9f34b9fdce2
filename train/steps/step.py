"""One optimiser step and one evaluated batch, as pure functions under jit, each device taking its part of the batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

import puppet_jax as pj
from train.config import ResolvedConfig
from train.devices import BATCH, ROWS, SHARED, on_each_device
from train.steps.augment import augment
from train.steps.optimiser import averaged

# Of the loss, what a teacher's share is, and the temperature of its probabilities (Hinton et al. 2015,
# arXiv:1503.02531, whose gradients are multiplied by its square too).
TAUGHT = 0.9
TEMPERATURE = 4.0
# The weight of the loss at an exit before the last, whose own is 1.
EARLIER = 0.5


class Sums(NamedTuple):
    """Sums over images: cross-entropy in nats (that of the labels, whatever is trained on: the test's quantity),
    correct answers, the images themselves, complexity in bits, depth."""

    loss: jax.Array
    correct: jax.Array
    seen: jax.Array
    complexity: jax.Array
    depth: jax.Array


class Tally(NamedTuple):
    """What a step reports, kept on the device so that no step waits for the host.

    Attributes:
        sums: over the epoch's training images so far.
        step: how many steps the run has done.
        bad_step: the first step whose loss or gradient was not finite, counted from 1; 0 while there is none.
        stop: the signal that any process was asked to end by; 0 while there is none.
    """

    sums: Sums
    step: jax.Array
    bad_step: jax.Array
    stop: jax.Array


class TrainState(NamedTuple):
    """All that a step reads and replaces: with the order of images, enough to continue a run. ``average`` is the
    parameters' exponential moving average, ``None`` where ``config.ema`` is 0."""

    params: nnx.State
    average: nnx.State | None
    opt_state: Any
    step: jax.Array

    @property
    def evaluated(self) -> nnx.State:
        """The parameters to evaluate and save: the average, where there is one."""
        return self.params if self.average is None else self.average


def empty_tally(step: int = 0) -> Tally:
    zero = jnp.zeros((), jnp.int32)
    return Tally(Sums(jnp.zeros(()), zero, zero, jnp.zeros(()), zero), jnp.int32(step), zero, zero)


def start(params: nnx.State, optimiser: optax.GradientTransformation, config: ResolvedConfig) -> TrainState:
    """The state before the first step. The parameters are copied, because the step donates its buffers."""
    params = jax.tree.map(jnp.copy, params)
    average = jax.tree.map(jnp.copy, params) if config.ema else None
    return TrainState(params, average, optimiser.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    graphdef: nnx.GraphDef,
    optimiser: Callable[[Any], optax.GradientTransformation],
    config: ResolvedConfig,
    mesh: Mesh,
    teacher: nnx.GraphDef | None = None,
    class_weights: np.ndarray | None = None,
) -> Callable:
    """The jitted ``(state, tally, rest, images, labels, stop, numbers, teaching) -> (state, tally)``, the buffers of
    ``state`` donated.

    ``rest`` is the model's state that is not trained, ``teaching`` the state of the ``teacher``, if there is one;
    ``class_weights`` ``(C,)`` are of the images of each class in the loss.
    ``numbers`` are the seed and the run's steps, which the ``optimiser`` is made for: arguments, so that a run of
    others has the same compiled program.
    ``images`` are uint8 ``(B, H, W, C)`` and stay so until the model reads them, so complexity is measured on the
    augmented image that the model sees. Images, labels ``(B,)`` and ``stop``, one number a device (:class:`Tally`),
    are divided over the mesh.
    """

    def loss_fn(params, rest, images, labels, draw, teaching):
        model = nnx.merge(graphdef, params, rest, copy=True)  # of this trace's own, so that its streams may count
        model.train()
        _draw_anew(model, draw)
        at_exits = model(images)[:, None] if model.puppet.exits is None else model.at_exits(images, draw)
        logits, shares = at_exits[:, -1], jnp.full(at_exits.shape[1], EARLIER).at[-1].set(1.0)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.label_smoothing)
        loss = optax.softmax_cross_entropy(at_exits, targets[:, None])
        if teacher is not None:
            told = jax.nn.softmax(nnx.merge(teacher, teaching)(images) / TEMPERATURE)
            apart = optax.kl_divergence(jax.nn.log_softmax(at_exits / TEMPERATURE), told[:, None])
            loss = (1 - TAUGHT) * loss + TAUGHT * TEMPERATURE**2 * apart
        if class_weights is not None:
            loss *= jnp.asarray(class_weights)[labels][:, None]
        loss = (loss @ (shares / shares.sum())).sum()
        correct = jnp.sum(jnp.argmax(logits, -1) == labels, dtype=jnp.int32)
        # The model measures the same images itself; XLA merges the two (tested).
        complexity, depth = model.measure(images)
        of_labels = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
        sums = Sums(of_labels, correct, jnp.int32(len(labels)), complexity.sum(), depth.sum(dtype=jnp.int32))
        return loss.sum() / config.batch_size, sums

    gradient_fn = jax.grad(loss_fn, has_aux=True)

    def step(state: TrainState, tally: Tally, rest, images, labels, stop, numbers, teaching):
        seed, steps = numbers
        images = augment(images, _keys(seed, state.step, len(images)), config.augment)
        # A number for each device's batch in each step, for what the user's own CNN draws (dropout).
        draw = state.step * mesh.size + lax.axis_index(BATCH)
        gradients, sums = gradient_fn(state.params, rest, images, labels, draw, teaching)
        gradients, sums = lax.psum((gradients, sums), BATCH)

        updates, opt_state = optimiser(steps).update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = averaged(average, params, config.ema, state.step)

        done = state.step + 1
        good = jnp.isfinite(sums.loss) & jnp.isfinite(optax.tree.norm(gradients))
        tally = Tally(
            jax.tree.map(jnp.add, tally.sums, sums),
            done,
            jnp.where(good | (tally.bad_step > 0), tally.bad_step, done),
            jnp.maximum(tally.stop, lax.pmax(stop[0], BATCH)),
        )
        return TrainState(params, average, opt_state, done), tally

    mapped = on_each_device(step, mesh, (SHARED, SHARED, SHARED, ROWS, ROWS, ROWS, SHARED, SHARED))
    return jax.jit(lambda *args, numbers, teaching=None: mapped(*args, numbers, teaching), donate_argnums=0)


def make_eval_step(graphdef: nnx.GraphDef, mesh: Mesh) -> Callable:
    """The jitted function ``(params, rest, images, labels) -> (loss, class)``, both per image ``(B,)``."""

    def evaluate(params, rest, images, labels):
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.eval()
        logits = model(images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return lax.all_gather((loss, jnp.argmax(logits, -1)), BATCH, tiled=True)

    return jax.jit(on_each_device(evaluate, mesh, (SHARED, SHARED, ROWS, ROWS)))


def _draw_anew(model: pj.PuppetCNN, number: jax.Array) -> None:
    """Set a model's random streams, if it has any, to where ``number`` calls would have brought them."""
    stream = getattr(model.puppet, "stream", None)
    if stream is not None:
        stream.count[...] = number.astype(stream.count[...].dtype)


def _keys(seed: jax.Array, step: jax.Array, count: int) -> jax.Array:
    """A key for each of this device's images. It depends only on the step's number and the image's place in the whole
    batch, so that a resumed run, or one on more devices, draws the same."""
    # The last number: the model's own draws are of the same seed and count from 0 (nnx.Rngs).
    of_step = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), step)
    places = lax.axis_index(BATCH) * count + jnp.arange(count)
    return jax.vmap(lambda place: jax.random.fold_in(of_step, place))(places)
