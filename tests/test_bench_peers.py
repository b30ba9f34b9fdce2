"""The peers of the benchmark compute what the library computes, from the same weights."""

import jax
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from bench import case
from bench.case import relative_error as relative
from bench.peers import weights

SIZE = case.Size(6, 12, 16, layers=4)


@pytest.fixture
def images(rng):
    """Images of different complexities, so that the batch has several depths, one of them twice."""
    levels = np.array([3.0, 40.0, 255.0, 1.0, 255.0, 12.0])[:, None, None, None]
    return np.rint(levels * rng.random((6, 32, 32, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="torch is not installed (it is in the bench extra)")
    module.set_num_threads(1)
    return module


def torch_images(torch, images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_pytorch_conventional_puppet_gives_our_logits_kernels_and_gradient(torch, images):
    from bench.peers.conventional_torch import ConventionalPuppet

    model = case.make_model(SIZE)
    assert len(set(np.asarray(pj.depth(pj.complexity(images), 4)).tolist())) >= 3
    expected = np.asarray(nnx.jit(lambda model, images: model(images))(model, images))
    gradient = nnx.jit(nnx.grad(lambda model: (model(images) ** 2).mean()))(model)
    ours = {name: np.asarray(gradient["puppeteer"][name][...]) for name in ("pointwise", "initial_in")}
    exported, inputs = weights.export(model), torch_images(torch, images)
    for chosen in ("grouped", "matmul"):
        peer = ConventionalPuppet(*exported, chosen)
        with torch.inference_mode():
            assert relative(peer(inputs), expected) < 1e-4
            assert relative(peer.one_by_one(inputs), expected) < 1e-4
        (peer(inputs) ** 2).mean().backward()
        assert relative(peer.pointwise.grad[:, :, 0, 0], ours["pointwise"]) < 1e-3
        assert relative(peer.initial_in.grad, ours["initial_in"]) < 1e-3
        assert relative(peer.head.grad.T, np.asarray(gradient["puppet"]["head"][...])) < 1e-3
    h = np.array([3.4, 2.2, 6.8], np.float32)
    with torch.inference_mode():
        generated = ConventionalPuppet(*exported).generate(torch.from_numpy(h))
    assert [len(kernels) for kernels in generated] == [3, 3, 2, 1]
    for kernels, of_ours in zip(generated, jax.vmap(model.puppeteer)(h[[2, 0, 1]]), strict=False):
        assert relative(kernels, np.asarray(of_ours)[: len(kernels)]) < 1e-4
