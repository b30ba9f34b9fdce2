"""JAX's own settings, and arrays as callers have them."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small import close, images_of, model_of

import puppet_jax as pj
from puppet_jax._integers import image_shape_of

SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "disable_jit": jax.disable_jit,
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "debug_nans": lambda: jax.debug_nans(True),
    "leaks": jax.checking_leaks,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_answers_under_jaxs_settings(name):
    # Under strict promotion nnx.avg_pool of the foreign one refuses by itself; each operation by itself takes its time.
    for puppet in ("plain",) if name in ("strict promotion", "disable_jit") else ("plain", "foreign"):
        model, images = model_of(puppet), np.asarray(images_of())[:2]
        expected, complexity = model(images), pj.complexity(images)
        with SETTINGS[name]():
            found, measured = model(images), pj.complexity(images)
        assert found.dtype == measured.dtype == jnp.float32
        assert close(found, expected)
        assert close(measured, complexity)


def test_images_on_a_mesh_of_explicit_axes():
    mesh = jax.make_mesh((1,), ("batch",))
    model, images = model_of("plain"), images_of()[:4]
    there = jax.device_put(images, NamedSharding(mesh, PartitionSpec("batch")))
    predict = pj.compile_predict(model)
    for around in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with around:
            assert close(pj.complexity(there), pj.complexity(images))
            assert close(model(there), model(images))
            assert close(jax.jit(lambda x: model(x))(there), model(images))
            assert close(predict(there), predict(images))


@pytest.mark.parametrize("kind", ["plain continuous", "plain ode", "foreign stored"])
def test_a_model_and_its_gradient_within_shard_map(kind, monkeypatch):
    monkeypatch.setattr("puppet_jax._batch._SMALL", 0)
    monkeypatch.setattr("puppet_jax._batch.SLOTS", 2)  # several passes
    mesh, images = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,)), images_of()
    graphdef, parameters, rest = nnx.split(model_of(*kind.split(), bin=None if "ode" in kind else 0.5), nnx.Param, ...)

    def gradients(parameters, images):
        return jax.grad(lambda parameters: jnp.sum(nnx.merge(graphdef, parameters, rest)(images) ** 2))(parameters)

    # With its defaults it types what varies over the devices, and sums the gradients of what does not.
    specs = PartitionSpec(), PartitionSpec("batch")
    inside = jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    assert close(jax.jit(inside)(parameters, images), jax.jit(gradients)(parameters, images))


def test_a_buffer_may_be_filled_again():
    memory = np.empty(4096 + 512 * 128, np.uint8)  # at a page: JAX would not copy it
    buffer = memory[-memory.ctypes.data % 4096 :][: 512 * 128].reshape(512, 8, 8, 2)
    model = model_of("plain")
    predict = pj.compile_predict(model)
    batches = [np.random.default_rng(i).integers(0, 256, buffer.shape, np.uint8) for i in range(4)]
    for answer in (model, lambda images: predict(images).logits, pj.complexity):
        expected, found = [answer(batch.copy()) for batch in batches], []
        for batch in batches:
            buffer[:] = batch
            found.append(answer(buffer))
        assert close(found, expected, 1e-6)


def test_floats_near_one_and_foreign_bytes(tmp_path):
    image = np.linspace(-9e-7, 1.0000009, 128, dtype=np.float32).reshape(8, 8, 2)
    pj.complexity(image)
    with pytest.raises(ValueError, match=r"got values from 0 to 1\.0000\d+;"):
        pj.complexity(np.full((8, 8, 2), 1.00001, np.float32) * np.eye(8, dtype=np.float32)[:, :, None])
    model = model_of("plain")
    pj.export(pj.compile_predict(model), tmp_path / "m", image_shape=(8, 8, 2), dtype="float32", platforms=("cpu",))
    loaded = pj.load(tmp_path / "m")
    for call in (model, pj.complexity, loaded):
        assert close(call(image.astype(">f4")), call(image), 1e-6)


@pytest.mark.usefixtures("no_type_checker")
def test_integers_of_numpy_are_integers():
    two, four = np.int64(2), np.int64(4)
    spec = pj.LayerSpec(four, stride=two, pool=two)
    assert repr((spec, pj.Measure(depth=two))) == repr((pj.LayerSpec(4, stride=2, pool=2), pj.Measure(depth=2)))
    made = pj.PlainPuppet((spec,), in_channels=two, num_classes=four, rngs=nnx.Rngs(0))
    shapes = np.array(made.kernel_shapes)
    kernels = pj.ContinuousPuppeteer(shapes, basis=four, hidden=four, rngs=nnx.Rngs(0))(3.0)
    assert close(made(images_of()[0] / 255, kernels, two // 2), made(images_of()[0] / 255, kernels, 1))
    assert repr(image_shape_of(np.array([8, 8, 2]), "")) == "(8, 8, 2)"
    for width, words in ((4.0, r"must be an integer, got 4\.0"), (0, "must be at least 1, got 0")):
        with pytest.raises(ValueError, match=f"LayerSpec: width {words}"):
            pj.LayerSpec(width)
