"""What a model's forward does, learned from a trace of it: nothing is computed."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from puppet_jax.module_graph import Path, at, modules_of, name_of, replace
from puppet_jax.puppets.foreign import Apply, InPlaceOf


@dataclasses.dataclass
class Trace:
    """In what order convolutions run; which blocks map to what shapes, and how often; how many classes there are."""

    convolutions: list[Path] = dataclasses.field(default_factory=list)
    blocks: dict[Path, list] = dataclasses.field(default_factory=dict)
    num_classes: int = 0


class _Watched(InPlaceOf):
    """A member of a list, and a note of what it maps to what."""

    def __init__(self, block: nnx.Module, note: Callable):
        super().__init__(block)
        self.note = note

    def __call__(self, *args, **kwargs):
        result = self.block(*args, **kwargs)
        self.note(args[0] if args else None, result)
        return result


def trace_forward(body: nnx.Module, apply: Apply, image_shape: tuple[int, int, int], blocks) -> Trace:
    """Trace the forward on one image; ``body`` stays as it is. ``blocks`` are watched besides members of lists.

    Raises:
        ValueError: the module cannot be called so, or returns something else than logits (1, num_classes).
    """
    trace = Trace()
    watched = nnx.clone(body)
    for path, conv in modules_of(watched, nnx.Conv).items():

        def noted(*args, path=path, run=conv.conv_general_dilated, **kwargs):
            trace.convolutions.append(path)
            return run(*args, **kwargs)

        conv.conv_general_dilated = noted
    # The innermost first: a path stays valid as long as nothing above it has changed.
    named = {name for entry in blocks or () for name in ([entry] if isinstance(entry, str) else entry)}
    modules = modules_of(watched, nnx.Module)
    members = [path for path in modules if path and (isinstance(path[-1], int) or name_of(path) in named)]
    for path in sorted(members, key=len, reverse=True):
        if isinstance(modules[path], nnx.Conv | nnx.List | nnx.Dict):
            continue

        def note(x, result, path=path):
            trace.blocks.setdefault(path, []).append((_aval(x), _aval(result)))

        replace(watched, path, _Watched(at(watched, path), note))
    graphdef, state = nnx.split(watched)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    run = lambda state, images: apply(nnx.merge(graphdef, state, copy=True), images, nnx.Rngs(0))  # noqa: E731
    try:
        logits = jax.eval_shape(run, state, images)
    except Exception as error:
        raise ValueError(
            f"puppetize: the module could not be called on float32 images of shape {images.shape} "
            f"({type(error).__name__}: {error}); correct image_shape, or tell how to call it, for example "
            "apply=lambda module, images, rngs: module(images, train=True)"
        ) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise ValueError(
            f"puppetize: the module must return logits (1, num_classes) for images {images.shape}, got "
            f"{shape if shape is not None else type(logits).__name__}; pick them out with apply="
        )
    trace.num_classes = shape[1]
    return trace


def _aval(x):
    return (x.shape, x.dtype) if hasattr(x, "shape") and hasattr(x, "dtype") else None
