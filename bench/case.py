"""What every contender is given: sizes, images, complexities, weights, and the answers it must reproduce.

One process (``prepare``, with JAX) writes them to a file; each contender reads it, so a contender in PyTorch runs in a
process that has never imported JAX. Seven layers of one width on one map: the images are CIFAR-10's 32×32×3, and the
first layer's stride brings them down to the map, so complexity is measured on what a user would pass.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np

from bench import cifar


@dataclasses.dataclass(frozen=True)
class Size:
    """Batch, channels of every layer, rows and columns of every layer's map, layers (D_max)."""

    batch: int
    channels: int
    map: int
    layers: int = 7

    def __str__(self) -> str:
        more = "" if self.layers == 7 else f", {self.layers}"
        return f"{self.batch}, {self.channels}, {self.map}×{self.map}{more}"


@dataclasses.dataclass(frozen=True)
class Case:
    """A size with its data: ``arrays`` by name and ``config`` of the model (see ``bench/peers/weights.py``)."""

    size: Size
    arrays: dict[str, np.ndarray]
    config: dict

    def weights(self, which: Literal["weight", "static"] = "weight") -> dict[str, np.ndarray]:
        """Of the model, or of its static twin."""
        return {name.removeprefix(f"{which}/"): a for name, a in self.arrays.items() if name.startswith(f"{which}/")}


def path_of(folder: Path, size: Size) -> Path:
    return folder / f"case_{size.batch}_{size.channels}_{size.map}_{size.layers}.npz"


def load(folder: Path, size: Size) -> Case:
    with np.load(path_of(folder, size)) as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays.pop("config")))
    return Case(size, arrays, config)


def make_model(size: Size, puppeteer: str = "ode", measurement=None):
    """The model that everything is measured on, with parameters away from their special initial values."""
    import jax
    from flax import nnx

    import puppet_jax as pj

    layers = [pj.LayerSpec(size.channels, stride=cifar.SIZE // size.map)]
    layers += [pj.LayerSpec(size.channels)] * (size.layers - 1)
    puppet = pj.PlainPuppet(layers, in_channels=3, num_classes=10, rngs=nnx.Rngs(1))
    source = {"ode": pj.OdePuppeteer, "continuous": pj.ContinuousPuppeteer, "stored": pj.StoredPuppeteer}[puppeteer]
    model = pj.PuppetCNN(source(puppet.kernel_shapes, rngs=nnx.Rngs(0)), puppet, measurement)
    state = nnx.state(model, nnx.Param)
    leaves, structure = jax.tree.flatten(state)
    rng = np.random.default_rng(2)
    noise = [0.05 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    if puppeteer == "continuous":  # in proportion: its parameters are of very different size
        noise = [n * max(float(leaf.std()), 0.1) for n, leaf in zip(noise, leaves, strict=True)]
    leaves = [leaf + n for leaf, n in zip(leaves, noise, strict=True)]
    nnx.update(model, jax.tree.unflatten(structure, leaves))
    return model


def prepare(folder: Path, size: Size) -> None:
    """Write the case of ``size``: complexities, images, weights, and what the exact path makes of them."""
    import jax
    from flax import nnx
    from optax.losses import softmax_cross_entropy_with_integer_labels as loss

    import puppet_jax as pj
    from bench.peers import weights

    model, twin = make_model(size), make_model(size, "stored")
    complexity = jax.jit(pj.complexity)
    images = cifar.images(cifar.complexities(size.batch), complexity)
    labels = np.random.default_rng(3).integers(0, 10, size.batch)
    measured, _ = nnx.jit(lambda model, images: model.measure(images))(model, images)
    config, exported = weights.export(model)
    _, stored = weights.export(twin)
    stored |= {f"baked/{layer}": np.asarray(kernel) for layer, kernel in enumerate(twin.puppeteer(0.0))}
    logits = np.asarray(nnx.jit(lambda model, images: model(images))(model, images))
    static_logits = np.asarray(_at_full_depth(twin, images))
    arrays = {"images": images, "labels": labels, "h": np.asarray(measured)}
    arrays |= {"complexity": np.asarray(complexity(images)), "logits": logits, "loss": loss(logits, labels).mean()}
    full = make_model(size, measurement=pj.Measure(depth="full"))
    arrays["full_logits"] = np.asarray(nnx.jit(lambda model, images: model(images))(full, images))
    arrays |= {"static_logits": static_logits, "static_loss": loss(static_logits, labels).mean()}
    arrays |= {f"weight/{name}": array for name, array in exported.items()}
    arrays |= {f"static/{name}": array for name, array in stored.items()}
    # A file that is there is whole: contenders take it as it is.
    np.savez(folder / "unfinished.npz", config=json.dumps(config), **arrays)
    (folder / "unfinished.npz").rename(path_of(folder, size))


def relative_error(found, expected: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected)))


def _at_full_depth(model, images):
    import jax
    from flax import nnx

    @nnx.jit
    def run(model, images):
        kernels = model.puppeteer(0.0)
        return jax.vmap(lambda image: model.puppet(image, kernels, model.max_depth))(images)

    return run(model, images.astype(np.float32) / 255.0)
