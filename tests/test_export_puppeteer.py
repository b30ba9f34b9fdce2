"""An export that holds the puppeteer: its kernels, made when it is loaded, are those that were baked."""

import json
import math
import os
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import PICKLED, entry, kept_paths, part, program_of, rewritten
from flax import nnx
from small import close, drawn

import puppet_jax as pj

SHAPE = (8, 8, 3)
SMALL = {"rank": 1, "basis": 4, "hidden": 6, "omega": 2.0}
LAYERS = (pj.LayerSpec(16, pool=2), pj.LayerSpec(16), pj.LayerSpec(16))


def model(puppeteer):
    def make():
        puppet = pj.PlainPuppet(LAYERS, in_channels=3, num_classes=4, norm_groups=2, rngs=nnx.Rngs(0))
        return pj.PuppetCNN(puppeteer(puppet.kernel_shapes), puppet)

    return drawn(make)


@pytest.fixture(scope="module")
def predict():
    made = model(lambda shapes: pj.ContinuousPuppeteer(shapes, **SMALL, rngs=nnx.Rngs(1)))
    return pj.compile_predict(made, complexities=(3.0, 6.0))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(predict, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "puppeteer.puppet"
    pj.export(predict, path, image_shape=SHAPE, store="puppeteer")
    return path


def test_it_answers_as_the_baked_one_and_holds_no_kernels(file, predict, images, tmp_path):
    pj.export(predict, tmp_path / "kernels", image_shape=SHAPE)
    found, baked = pj.load(file)(images), pj.load(tmp_path / "kernels")(images)
    assert close(tuple(found), tuple(baked), 1e-5)
    np.testing.assert_array_equal(found.depth, baked.depth)
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.getinfo(name).file_size for name in archive.namelist()}
        about = json.loads(archive.read("metadata.json"))
    assert not [name for name in held if name.startswith("arrays/kernels")]
    assert about["generator"]["makes"] == [f"kernels.{layer}" for layer in range(len(LAYERS))]
    own = sum(size - 128 for name, size in held.items() if name.startswith("generator/"))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(predict.puppeteer, nnx.Param)))
    assert own <= 4 * parameters + 64
    assert sum(math.prod(kernels.shape) for kernels in predict.bank.kernels) > 10 * parameters


def test_the_lines_of_its_readme_run_it_by_jax_alone(file, predict, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    with zipfile.ZipFile(file) as archive:
        readme = archive.read("README.txt").decode()
    lines = re.search(r"Without it.*?\n\n(.*?)\n\n", readme, flags=re.S)[1]
    lines = [line.removeprefix("    ").replace("THIS FILE", str(file)) for line in lines.splitlines()]
    script = ["import numpy as np", "images = np.load('images.npy')", *lines, "np.save('logits.npy', logits)"]
    script += ["import sys; assert not {'flax', 'diffrax', 'puppet_jax'} & set(sys.modules)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | kept_paths()
    subprocess.run([sys.executable, "-c", "\n".join(script)], cwd=tmp_path, env=environment, check=True)
    assert close(np.load(tmp_path / "logits.npy"), predict(images).logits, 1e-5)


class CallsPython(pj.StoredPuppeteer):
    def __call__(self, h):
        return tuple(jax.pure_callback(lambda k: k, kernel, kernel) for kernel in super().__call__(h))


def test_a_puppeteer_that_calls_python_is_refused(tmp_path):
    made = model(lambda shapes: CallsPython(shapes, rngs=nnx.Rngs(1)))
    predict = pj.compile_predict(made, complexities=(4.0, 4.0))
    for platforms in (("cpu",), ("cpu", "cuda")):
        with pytest.raises(ValueError, match='store="kernels"'):
            pj.export(predict, tmp_path / "a", image_shape=SHAPE, platforms=platforms, store="puppeteer")
    assert list(tmp_path.iterdir()) == []


def makes(*names):
    return lambda metadata, contents: metadata["generator"].update(makes=list(names))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry("generator", {"arrays": [], "makes": []}), "'arrays/kernels.0.npy' is missing"),
        (entry("generator", {"arrays": 3, "makes": []}), "damaged"),
        (makes("kernels.0", "kernels.1", "none"), "'arrays/kernels.2.npy' is missing"),
        (makes("kernels.1", "kernels.0", "kernels.2"), "something else"),
        (entry("generator", None), "'arrays/kernels.0.npy' is missing"),
        (lambda metadata, contents: contents.pop("generator.stablehlo"), "'generator.stablehlo' is missing"),
        (part("generator.stablehlo", lambda: program_of(jnp.sin)), "takes or makes something else"),
        (part("generator.stablehlo", lambda: program_of(jnp.linalg.eigvalsh)), "not safe to run"),
        (part("generator/matrices.factor_in.npy", PICKLED), "no array of numbers"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(file, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        pj.load(rewritten(file, tmp_path / "a", change))
