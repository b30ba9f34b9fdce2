"""Every lowering of the convolution with chosen kernels, against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from small import close

from puppet_jax.convolution import Choice, convolve, native
from puppet_jax.convolution._lowerings import LOWERINGS, Geometry, default_lowering
from puppet_jax.convolution._primitives import depthwise_p

needs_native = pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")
BFLOAT16_LOWERINGS = [
    pytest.param(name, marks=needs_native) if name.startswith("native") else name for name in sorted(LOWERINGS)
]
EVERY_LOWERING = [each for each in BFLOAT16_LOWERINGS if "_16" not in str(each)]  # which float32 does not tell apart

# the choices of the images, kernels in the bank, image, channels in and out, kernel, stride, padding
CASES = [
    ((0,), 1, (5, 5), 3, 4, (3, 3), 1, "SAME"),
    ((0, -1, 0), 1, (4, 5), 2, 3, (2, 2), 1, "VALID"),  # a bank of one, which not all images take
    ((2, 0, -1, 2, 1, 2), 3, (7, 9), 3, 2, (5, 3), 2, "SAME"),
    ((3, 1), 4, (6, 5), 5, 37, (3, 3), 1, "SAME"),  # channels that fill no whole number of vectors
    ((0, 1, 1), 3, (4, 4), 4, 16, (3, 3), 1, "SAME"),  # whole vectors; a kernel that serves one image, and none
    ((1, 0, 1, 0), 2, (6, 5), 1, 1, (1, 1), 1, "SAME"),
    ((0, 1), 2, (3, 3), 2, 2, (5, 5), 1, "SAME"),  # larger than the map
    ((1, 1, 0), 2, (9, 9), 2, 2, (3, 3), 4, "VALID"),  # pixels that no tap sees
    ((0, 1, 0), 2, (5, 6), 3, 2, (2, 3), (2, 1), ((3, 1), (0, 4))),  # more padding than the kernel is large
    ((0, 0), 1, (3, 3), 100, 9, (3, 3), 1, "SAME"),  # a kernel row that is summed in parts
    ((-1, -1), 2, (3, 4), 2, 3, (3, 3), 1, "SAME"),
    # Winograd's filtering on CPUs: odd maps, channels that fill no vectors; more channels than are summed at a time.
    ((0, -1, 2, 2, 0), 3, (5, 7), 18, 37, (3, 3), 1, "SAME"),
    ((1, 0), 2, (8, 6), 150, 16, (3, 3), 1, "VALID"),
]


def chosen(image, index, bank, **options):
    return convolve(image, Choice(index, bank), **options)


def batched(lowering=None, **options):
    return jax.vmap(functools.partial(chosen, lowering=lowering, **options), (0, 0, None))


@functools.cache  # one for all lowerings
def numpy_case(case, dtype=jnp.float32):
    """Images, index, bank and cotangents, the convolution, and the gradients in images and bank, by loops."""
    index, sets, size, c_in, c_out, k, stride, padding = case
    rng = np.random.default_rng(0)
    draw = lambda shape: np.float64(jnp.asarray(rng.standard_normal(shape), dtype))  # noqa: E731
    x, bank = draw((len(index), *size, c_in)), draw((sets, *k, c_in, c_out))
    y = [
        reference.convolve(a, bank[i].transpose(3, 2, 0, 1) * (i >= 0), stride, padding)
        for a, i in zip(x, index, strict=True)
    ]
    g = draw(np.shape(y))
    dx, dbank = np.zeros_like(x), np.zeros_like(bank)
    for b, i in enumerate(index):
        if i >= 0:
            kernel = bank[i].transpose(3, 2, 0, 1)
            dx[b], dkernel = reference.convolution_gradients(x[b], kernel, g[b], stride, padding)
            dbank[i] += dkernel.transpose(2, 3, 1, 0)
    arguments = jnp.asarray(x, dtype), jnp.asarray(index, jnp.int32), jnp.asarray(bank, dtype)
    return arguments, jnp.asarray(g, dtype), (np.stack(y), dx, dbank)


def value_and_gradients(case, lowering, x, index, bank, g):
    layer = batched(lowering, stride=case[-2], padding=case[-1])

    @jax.jit
    def run(x, index, bank, g):
        y, back = jax.vjp(lambda x, bank: layer(x, index, bank), x, bank)
        return y, *back(g)

    return run(x, index, bank, g)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_value_and_both_gradients_are_numpys(case, lowering):
    arguments, g, expected = numpy_case(case)
    assert close(value_and_gradients(case, lowering, *arguments, g), expected, 2e-5)


# More pixels in a row of the map than a tile of AMX has, and channels that fill one and a half.
WIDE_MAP = ((0, 1, -1, 1), 2, (4, 21), 16, 24, (3, 3), 1, "SAME")


@pytest.mark.parametrize("case", [*CASES[2:6], *CASES[7:10], *CASES[11:], WIDE_MAP], ids=str)
@pytest.mark.parametrize("lowering", BFLOAT16_LOWERINGS)
def test_bfloat16_is_rounded_once(case, lowering):
    if lowering == "native" and (has := native.instructions()) != "AMX":
        pytest.skip(f"the processor has {has}, no AMX, which multiplies bfloat16")
    arguments, g, expected = numpy_case(case, jnp.bfloat16)
    for found, exact in zip(value_and_gradients(case, lowering, *arguments, g), expected, strict=True):
        assert found.dtype == jnp.bfloat16
        # half of the last of eight bits, and what float32 loses in the sums
        np.testing.assert_allclose(np.float64(found), exact, rtol=2.0**-8, atol=1e-5 * np.abs(exact).max())


def plain(image, index, bank, lowering=None):
    """The same by JAX's own convolution of a kernel that is cut out of the bank."""
    del lowering
    kernel = jnp.where(index >= 0, bank[index], 0.0)
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME", dimension_numbers=layout)[0]


def transforms(f, lowering, x, index, bank, v):
    """What callers make of a net of two layers: every order of ``vmap``, every mode of differentiation, twice over."""
    one = functools.partial(f, lowering=lowering)

    def net(x, index, bank):
        return jnp.sum(jnp.tanh(one(jnp.tanh(one(x, index, bank)), index[()], bank)) ** 2)

    def of_batch(x, bank):
        return jnp.sum(jax.vmap(net, (0, 0, None))(x, index, bank))

    both = jax.grad(net, (0, 2))
    banks = jnp.stack([bank, 2 * bank, -bank])
    gradient = jax.grad(of_batch, (0, 1))
    return {
        "of images": jax.vmap(one, (0, None, None))(x, index[0], bank),
        "of choices": jax.vmap(one, (None, 0, None))(x[0], index, bank),
        "of banks": jax.vmap(one, (None, None, 0))(x[0], index[0], banks),
        "of everything": jax.vmap(one)(x, index, banks),
        "of all pairs": jax.vmap(jax.vmap(one, (0, None, None)), (None, 0, None))(x, index, bank),
        "grad of vmap": gradient(x, bank),
        "vmap of grad": jax.vmap(both, (0, 0, None))(x, index, bank),
        "vmap of grad, banks": jax.vmap(both)(x, index, banks),
        "forward mode": jax.jvp(of_batch, (x, bank), v),
        "forward over reverse": jax.jvp(gradient, (x, bank), v)[1],
        "reverse over reverse": jax.grad(lambda x, b: jnp.vdot(gradient(x, b)[1], v[1]), (0, 1))(x, bank),
        "recomputed": jax.grad(jax.checkpoint(of_batch), (0, 1))(x, bank),
    }


def depthwise(image, index, taps, lowering=None):
    geometry = Geometry(image.shape[:2], (3, 3), (1, 1), ((1, 1), (1, 1)))
    return depthwise_p.bind(image[None], index[None], taps, geometry=geometry, sets=len(taps), lowering=lowering)[0]


def plain_depthwise(image, index, taps, lowering=None):
    return plain(image, index, taps[..., None] * jnp.eye(taps.shape[-1]))


MAPS = {"whole": (chosen, plain, (2, 2)), "depthwise": (depthwise, plain_depthwise, (5,))}  # channels of kernels


@functools.cache  # one for all lowerings
def plain_transforms(name):
    _, plain, channels = MAPS[name]
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.float32(rng.standard_normal(shape))  # noqa: E731
    x, bank = draw(3, 3, 4, channels[0]), draw(2, 3, 3, *channels)
    arguments = x, jnp.array([1, -1, 0]), bank, (draw(*x.shape), draw(*bank.shape))
    return arguments, jax.jit(functools.partial(transforms, plain, None))(*arguments)


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize("lowering", [e for e in EVERY_LOWERING if "_" not in str(e)])
def test_every_transformation_is_that_of_a_plain_convolution(lowering, map_name):
    arguments, expected = plain_transforms(map_name)
    found = jax.jit(functools.partial(transforms, MAPS[map_name][0], lowering))(*arguments)
    for name in expected:
        assert close(found[name], expected[name], 1e-4), name


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_an_index_beyond_the_bank_gives_no_garbage(lowering):
    """The C++ program refuses it, whichever of the three maps meets it; elsewhere it is the last kernel."""
    (x, index, bank), g, _ = numpy_case(CASES[4])
    layer = batched(lowering)
    maps = {
        "forward": lambda index: layer(x, index, bank),
        "image gradient": lambda index: jax.vjp(lambda x: layer(x, index, bank), x)[1](g),
        "bank gradient": lambda index: jax.vjp(lambda bank: layer(x, index, bank), bank)[1](g),
        "banks of their own": lambda index: jax.vmap(functools.partial(chosen, lowering=lowering))(
            x, index, jnp.stack([bank, bank + 1, bank + 2])
        ),
    }
    for name, run in maps.items():
        run = jax.jit(run)
        if lowering.startswith("native"):
            for wrong in (3, 2**31 - 1, -2, -(2**31)):
                with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="is no kernel of a bank of"):
                    jax.block_until_ready(run(index.at[1].set(wrong)))
            assert np.isfinite(jax.tree.leaves(run(index))[0]).all()  # and goes on
        elif name != "banks of their own":
            assert close(run(index.at[1].set(77)), run(index.at[1].set(2)), 1e-5), name
            assert close(run(index.at[1].set(-77)), run(index.at[1].set(-1)), 1e-5), name


def test_kernels_of_their_own(rng):
    x = jnp.float32(rng.standard_normal((3, 5, 6, 2)))
    kernels = jnp.float32(rng.standard_normal((3, 4, 2, 3, 3)))
    exact = np.stack([reference.convolve(np.float64(a), np.float64(k)) for a, k in zip(x, kernels, strict=True)])
    assert close(jax.vmap(convolve)(x, kernels), exact, 2e-5)
    assert close(convolve(x[0], kernels[0]), exact[0], 2e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(platform):
    def gradients(x, index, bank):
        return jax.grad(lambda x, bank: jnp.sum(batched()(x, index, bank) ** 2), (0, 1))(x, bank)

    shapes = ((2, 5, 5, 3), jnp.float32), ((2,), jnp.int32), ((4, 3, 3, 3, 6), jnp.float32)
    traced = jax.jit(gradients).trace(*(jax.ShapeDtypeStruct(*each) for each in shapes))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    name = default_lowering(platform)
    assert name == "gathered" or (platform == "cpu" and native.available())
    assert ("puppet_jax_kernel_gradient" in text) == (name == "native")
    assert ("stablehlo.dot_general" in text) == (name == "gathered")


def test_the_program_for_cpus_is_for_cpus_and_may_be_missing(monkeypatch):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, 5, 3), (6, 3, 3, 3))]
    if native.available():
        traced = jax.jit(functools.partial(convolve, lowering="native")).trace(*shapes)
        with pytest.raises(ValueError, match="is a program for CPUs"):
            traced.lower(lowering_platforms=("cuda",))
    monkeypatch.setattr(native, "available", lambda: False)
    assert default_lowering("cpu") == "gathered"
    with pytest.raises(ValueError, match="was not built"):
        convolve(jnp.zeros((4, 4, 2)), jnp.zeros((3, 2, 3, 3)), lowering="native")


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (((5, 5, 2), (3, 2, 3, 3)), {"stride": 0}, "stride must be"),
        (((5, 5, 2), (3, 2, 3, 3)), {"lowering": "fast"}, "lowering must be None or one of"),
        (((2, 5, 5, 2), (3, 2, 3, 3)), {}, r"use jax\.vmap for batches"),
        (((5, 5, 1), (3, 2, 3, 3)), {}, r"one image \(H, W, 2\), as its kernels do, got shape \(5, 5, 1\)"),
        (((2, 2, 2), (3, 2, 3, 3)), {"padding": "VALID"}, "does not fit"),
        (((5, 5, 2), (2,), (4, 3, 3, 2, 3)), {}, r"Choice: takes an index \(\) and a bank .*jax\.vmap"),
    ],
)
def test_bad_input_is_refused(shapes, options, words):
    image, *kernel = (jnp.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=words):
        convolve(image, Choice(*kernel) if len(kernel) > 1 else kernel[0], **options)
