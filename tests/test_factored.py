"""Kernels as sums of products of factors: their convolution, and continuous kernels that are never formed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import close, drawn
from test_convolution import CASES, EVERY_LOWERING, depthwise, numpy_case

import puppet_jax as pj
from puppet_jax._batch import logits_of_batch, make_bank
from puppet_jax.convolution import Choice, FactoredBank, convolve, whole
from puppet_jax.puppeteers import _factors
from puppet_jax.puppeteers._grouped import GroupedPuppeteer
from puppet_jax.puppeteers._kernels import EPSILON, standardise


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_value_and_gradients_are_those_of_the_whole_kernels(case, lowering):
    index, sets, _, c_in, c_out, k, stride, padding = case
    (x, index, _), g, _ = numpy_case(case)
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.float32(rng.standard_normal(shape))  # noqa: E731
    bank = FactoredBank(draw(sets, *k, 19), draw(sets, 19, c_out), draw(c_in, 19))

    def run(bank_of, lowering):
        one = functools.partial(convolve, stride=stride, padding=padding, lowering=lowering)
        batch = lambda x, bank: jax.vmap(one, (0, Choice(0, None)))(x, Choice(index, bank_of(bank)))  # noqa: E731
        y, back = jax.vjp(batch, x, bank)
        return y, *jax.tree.leaves(back(g))

    expected = jax.jit(lambda: run(FactoredBank.whole, "gathered"))()
    assert close(jax.jit(lambda: run(lambda bank: bank, lowering))(), expected, 2e-4)


def test_an_index_beyond_the_bank_gives_no_garbage():
    x, taps = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 3, 3, 3))
    for lowering in (each for each in ("native", "gathered") if each != "native" or pj.convolution.native.available()):
        run = jax.jit(lambda index, lowering=lowering: jax.vmap(lambda x, i: depthwise(x, i, taps, lowering))(x, index))
        if lowering == "native":
            with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="is no kernel of a bank of 2"):
                jax.block_until_ready(run(jnp.array([0, 2])))
        else:
            assert close(run(jnp.array([0, 2])), run(jnp.array([0, 1])), 1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(platform):
    def gradients(x, index, *parts):
        bank = FactoredBank(*parts)
        run = lambda x, bank: jax.vmap(convolve, (0, Choice(0, None)))(x, Choice(index, bank))  # noqa: E731
        return jax.grad(lambda x, bank: jnp.sum(run(x, bank) ** 2), (0, 1))(x, bank)

    parts = jnp.zeros((2, 3, 3, 8)), jnp.zeros((2, 8, 6)), jnp.zeros((5, 8))
    traced = jax.jit(gradients).trace(jnp.zeros((4, 7, 7, 5)), jnp.zeros(4, jnp.int32), *parts)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    native = platform == "cpu" and pj.convolution.native.available()
    assert ("puppet_jax_depthwise_kernel_gradient" in text) == native
    assert native or "stablehlo.dot_general" in text
    with pytest.raises(ValueError, match="lowering must be None or one of"):
        convolve(jnp.zeros((4, 4, 5)), Choice(jnp.int32(0), FactoredBank(*parts)), lowering="fast")
    with pytest.raises(ValueError, match=r"takes one image \(H, W, 5\)"):
        convolve(jnp.zeros((4, 4, 6)), Choice(jnp.int32(0), FactoredBank(*parts)))


def test_bfloat16_keeps_its_type():
    draw = lambda *shape: jax.random.normal(jax.random.key(len(shape)), shape)  # noqa: E731
    bank, x = FactoredBank(draw(2, 3, 3, 8), draw(2, 8, 6), draw(5, 8)), draw(7, 7, 5)
    exact = convolve(x, Choice(jnp.int32(1), bank.whole()))
    found = convolve(x.astype(jnp.bfloat16), Choice(jnp.int32(1), bank.astype(jnp.bfloat16)))
    assert found.dtype == jnp.bfloat16
    assert close(found.astype(jnp.float32), exact, 0.03)


def test_parts_of_banks():
    bank = FactoredBank(jnp.arange(5.0).reshape(5, 1, 1, 1), jnp.ones((5, 1, 2)), jnp.ones((3, 1)))
    assert len(bank) == 5
    assert close(bank[3:].whole(), bank.whole()[3:], 0)


WIDE = [(24, 3, 3, 3), (24, 24, 3, 3), (20, 24, 5, 5), (20, 20, 1, 1)]  # the third is averaged from the widest


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(
    ("rank", "basis", "factored"), [(2, 8, (False, True, True, False)), (1, 4, (True,) * 4), (None, 3, (False,) * 4)]
)
def test_a_banks_factors_make_the_kernels(rank, basis, factored, standardise):
    options = {"rank": rank, "basis": basis, "hidden": 6, "standardise": standardise}
    puppeteer = drawn(lambda: pj.ContinuousPuppeteer(WIDE, **options, rngs=nnx.Rngs(params=3)))
    complexities = jnp.array([3.0, 6.0])
    bank = jax.jit(lambda h: make_bank(puppeteer, h).kernels)(complexities)
    kernels = jax.jit(jax.vmap(puppeteer))(complexities)
    assert tuple(isinstance(each, FactoredBank) for each in bank) == factored
    assert close(whole(bank), tuple(jnp.transpose(kernel, (0, 3, 4, 2, 1)) for kernel in kernels), 1e-3)


@pytest.mark.parametrize(
    ("make", "options", "bin_"),
    [
        (pj.ContinuousPuppeteer, {"basis": 8}, 0.25),
        (pj.ContinuousPuppeteer, {"basis": 8}, None),
        (GroupedPuppeteer, {"compression": 25}, 0.25),
    ],
)
def test_a_model_is_the_same_with_factors_and_without(make, options, bin_, monkeypatch):
    layers = (pj.LayerSpec(24, pool=2), pj.LayerSpec(24), pj.LayerSpec(24))
    puppet = pj.PlainPuppet(layers, in_channels=3, num_classes=4, rngs=nnx.Rngs(0))
    model = pj.PuppetCNN(make(puppet.kernel_shapes, **options, rngs=nnx.Rngs(1)), puppet, pj.Measure(bin=bin_))
    images = jax.random.uniform(jax.random.key(0), (5, 16, 16, 3)) ** jnp.arange(1, 6).reshape(-1, 1, 1, 1)
    measured = model.measure(images)
    graphdef, params = nnx.split(model)

    def run(params):
        made = nnx.merge(graphdef, params)
        return jnp.sum(jnp.sin(logits_of_batch(made.puppet.batch, made.puppeteer, made.measurement, images, *measured)))

    found = jax.jit(lambda params: jax.value_and_grad(run)(params))(params)
    assert any(isinstance(each, FactoredBank) for each in make_bank(model.puppeteer, measured[0]).kernels)
    monkeypatch.setattr(pj.ContinuousPuppeteer, "_pays", lambda self, shape: False)
    expected = jax.jit(lambda params: jax.value_and_grad(run)(params))(params)
    assert close(jax.tree.leaves(found), jax.tree.leaves(expected), 2e-3)


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
@pytest.mark.parametrize("shape", [(3, 9, 7, 5, 6), (2, 1, 19, 40, 33)])
def test_standardised_factors_and_their_gradients_are_those_of_the_formed_kernels(shape, lowering):
    (s, t, r, i, o), rng = shape, np.random.default_rng(0)
    index = jnp.asarray([0] * (s - 1) + [-1])
    taps, ins, outs = (jnp.float32(0.3 + rng.standard_normal(each)) for each in ((s, t, r), (i, r), (r, o)))
    weights = jnp.float32(rng.standard_normal((s, t, i, o))) * (index >= 0)[:, None, None, None]

    def by_factors(taps, ins, outs):
        (made,) = _factors.factors_p.bind(taps, index, ins, outs, epsilon=EPSILON, lowering=lowering)
        one = functools.partial(jnp.pad, constant_values=1)
        return jnp.einsum("ir,str,sro->stio", one(ins, ((0, 0), (0, 1))), one(taps, ((0, 0), (0, 0), (0, 1))), made)

    def formed(taps, ins, outs):
        kernels = jnp.einsum("ir,str,ro->soit", ins, taps, outs)[..., None]
        return jnp.transpose(jax.vmap(standardise)(kernels)[..., 0], (0, 3, 2, 1))

    def answers(function):
        loss = lambda *factors: jnp.sum(weights * function(*factors))  # noqa: E731
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(taps, ins, outs)
        along = jax.jvp(loss, (taps, ins, outs), (taps, ins[::-1], outs[::-1]))[1]
        each = jax.vmap(jax.grad(loss), (None, None, 0))(taps, ins, jnp.stack([outs, 2 * outs]))
        return function(taps, ins, outs)[:-1], value, gradients, along, each

    for found, expected in zip(*(jax.tree.leaves(answers(f)) for f in (by_factors, formed)), strict=True):
        assert close(found, expected, 1e-3)  # of sums that nearly cancel, too
