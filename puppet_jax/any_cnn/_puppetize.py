"""``puppetize``: any Flax NNX model as the puppet, in one line. Its convolutions are found and then generated."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from flax import nnx

from puppet_jax._measure import Measure
from puppet_jax._model import PuppetCNN, continuous_of, puppeteer_of, warn_if_larger
from puppet_jax.any_cnn._blocks import MOST_DEPTHS
from puppet_jax.any_cnn._convert import foreign_puppet
from puppet_jax.any_cnn._foreign import Apply
from puppet_jax.puppeteers import Puppeteer


def puppetize(
    module: nnx.Module,
    puppeteer: str | Callable[..., Puppeteer] = "continuous",
    *,
    image_shape: tuple[int, int, int],
    batch_norm: Literal["group", "running"] | None = None,
    blocks: Sequence[str | Sequence[str]] | None = None,
    max_depth: int | None = None,
    exits: Sequence[int] | None = None,
    apply: Apply | None = None,
    compression: float | int = 10,
    puppeteer_options: Mapping | None = None,
    measurement: Measure | None = None,
    rngs: nnx.Rngs,
) -> PuppetCNN:
    """Make a puppet of a CNN that was written for stored kernels; the module itself is left as it is.

    ```python
    net = ResNet20(num_classes=10, rngs=nnx.Rngs(0))  # your model: nnx.Conv, nnx.BatchNorm, nnx.List of blocks, …
    model = pj.puppetize(net, "continuous", image_shape=(32, 32, 3), batch_norm="group", rngs=nnx.Rngs(1))
    logits = model(images)  # as any PuppetCNN: own kernels and depth for each image; jit, grad, vmap
    print(pj.summary(model), model.puppet.kept)  # parameters before and after; what stays stored, and why
    print(model.puppet.blocks, model.puppet.always)  # the least depth that runs each block; what always runs, and why
    ```

    **Kernels.** Generated are those of every ``nnx.Conv`` and ``nnx.ConvTranspose`` that the forward calls, ordered by
    their first calls, with shapes (C_out, C_in / groups, K_h, K_w); of three spatial axes the first is a part of C_in.
    Kernels that the forward reads, changes or convolves with by itself stay stored, and all other parameters do.

    **Depth.** Modules side by side that are alike are a *sequence of blocks*, of which an image skips those beyond its
    depth, if a trial shows what stands for a skipped one's result. With n blocks in all sequences and depths D in
    1 … L = ``max_depth``, ⌈n·D / L⌉ blocks run at depth D, and at least the first of each sequence. A deeper image runs
    what a shallower one does, and D = L runs everything.

    **Check.** The forward runs on random images, with random parameters of the module's shapes: as it is, and with
    stand-ins for all that is replaced. Both must give the same, and no image may look at another, in evaluation and in
    training mode. Each image goes through a copy of the module, and what that writes is lost: a variable that the
    forward changes and reads again, such as a counter, is named in a warning.

    **Normalisation.** ``batch_norm="group"`` normalises over groups of channels of one image, with the layer's scale,
    shift and epsilon; for training. ``"running"`` takes the running averages, never updated, for kernels that are the
    model's own or are trained to fit them. Fresh averages (0 and 1) normalise nothing.

    **Random streams** are made from each image's number in the batch. In training mode every call moves them on by one,
    which changes ``model``'s state: under ``jax.jit`` carry it, as for any NNX model, or use ``nnx.jit``. A model that
    draws is in training mode unless the module comes in evaluation mode, in which what is drawn follows from the image.

    Args:
        module: takes images (N, H, W, C) and returns logits (N, num_classes), or any tree of arrays (N, …).
        puppeteer: a name or a function, as in :func:`create`; ``"continuous"`` gets ``omega_depth`` 10 · 8 / layers
            beyond eight layers, unless told otherwise.
        image_shape: (H, W, C) of the images; the module is tried on two.
        batch_norm: ``"group"`` or ``"running"``, see above.
        blocks: instead of the sequences found: each entry the name of a list of blocks, such as ``"stage1"``, or a
            list of blocks' names, such as ``["block1", "features.layers.2"]``. ``()``: every image runs everything.
        max_depth: L; the default is n, but at most 8: for H in bits D(H) is at most 8.
        exits: depths that an image may leave at, to be trained with a loss at each (:meth:`PuppetCNN.at_exits`).
        apply: how to call the module, ``apply(module, images, rngs)``, if not by ``module(images)``: images (1, H, W,
            C) are float in [0, 1]. A lambda made anew compiles anew.
        compression: the module's kernel parameters over those of the ``"continuous"`` puppeteer, at least: its basis,
            rank and network are solved for, unless ``puppeteer_options`` name one of them.
        puppeteer_options: arguments for the puppeteer's constructor.
        measurement: which complexity, and whether depth follows it.
        rngs: Flax random streams.

    Raises:
        TypeError: ``module`` is not an ``nnx.Module``, or an option that the puppeteer does not have.
        ValueError: an unknown puppeteer or option, batch normalisation without a choice, a module that cannot be
            called on such images, does not return arrays (N, …), looks at what is replaced or at other images, no
            convolution that can be generated, or ``blocks`` that are not there or cannot be skipped.

    Warns:
        UserWarning: the puppeteer stores more than the kernels that it makes, or the forward changes variables.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"puppetize: module must be a flax.nnx.Module, got {type(module).__name__}")
    make, options = puppeteer_of(puppeteer, "puppetize"), dict(puppeteer_options or {})
    puppet = foreign_puppet(
        module,
        image_shape=image_shape,
        batch_norm=batch_norm,
        blocks=blocks,
        max_depth=max_depth,
        apply=apply,
        rngs=rngs,
    )
    puppet.leave_at(exits)
    if puppeteer == "continuous":
        make = functools.partial(continuous_of, compression=compression)
        # With more layers than depths, s = l·dl runs that many times beyond 1. Without this factor the kernels would
        # change with H that many times faster than in a plain puppet.
        options = {"omega_depth": 10.0 * min(1.0, MOST_DEPTHS / len(puppet.names))} | options
    model = PuppetCNN(make(puppet.kernel_shapes, **options, rngs=rngs), puppet, measurement)
    height, width, channels = image_shape
    model.image_shape = height, width, channels
    return warn_if_larger(model, "puppetize")
