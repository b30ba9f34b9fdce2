"""PuppetCNN: complexity, puppeteer and puppet wired together; and ``create``, which makes one from a preset."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Num

from puppet_jax import puppeteers
from puppet_jax._batch import logits_of_batch
from puppet_jax._complexity import check_batch
from puppet_jax._measure import Measure
from puppet_jax._mesh import of_any_mesh, varying_alike
from puppet_jax._named_function import is_function_name, named_function
from puppet_jax.any_cnn._convert import foreign_puppet
from puppet_jax.puppeteers import ContinuousPuppeteer, KernelShape, Puppeteer, StoredPuppeteer
from puppet_jax.puppeteers._grouped import SIZES, GroupedPuppeteer
from puppet_jax.puppets import PlainPuppet, Puppet
from puppet_jax.puppets._presets import PRESETS


def _ode(*shapes: Any, **options: Any) -> Puppeteer:
    return puppeteers.OdePuppeteer(*shapes, **options)


TRIED_ON = (8, 8)  # height and width of the images that a preset's net is tried on; it takes any


PUPPETEERS: dict[str, Callable[..., Puppeteer]] = {
    "continuous": ContinuousPuppeteer,
    "ode": _ode,
    "printed": functools.partial(_ode, initial="constant", standardise=False),
    "stored": StoredPuppeteer,
}


def puppeteer_of(puppeteer: str | Callable[..., Puppeteer], caller: str) -> Callable[..., Puppeteer]:
    """What makes a puppeteer: the function given, or the one of that name; ``ValueError`` for an unknown name."""
    if not isinstance(puppeteer, str):
        return puppeteer
    if is_function_name(puppeteer):
        return named_function(puppeteer)
    if puppeteer not in PUPPETEERS:
        raise ValueError(f"{caller}: unknown puppeteer {puppeteer!r}; there are {', '.join(sorted(PUPPETEERS))}")
    return PUPPETEERS[puppeteer]


class PuppetCNN(nnx.Module):
    """A CNN whose kernels and depth are made for each image from its complexity.

    Args:
        puppeteer: the source of kernels, made for ``puppet.kernel_shapes``.
        puppet: the CNN that the kernels drive.
        measurement: which complexity, how finely, and whether depth follows it; the default is :class:`Measure`'s.

    Attributes:
        classes: a name for each logit, or ``None``.
        image_shape: (H, W, C) of the images that it was trained on, or ``None``. Predictors and exports take over both.
            :func:`load_pretrained` knows them, :func:`puppetize` the latter; of another model, set them.

    Raises:
        TypeError: ``puppeteer`` is not a :class:`Puppeteer`.
        ValueError: the two disagree about the kernels' shapes.
    """

    def __init__(self, puppeteer: Puppeteer, puppet: Puppet, measurement: Measure | None = None):
        if not isinstance(puppeteer, Puppeteer):
            raise TypeError(
                f"PuppetCNN: puppeteer must be a puppet_jax.Puppeteer, got {type(puppeteer).__name__}; "
                "derive its class from puppet_jax.Puppeteer"
            )
        if tuple(puppeteer.kernel_shapes) != tuple(puppet.kernel_shapes):
            raise ValueError(
                f"PuppetCNN: the puppeteer makes kernels of shapes {tuple(puppeteer.kernel_shapes)}, the puppet takes "
                f"{tuple(puppet.kernel_shapes)}; make the puppeteer from puppet.kernel_shapes"
            )
        self.measurement = measurement or Measure()
        if isinstance(self.measurement.depth, int) and self.measurement.depth > puppet.max_depth:
            raise ValueError(
                f"PuppetCNN: measurement has depth {self.measurement.depth}, the puppet at most {puppet.max_depth}; "
                "choose a smaller one"
            )
        self.puppeteer = puppeteer
        self.puppet = puppet
        self.classes: tuple[str, ...] | None = None
        self.image_shape: tuple[int, int, int] | None = None

    @property
    def max_depth(self) -> int:
        """D_max, the greatest depth: a plain puppet's number of layers."""
        return self.puppet.max_depth

    def __call__(self, images: Num[ArrayLike, "*batch h w c"]) -> Any:
        """Logits, or whatever else a puppetized module returns.

        Each image gets its own kernels and depth; no image influences another's logits. Works eagerly (compiled once
        a shape), under ``jit``, ``grad`` and ``vmap``.

        Args:
            images: one image ``(H, W, C)`` or a batch ``(B, H, W, C)``; uint8, or float in [0, 1].

        Returns:
            float32 logits ``(num_classes,)`` or ``(B, num_classes)``. Of a puppetized module arrays of any shape, in
            the tree that it returns: ``(…)`` or ``(B, …)``, floats in float32.

        Raises:
            TypeError: the dtype is neither uint8 nor floating.
            ValueError: another rank, an empty batch, NaN or values outside [0, 1] (checked on concrete arrays), other
                channels than the model's, or an image smaller than its strides allow.
        """
        checked = check_batch(images, "PuppetCNN")
        batch = checked if checked.ndim == 4 else checked[None]
        logits = of_any_mesh(_logits, *nnx.split(self), images=batch, batch_axes=1)
        self.puppet.advance()
        return logits if checked.ndim == 4 else jax.tree.map(lambda rows: rows[0], logits)

    def at_exits(
        self, images: Num[ArrayLike, "b h w c"], draw: Int[Array, ""] | int | None = None
    ) -> Float[Array, "b exits num_classes"]:
        """Logits of a batch at each of ``puppet.depths``, whatever its images' own depths: what a loss on all exits is
        made of. A plain puppet takes one pass for it, others one for each; for the first, the last and one between,
        chosen by the number ``draw``, if that is given.

        Raises:
            TypeError, ValueError: as for a call.
        """
        checked = check_batch(images, "PuppetCNN.at_exits")
        logits = of_any_mesh(_at_exits, *nnx.split(self), draw, images=checked, batch_axes=1)
        self.puppet.advance()
        return logits

    def measure(self, images: Num[ArrayLike, "*batch h w c"]) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
        """Complexity and depth D, one of ``puppet.depths``, of one image or a batch, as ``measurement`` says.

        Complexity is in bits, that of the bin's centre unless ``bin`` is None.

        Raises:
            TypeError, ValueError: as for a call.
        """
        checked = check_batch(images, "PuppetCNN.measure")
        run = functools.partial(self.measurement, depths=self.puppet.depths)
        return of_any_mesh(run, images=checked, batch_axes=checked.ndim - 3)


@jax.jit  # a graph is a pytree without leaves: compared, where a static argument would have to be hashable
def _logits(graphdef, state, images):
    model, images, h, d = _measured(graphdef, state, images)
    return logits_of_batch(model.puppet.batch, model.puppeteer, model.measurement, images, h, d)


@jax.jit
def _at_exits(graphdef, state, draw, images):
    model, images, h, d = _measured(graphdef, state, images)
    deepest = jnp.full_like(d, model.max_depth)
    forward = functools.partial(model.puppet.at_exits, draw=draw)
    return logits_of_batch(forward, model.puppeteer, model.measurement, images, h, deepest)


def _measured(graphdef, state, images):
    state, images = varying_alike(state, images)
    model = nnx.merge(graphdef, state)
    model.puppet.check(images.shape[1:], model.puppet.kernel_shapes, model.max_depth)
    return model, images, *model.measure(images)


def continuous_of(
    kernel_shapes: Sequence[KernelShape], *, compression: float | int, rngs: nnx.Rngs, **options: Any
) -> Puppeteer:
    """The continuous puppeteer, of the sizes in ``options``, or where these name none of a ``compression``-th of the
    kernels' parameters."""
    if not set(options).isdisjoint(SIZES):
        return ContinuousPuppeteer(kernel_shapes, **options, rngs=rngs)
    return GroupedPuppeteer(kernel_shapes, compression=compression, **options, rngs=rngs)


def warn_if_larger(model: PuppetCNN, caller: str) -> PuppetCNN:
    """The model; with a warning if more is stored for its kernels than they have parameters."""
    stored = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model.puppeteer, nnx.Param)))
    kernels = sum(map(math.prod, model.puppet.kernel_shapes))
    if stored > kernels:
        warnings.warn(
            f"{caller}: the puppeteer stores {stored:,} parameters for kernels that have {kernels:,}; choose smaller "
            "puppeteer_options, or leave basis, rank and hidden to compression=10",
            stacklevel=3,
        )
    return model


def create(
    name: str,
    *,
    puppeteer: str | Callable[..., Puppeteer] = "continuous",
    num_classes: int = 10,
    in_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    width: int | None = None,
    exits: Sequence[int] | None = None,
    compression: float | int | None = None,
    puppeteer_options: Mapping | None = None,
    measurement: Measure | None = None,
    rngs: nnx.Rngs,
) -> PuppetCNN:
    """A model from a named preset.

    Args:
        name: of the preset, a key of ``PRESETS``: ``"puppet_xs"`` (small grey images, minutes on two cores),
            ``"puppet_s"`` (CIFAR) and ``"puppet_m"`` (wider, ten layers, all of them for every image);
            or, with stages of growing width and shrinking maps, ``"puppet_vgg_s"`` and ``"puppet_resnet_s"`` (CIFAR).
        puppeteer: ``"continuous"`` (recommended), ``"ode"``, ``"printed"`` (the ODE as the paper prints it: constant
            P0, kernels not standardised) or ``"stored"`` (one kernel a layer: the static twin); or a function of your
            own, ``function(kernel_shapes, rngs=rngs, **puppeteer_options)``, itself or as ``"module:function"``.
        num_classes: number of logits.
        in_channels: channels of the images.
        dtype: compute type of the convolutions, float32 or bfloat16.
        width: C_out of every layer, instead of the preset's; in stages of the first one, the others in proportion.
        exits: depths that an image may leave at, to be trained with a loss at each (:meth:`PuppetCNN.at_exits`);
            ``None``: those of the preset; ``()``: none.
        compression: the static twin's kernel parameters over the continuous puppeteer's, at least; its basis, rank and
            network are solved for. ``None``: those of the preset, about 10 at its own width.
        puppeteer_options: arguments for the puppeteer's constructor, over the preset's own.
        measurement: which complexity, how finely, and whether depth follows it; ``None``: in bits, to a quarter of one,
            depth as the preset says.
        rngs: Flax random streams, for example ``nnx.Rngs(0)``.

    Raises:
        ValueError: an unknown preset or puppeteer, an option that the puppeteer refuses, or ``compression`` for another
            puppeteer than the continuous one or beside sizes in ``puppeteer_options``.
        TypeError: an option that the puppeteer does not have.

    Warns:
        UserWarning: the puppeteer stores more than the kernels that it makes.
    """
    if name not in PRESETS:
        raise ValueError(f"create: unknown preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    preset, asked, make = PRESETS[name], puppeteer_options or {}, puppeteer_of(puppeteer, "create")
    own = preset.puppeteer_options.get(puppeteer, {}) if isinstance(puppeteer, str) else {}
    common: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "dtype": dtype, "rngs": rngs}
    exits = preset.exits if exits is None else exits
    puppet: Puppet
    if preset.net:
        net = preset.net(preset.width if width is None else width, **common)
        puppet = foreign_puppet(net, image_shape=(*TRIED_ON, in_channels), batch_norm="group", rngs=rngs)
        puppet.leave_at(exits)
    else:
        layers = preset.layers
        if width is not None:
            layers = tuple(dataclasses.replace(each, width=each.width * width // layers[0].width) for each in layers)
        puppet = PlainPuppet(layers, exits=exits, **common)
    if compression is not None:
        if puppeteer != "continuous" or not set(asked).isdisjoint(SIZES):
            raise ValueError(
                f"create: compression chooses {', '.join(SIZES)} of the continuous puppeteer, got it with "
                f"{puppeteer!r} and puppeteer_options {dict(asked)}; give one or the other"
            )
        own = {key: value for key, value in own.items() if key not in SIZES}
        make = functools.partial(continuous_of, compression=compression)
    measurement = measurement or Measure(depth=preset.depth)
    model = PuppetCNN(make(puppet.kernel_shapes, **{**own, **asked}, rngs=rngs), puppet, measurement)
    return warn_if_larger(model, "create")
