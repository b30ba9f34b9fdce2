"""A layer as one program, against its parts; and what is differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from puppet_jax.convolution import Choice, convolve, layer, native
from puppet_jax.convolution._primitives import group_norm

# batch, image, channels in and out, kernel, stride, groups
CASES = [
    (1, (9, 7), 3, 8, 3, 1, 4),
    (12, (6, 5), 8, 8, 3, 1, 8),
    (5, (8, 8), 4, 37, 5, 2, 8),
    (2, (4, 4), 20, 20, 1, 1, 8),
]


def by_parts(x, kernel, scale, shift, *, groups, dtype, stride=1, relu=True, residual=False, lowering=None):
    y = convolve(x, kernel.astype(dtype), stride=stride, lowering=lowering)
    y = group_norm(y, int(np.gcd(len(scale), groups)), scale, shift)
    y = jax.nn.relu(y) if relu else y
    y = y + x if residual and y.shape == x.shape else y
    return y, jnp.mean(y, axis=(0, 1), dtype=jnp.float32)


def draw(rng, case):
    b, size, c_in, c_out, k, _, _ = case
    shapes = (b, *size, c_in), (3, k, k, c_in, c_out), (c_out,), (c_out,)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def batch(function, case, x, bank, scale, shift, index, **options):
    one = functools.partial(function, groups=case[6], stride=case[5], dtype=x.dtype, **options)
    run = jax.vmap(lambda x, i: one(x, Choice(i, bank), scale, shift))
    return run(x, index)


def with_and_without(function, case, lowering):
    """The layer with ReLU and residual, and without either; and their gradients, an image's at a time and together."""
    operands, index = draw(np.random.default_rng(0), case), jnp.asarray(np.arange(case[0]) % 3)
    of = lambda o, yes, i=index: batch(function, case, *o, i, relu=yes, residual=yes, lowering=lowering)  # noqa: E731
    cubes = lambda yes: lambda *o: sum(jnp.mean(each**3) for each in of(o, yes))  # noqa: E731

    def of_each(x, bank, scale, shift):  # no image's gradient is added to another's
        one = lambda x, i: jax.grad(  # noqa: E731
            lambda scale, shift: sum(jnp.mean(y**3) for y in of((x[None], bank, scale, shift), True, i[None])), (0, 1)
        )(scale, shift)
        return jax.vmap(one)(x, index)

    run = lambda *o: (  # noqa: E731
        *((of(o, yes), jax.grad(cubes(yes), (0, 1, 2, 3))(*o)) for yes in (True, False)),
        of_each(*o),
    )
    return jax.jit(run)(*operands)


expected = functools.cache(lambda case: with_and_without(by_parts, case, "gathered"))  # one for all lanes


@pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lanes", ["native", "native_8", "native_4"])
def test_the_cpu_program_is_its_parts(case, lanes):
    for a, b in zip(*map(jax.tree.leaves, (with_and_without(layer, case, lanes), expected(case))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1, float(jnp.abs(b).max())))


@pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", native.LANES)
def test_bfloat16_maps_are_rounded_once(case, lowering):
    rng = np.random.default_rng(0)
    x, bank, *norm = (each.astype(jnp.bfloat16).astype(jnp.float32) for each in draw(rng, case))
    index = jnp.asarray(np.arange(case[0]) % 3)
    run = lambda function, x, lowering: jax.jit(  # noqa: E731
        functools.partial(batch, function, case, residual=True, lowering=lowering)
    )(x, bank, *norm, index)
    (y, mean), expected = run(layer, x.astype(jnp.bfloat16), lowering), run(by_parts, x, "gathered")
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), expected[0], rtol=2.0**-8, atol=1e-5 * np.abs(expected[0]).max())
    np.testing.assert_allclose(mean, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", [None, "gathered"])
def test_kernels_get_gradients_of_their_own_type(lowering, rng):
    case = CASES[3]
    x, *others = draw(rng, case)
    options = {"lowering": lowering, "index": jnp.asarray([2, 0])}
    loss = lambda bank, x: jnp.sum(batch(layer, case, x, bank, *others[1:], **options)[1] ** 2)  # noqa: E731
    of = lambda x: jax.grad(loss)(others[0], x)  # noqa: E731
    found, expected = of(x.astype(jnp.bfloat16)), of(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.03 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("lowering", ["gathered", "native", "native_4"])
def test_normalisation_is_its_definition_where_there_is_little_to_normalise(lowering, rng):
    if lowering != "gathered" and not native.available():
        pytest.skip("the package was installed without a C++ compiler")
    x = 0.5 + 3e-3 * rng.standard_normal((5, 4, 8))  # a variance near what is added to it
    scale, shift = rng.standard_normal((2, 8))
    options = {"groups": 4, "dtype": jnp.float32, "relu": False, "lowering": lowering}
    found, mean = layer(
        *(jnp.asarray(each, jnp.float32) for each in (x, np.eye(8)[..., None, None], scale, shift)), **options
    )
    groups = x.reshape(20, 4, 2).transpose(1, 0, 2).reshape(4, 40)
    expected = (x - np.repeat(groups.mean(1), 2)) / np.sqrt(np.repeat(groups.var(1), 2) + 1e-5) * scale + shift
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(mean, expected.mean((0, 1)), atol=1e-3)


def test_an_image_without_a_kernel_is_zeros_and_does_not_disturb_the_others(rng):
    case = CASES[1]
    operands, index = draw(rng, case), jnp.asarray(np.arange(12) % 3)
    run = jax.jit(lambda index: batch(layer, case, *operands, index, residual=True))
    some = jnp.where(jnp.arange(12) % 2 == 0, index, -1)
    for a, b in zip(run(some), run(index), strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])
        assert np.isfinite(a).all()
    if native.available():
        with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="is no kernel of a bank of 3"):
            jax.block_until_ready(run(index.at[4].set(3)))


def test_derivatives_are_those_of_the_parts(rng):
    case = (3, (4, 4), 4, 4, 3, 1, 2)
    operands, index = draw(rng, case), jnp.asarray([0, 2, -1])

    def everything(function, x, bank, scale, shift):
        def loss(*a):
            y, mean = batch(function, case, *a, index, residual=True)
            return jnp.sum(jnp.where((index >= 0)[:, None, None, None], y, 0.0) ** 3) + jnp.sum(mean[:2] ** 2)

        gradient = jax.grad(loss, (0, 1, 2, 3))
        of_one = jax.grad(lambda s: loss(x, bank, s, shift))  # nothing else moves
        second = jax.jvp(gradient, (x, bank, scale, shift), (x, bank, scale, shift))[1]
        return gradient(x, bank, scale, shift), of_one(scale), second

    found, wanted = (jax.jit(functools.partial(everything, f))(*operands) for f in (layer, by_parts))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(b).max()) + 1e-6)


def test_ensembles(rng):
    case = (2, (4, 4), 4, 4, 3, 1, 2)
    x, bank, scale, shift = draw(rng, case)
    index = jnp.asarray([0, 2])
    scales = jnp.stack([scale, -scale])
    of = lambda f: jax.vmap(lambda s: batch(f, case, x, bank, s, shift, index)[0])(scales)  # noqa: E731
    np.testing.assert_allclose(of(layer), of(by_parts), rtol=1e-4, atol=1e-5)


def test_a_nan_is_not_hidden_by_the_activation():
    x = jnp.full((2, 4, 4, 3), jnp.nan)
    y, mean = batch(
        layer, (2, (4, 4), 3, 4, 3, 1, 2), x, jnp.ones((3, 3, 3, 3, 4)), jnp.ones(4), jnp.ones(4), jnp.zeros(2, int)
    )
    assert np.isnan(y).all()
    assert np.isnan(mean).all()
