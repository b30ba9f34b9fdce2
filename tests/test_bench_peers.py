"""The peers of the benchmark compute what the library computes, from the same weights."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from bench import case
from bench.peers import scan_jax, static_jax, vmap_jax, weights

LAYERS = (
    pj.LayerSpec(8, stride=2),
    pj.LayerSpec(8, pool=2),
    pj.LayerSpec(12, kernel_size=2, pool=2, pool_kind="average"),
    pj.LayerSpec(12),
)


def make_model(puppeteer, **options):
    puppet = pj.PlainPuppet(LAYERS, in_channels=3, num_classes=5, rngs=nnx.Rngs(1))
    model = pj.PuppetCNN(puppeteer(puppet.kernel_shapes, **options, rngs=nnx.Rngs(0)), puppet)
    normal = np.random.default_rng(2).standard_normal
    shaken = jax.tree.map(lambda x: x + 0.1 * normal(x.shape).astype(np.float32), nnx.state(model, nnx.Param))
    nnx.update(model, shaken)
    return model


def make_images(rng, n=6):
    """Images of different complexities, so that the batch has several depths, one of them twice."""
    levels = np.array([3.0, 40.0, 255.0, 1.0, 255.0, 12.0])[:n, None, None, None]
    return np.rint(levels * rng.random((n, 32, 32, 3))).astype(np.uint8)


def relative(result, expected) -> float:
    return float(np.max(np.abs(result - expected)) / np.max(np.abs(expected)))


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="torch is not installed (it is in the bench extra)")
    module.set_num_threads(1)
    return module


def torch_images(torch, images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


VARIANTS = (
    {},
    {"standardise": False, "initial": "constant"},
    {"initial": "full", "activation": "relu"},
)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_pytorch_conventional_puppet_gives_our_logits(torch, rng, options):
    from bench.peers.conventional_torch import ConventionalPuppet, Options

    model, images = make_model(pj.OdePuppeteer, **options), make_images(rng)
    expected = np.asarray(model(images))
    depths = np.asarray(model.measure(images)[1])
    assert len(set(depths.tolist())) >= 3
    config, arrays = weights.export(model)
    inputs = torch_images(torch, images)
    for chosen in (Options(), Options(False, "matmul", "channels_last"), Options(True, "matmul", "channels_last")):
        peer = ConventionalPuppet(config, arrays, chosen)
        with torch.inference_mode():
            assert relative(peer(inputs).numpy(), expected) < 1e-4
            assert relative(peer.one_by_one(inputs).numpy(), expected) < 1e-4
            h = torch.from_numpy(np.array(model.measure(images)[0]))
            assert relative(peer(inputs, h).numpy(), expected) < 1e-4


def test_pytorch_conventional_puppet_generates_our_kernels(torch, rng):
    from bench.peers.conventional_torch import ConventionalPuppet

    model = make_model(pj.OdePuppeteer)
    h = np.array([3.4, 2.2, 6.8], np.float32)
    with torch.inference_mode():
        generated = ConventionalPuppet(*weights.export(model)).generate(torch.from_numpy(h))
    expected = jax.vmap(model.puppeteer)(h[[2, 0, 1]])
    assert [len(kernels) for kernels in generated] == [3, 3, 2, 1]
    for kernels, ours in zip(generated, expected, strict=False):
        assert relative(kernels.numpy(), np.asarray(ours)[: len(kernels)]) < 1e-4


def test_pytorch_complexity_and_schedule_are_ours(torch, rng):
    from bench.peers import complexity_torch

    images = np.concatenate(
        [make_images(rng), np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32, 3), 7, np.uint8)]
    )
    h = complexity_torch.complexity(torch_images(torch, images))
    np.testing.assert_allclose(h.numpy(), pj.complexity(images), atol=2e-3)
    h = np.array([0.0, 0.01, 0.3, 1.0, 4.4, 6.6, 8.0], np.float32)
    given = torch.from_numpy(h)
    np.testing.assert_allclose(complexity_torch.step_size(given), pj.step_size(h), rtol=1e-6)
    np.testing.assert_allclose(complexity_torch.initial_value(given), pj.initial_value(h), rtol=1e-5)
    np.testing.assert_array_equal(complexity_torch.depth(given, 7), pj.depth(h, 7))


def test_pytorch_gradient_is_ours(torch, rng):
    from bench.peers.conventional_torch import ConventionalPuppet, Options

    model, images = make_model(pj.OdePuppeteer), make_images(rng)
    expected = nnx.jit(nnx.grad(lambda model: (model(images) ** 2).mean()))(model)
    for chosen in (Options(), Options(True, "matmul", "channels_last")):
        peer = ConventionalPuppet(*weights.export(model), chosen)
        (peer(torch_images(torch, images)) ** 2).mean().backward()
        ours = expected["puppeteer"]
        assert relative(peer.pointwise.grad[:, :, 0, 0].numpy(), np.asarray(ours["pointwise"][...])) < 1e-3
        assert relative(peer.initial_in.grad.numpy(), np.asarray(ours["initial_in"][...])) < 1e-3
        assert relative(peer.head.grad.T.numpy(), np.asarray(expected["puppet"]["head"][...])) < 1e-3


def static_logits(model, images):
    @nnx.jit
    def run(model, images):
        kernels = model.puppeteer(0.0)
        return jax.vmap(lambda image: model.puppet(image, kernels, model.max_depth))(images)

    return run(model, images / np.float32(255.0))


@pytest.mark.parametrize("standardise", [True, False])
def test_static_peers_give_the_puppets_logits_at_full_depth(rng, standardise):
    model, images = make_model(pj.StoredPuppeteer, standardise=standardise), make_images(rng)
    expected = np.asarray(static_logits(model, images))
    config, arrays = weights.export(model)
    for baked in (True, False):
        params = static_jax.parameters(config, arrays, baked=baked)
        forward = jax.jit(functools.partial(static_jax.forward, config=config, baked=baked))
        assert relative(np.asarray(forward(params, images)), expected) < 1e-4


@pytest.mark.parametrize("channels_last", [True, False])
def test_pytorch_static_puppet_gives_the_puppets_logits_at_full_depth(torch, rng, channels_last):
    from bench.peers.static_torch import StaticPuppet

    model, images = make_model(pj.StoredPuppeteer), make_images(rng)
    expected = np.asarray(static_logits(model, images))
    for baked in (True, False):
        peer = StaticPuppet(*weights.export(model), baked=baked, channels_last=channels_last)
        with torch.inference_mode():
            assert relative(peer(torch_images(torch, images)).numpy(), expected) < 1e-4


def test_plain_vmap_gives_our_logits(rng):
    model, images = make_model(pj.OdePuppeteer), make_images(rng)
    config, _ = weights.export(model)
    run = nnx.jit(lambda model, images: vmap_jax.forward(model, images, config))
    assert relative(np.asarray(run(model, images)), np.asarray(model(images))) < 1e-4


def test_hand_written_scan_gives_diffraxs_trajectory():
    puppeteer = make_model(pj.OdePuppeteer).puppeteer
    expected = np.asarray(puppeteer.trajectory(5.5))
    assert relative(np.asarray(scan_jax.trajectory(puppeteer, 5.5)), expected) < 1e-5


def test_export_refuses_what_the_peers_cannot_integrate():
    with pytest.raises(ValueError, match="one step a layer"):
        weights.export(make_model(pj.OdePuppeteer, steps_per_layer=2))


def test_a_case_is_read_as_it_was_written(tmp_path):
    size = case.Size(2, 8, 16, layers=2)
    case.prepare(tmp_path, size, answers=True)
    loaded = case.load(tmp_path, size)
    model = case.make_model(size)
    np.testing.assert_array_equal(loaded.arrays["depth"], model.measure(loaded.arrays["images"])[1])
    assert relative(loaded.arrays["logits"], np.asarray(model(loaded.arrays["images"]))) < 1e-5
    assert loaded.config["kernel_shapes"] == [[8, 3, 3, 3], [8, 8, 3, 3]]
    assert loaded.weights()["depthwise"].shape == (8, 3, 3)
