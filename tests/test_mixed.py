import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from puppet_jax.puppets import Mixture, native
from puppet_jax.puppets.convolution import convolve
from puppet_jax.puppets.primitives import LOWERINGS, default_lowering

needs_native = pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")
EVERY_LOWERING = [
    pytest.param(name, marks=needs_native) if name.startswith("native") else name for name in sorted(LOWERINGS)
]

# batch, nodes, image, channels in and out, kernel, stride, padding
CASES = [
    (1, 1, (5, 5), 3, 4, (3, 3), 1, "SAME"),
    (2, 3, (8, 6), 2, 3, (3, 3), 1, "VALID"),
    (3, 2, (7, 9), 3, 2, (5, 3), 2, "SAME"),
    (17, 4, (4, 4), 2, 5, (3, 3), 1, "SAME"),
    (3, 5, (6, 5), 5, 37, (3, 3), 1, "SAME"),  # channels that fill no whole number of vectors
    (17, 2, (6, 5), 1, 1, (1, 1), 1, "SAME"),
    (2, 2, (3, 3), 2, 2, (5, 5), 1, "SAME"),  # larger than the map
    (2, 2, (9, 9), 2, 2, (3, 3), 4, "VALID"),  # pixels that no tap sees
    (3, 3, (4, 4), 70, 80, (3, 3), 1, "SAME"),
    (2, 2, (3, 3), 400, 130, (3, 3), 1, "SAME"),  # a kernel row that is formed in parts
]


def formed(image, kernel, **options):
    """The same by a kernel that is formed and convolved by JAX."""
    options.pop("lowering", None)
    whole = jnp.einsum("m,mhwio->hwio", *kernel, precision="highest")
    strides = (options.pop("stride", 1),) * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        image[None], whole, strides, options.pop("padding", "SAME"), dimension_numbers=layout
    )[0]


def assert_close(found, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.float64(a), np.float64(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max() < tolerance * (np.abs(b).max() + 1e-6)


def draw(rng, case):
    b, nodes, size, c_in, c_out, k, *_ = case
    shapes = (b, *size, c_in), (b, nodes), (nodes, *k, c_in, c_out)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def everything(f, case, lowering, x, w, table, g):
    """What is computed of a layer in all the ways that its callers compute it."""
    *_, stride, padding = case
    one = lambda x, w, t: f(x, Mixture(w, t), stride=stride, padding=padding, lowering=lowering)  # noqa: E731
    v, shared = jax.vmap, jax.vmap(one, (0, 0, None))
    loss = lambda x, w, t: jnp.sum(shared(x, w, t) * g)  # noqa: E731
    of_one = lambda x, w, t, g: jnp.sum(one(x, w, t) * g)  # noqa: E731
    return {
        "value": shared(x, w, table),
        "one": one(x[0], w[0], table),
        "shared image": v(one, (None, 0, None))(x[0], w, table),
        "shared weights": v(one, (0, None, None))(x, w[0], table),
        "own tables": v(one)(x, w, jnp.stack([table] * len(x))),
        "grad of vmap": jax.grad(loss, (0, 1, 2))(x, w, table),
        "vmap of grad": v(jax.grad(of_one, (0, 1, 2)), (0, 0, None, 0))(x, w, table, g),
    }


@functools.cache  # one for all lowerings
def formed_everything(case):
    """Arguments, NumPy's convolution of them, and everything by formed kernels."""
    *_, stride, padding = case
    rng = np.random.default_rng(0)
    x, w, table = draw(rng, case)
    kernels = np.einsum("gm,mhwio->goihw", np.float64(w), np.float64(table))
    expected = np.stack(
        [reference.convolve(np.float64(i), k, stride, padding) for i, k in zip(x, kernels, strict=True)]
    )
    arguments = x, w, table, jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    return arguments, expected, jax.jit(functools.partial(everything, formed, case, None))(*arguments)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_every_lowering_against_numpy_and_formed_kernels(case, lowering):
    arguments, expected, wanted = formed_everything(case)
    found = jax.jit(functools.partial(everything, convolve, case, lowering))(*arguments)
    assert_close(found["value"], expected)
    for name in wanted:
        assert_close(found[name], wanted[name], 4e-5)


TRANSFORMS = {
    "forward": lambda h: jax.jacfwd(h, (0, 1, 2)),
    "hessian": lambda h: jax.hessian(h, (1, 2)),
    "reverse twice": lambda h: jax.grad(lambda *a: jnp.sum(jax.grad(h, 2)(*a) ** 2), (0, 1, 2)),
    "reverse thrice": lambda h: jax.grad(
        lambda *a: jnp.sum(jax.grad(lambda *b: jnp.sum(jax.grad(h, 2)(*b) ** 2), 0)(*a) ** 2), (0, 1, 2)
    ),
    "checkpoint": lambda h: jax.grad(jax.checkpoint(h), (0, 1, 2)),
}


def derivatives(f, lowering, x, w, table):
    """Each transform of a net of two layers, in one program."""
    layer = jax.vmap(lambda x, w, t: f(x, Mixture(w, t), lowering=lowering), (0, 0, None))
    net = lambda x, w, t: jnp.sum(jnp.tanh(layer(jnp.tanh(layer(x, w, t)), w * w, t)) ** 2)  # noqa: E731
    return {name: transform(net)(x, w, table) for name, transform in TRANSFORMS.items()}


@functools.cache  # one for all lowerings
def formed_derivatives():
    arguments = draw(np.random.default_rng(0), (2, 2, (3, 3), 2, 2, (3, 3)))
    return arguments, jax.jit(functools.partial(derivatives, formed, None))(*arguments)


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_forward_mode_and_second_derivatives(lowering):
    arguments, wanted = formed_derivatives()
    found = jax.jit(functools.partial(derivatives, convolve, lowering))(*arguments)
    for name in TRANSFORMS:
        assert_close(found[name], wanted[name], 2e-4)


def test_gradient_against_finite_differences(rng):
    x, w, table = (rng.standard_normal(shape) for shape in ((2, 5, 6, 2), (2, 3), (3, 3, 3, 2, 3)))
    seen = rng.standard_normal((2, 3, 3, 3))

    def loss(x, w, table):
        kernels = np.einsum("gm,mhwio->goihw", w, table)
        return sum((g * reference.convolve(i, k, 2)).sum() for g, i, k in zip(seen, x, kernels, strict=True))

    def ours(x, w, table):
        layer = jax.vmap(lambda x, w, t: convolve(x, Mixture(w, t), stride=2), (0, 0, None))
        return jnp.sum(seen * layer(x, w, table))

    arguments = [x, w, table]
    found = jax.grad(ours, (0, 1, 2))(*map(jnp.float32, arguments))
    for number, array in enumerate(arguments):
        for flat in (0, array.size // 2, array.size - 1):
            step = np.zeros_like(array)
            index = np.unravel_index(flat, array.shape)
            step[index] = 1e-4
            ends = [loss(*arguments[:number], array + s * step, *arguments[number + 1 :]) for s in (1, -1)]
            assert float(found[number][index]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_images_of_zero_weights_are_zero_and_left_out(rng, lowering):
    x, w, table = draw(rng, (7, 3, (6, 6), 4, 20, (3, 3)))
    w = w.at[jnp.array([0, 3, 6])].set(0.0)
    layer = jax.vmap(lambda x, w, t: convolve(x, Mixture(w, t), lowering=lowering), (0, 0, None))
    loss = lambda x, w, t: jnp.sum(layer(x, w, t) ** 2)  # noqa: E731
    y, (dx, dt) = layer(x, w, table), jax.grad(loss, (0, 2))(x, w, table)
    gone, left = np.array([0, 3, 6]), np.array([1, 2, 4, 5])
    assert not np.asarray(y)[gone].any()
    assert not np.asarray(dx)[gone].any()
    np.testing.assert_array_equal(y[left], layer(x[left], w[left], table))
    for a, b in zip((dx[left], dt), jax.grad(loss, (0, 2))(x[left], w[left], table), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert not np.asarray(layer(x, 0 * w, table)).any()
    assert not np.asarray(jax.grad(loss, 2)(x, 0 * w, table)).any()


@needs_native
def test_native_numbers_of_an_image_do_not_depend_on_the_batch(rng):
    x, w, table = draw(rng, (5, 4, (7, 9), 6, 70, (3, 3)))
    layer = jax.jit(jax.vmap(lambda x, w, t: convolve(x, Mixture(w, t), lowering="native"), (0, 0, None)))
    together = np.asarray(layer(x, w, table))
    for i in range(5):  # other teams, cut into other pieces over the threads
        np.testing.assert_array_equal(layer(x[i : i + 1], w[i : i + 1], table)[0], together[i])
        np.testing.assert_array_equal(layer(x[i:], w[i:], table), together[i:])


def test_bfloat16_kernels_are_formed_in_float32_and_rounded_once(rng):
    x, w, table = draw(rng, (1, 4, (6, 6), 32, 8, (3, 3)))
    kernel = Mixture(w[0], table).astype(jnp.bfloat16)
    assert kernel.dtype == jnp.bfloat16
    exact = np.einsum("m,mhwio->oihw", np.float64(w[0]), np.float64(table))
    np.testing.assert_allclose(np.float64(kernel), exact, rtol=2.0**-8, atol=1e-6)
    assert Mixture(w[0], table).astype(jnp.float32).table is table
    assert convolve(x[0].astype(jnp.bfloat16), kernel).dtype == jnp.bfloat16


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(platform):
    def gradients(x, w, table):
        layer = jax.vmap(lambda x, w, t: convolve(x, Mixture(w, t)), (0, 0, None))
        return jax.grad(lambda *a: jnp.sum(layer(*a) ** 2), (0, 2))(x, w, table)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 5, 5, 3), (2, 4), (4, 3, 3, 3, 6))]
    text = jax.jit(gradients).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert ("puppet_jax_mixed_gradient" in text) == (default_lowering(platform) == "native")
    assert ("HIGHEST" in text) == (default_lowering(platform) != "native")  # no TF32 in a kernel


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("shapes", [((2, 3), (3, 3, 3, 2, 4)), ((2,), (3, 3, 3, 2, 4)), ((3,), (3, 3, 2, 4))])
def test_weights_and_tables_that_do_not_go_together_are_refused(shapes):
    with pytest.raises(ValueError, match="Mixture: takes weights"):
        convolve(jnp.zeros((5, 5, 2)), Mixture(*map(jnp.zeros, shapes)))
