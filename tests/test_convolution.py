import concurrent.futures
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
import reference
from jax import lax

from puppet_jax.puppets import native
from puppet_jax.puppets.bank_convolution import LOWERINGS, default_lowering
from puppet_jax.puppets.convolution import Choice, convolve

needs_native = pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")
EVERY_LOWERING = [
    pytest.param(name, marks=needs_native) if name.startswith("native") else name for name in sorted(LOWERINGS)
]

# batch, image, channels in and out, kernel, stride, padding
CASES = [
    (1, (5, 5), 3, 4, (3, 3), 1, "SAME"),
    (2, (8, 6), 2, 3, (3, 3), 1, "VALID"),
    (3, (7, 9), 3, 2, (5, 3), 2, "SAME"),
    (17, (4, 4), 2, 5, (3, 3), 1, "SAME"),
    (3, (6, 5), 5, 37, (3, 3), 1, "SAME"),  # channels that fill no whole number of vectors
    (17, (6, 5), 1, 1, (1, 1), 1, "SAME"),
    (2, (3, 3), 400, 34, (3, 3), 1, "SAME"),  # a kernel row that is summed in parts
    (2, (3, 3), 2, 2, (5, 5), 1, "SAME"),  # larger than the map
    (3, (8, 8), 3, 3, (2, 2), 2, "SAME"),
    (2, (9, 9), 2, 2, (3, 3), 4, "VALID"),  # pixels that no tap sees
]


def plain(image, kernel, *, stride=1, padding="SAME", **_):
    strides = (stride, stride)
    layout = ("NHWC", "OIHW", "NHWC")
    return lax.conv_general_dilated(image[None], kernel, strides, padding, dimension_numbers=layout)[0]


def assert_close(found, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.float64(a), np.float64(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max() < tolerance * (np.abs(b).max() + 1e-6)


def everything(f, case, lowering, x, kernel, g):
    """What is computed of a layer in all the ways that its callers compute it."""
    *_, stride, padding = case
    f = functools.partial(f, stride=stride, padding=padding, lowering=lowering)
    v = jax.vmap
    of_batch = lambda h: jax.grad(lambda x, k: jnp.sum(h(x, k) * g), (0, 1))  # noqa: E731
    of_one = lambda x, k, g: jnp.sum(f(x, k) * g)  # noqa: E731
    return {
        "value": v(f)(x, kernel),
        "one": f(x[0], kernel[0]),
        "shared kernel": v(f, (0, None))(x, kernel[0]),
        "shared image": v(f, (None, 0))(x[0], kernel),
        "all pairs": v(v(f, (0, None)), (None, 0))(x, kernel),
        "grad of vmap": of_batch(v(f))(x, kernel),
        "vmap of grad": v(jax.grad(of_one, (0, 1)))(x, kernel, g),
        "grad, shared kernel": of_batch(v(f, (0, None)))(x, kernel[0]),
        "grad, shared image": of_batch(v(f, (None, 0)))(x[0], kernel),
    }


@functools.cache  # one for all lowerings
def plain_everything(case):
    """Arguments, NumPy's convolution of them, and everything by JAX's."""
    b, size, c_in, c_out, k, stride, padding = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((b, *size, c_in)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((b, c_out, c_in, *k)), jnp.float32)
    expected = np.stack(
        [reference.convolve(np.float64(x[i]), np.float64(kernel[i]), stride, padding) for i in range(b)]
    )
    arguments = x, kernel, jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    return arguments, expected, jax.jit(functools.partial(everything, plain, case, None))(*arguments)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_every_lowering_against_numpy_and_plain_gradients(case, lowering):
    arguments, expected, wanted = plain_everything(case)
    found = jax.jit(functools.partial(everything, convolve, case, lowering))(*arguments)
    assert_close(found["value"], expected)
    for name in wanted:
        assert_close(found[name], wanted[name])


def chosen(image, choice, **options):
    """A choice from a bank by kernels that are gathered, and convolved by JAX."""
    kernel = jnp.where(choice.index >= 0, choice.bank[choice.index], 0.0)
    return plain(image, jnp.transpose(kernel, (3, 2, 0, 1)), **options)


def everything_of_a_bank(f, case, lowering, x, index, bank, g):
    *_, stride, padding = case
    one = lambda x, i, b: f(x, Choice(i, b), stride=stride, padding=padding, lowering=lowering)  # noqa: E731
    batch = jax.vmap(one, (0, 0, None))
    loss = lambda x, b: jnp.sum(batch(x, index, b) * g)  # noqa: E731
    cubes = lambda x, b: jnp.sum(batch(x, index, b) ** 3)  # noqa: E731
    banks = jnp.stack([bank, 2 * bank])
    return {
        "value": batch(x, index, bank),
        "gradients": jax.grad(loss, (0, 1))(x, bank),
        "forward mode": jax.jvp(lambda x, b: batch(x, index, b), (x, bank), (x * x, bank * bank))[1],
        "second derivative": jax.jvp(jax.grad(cubes, (0, 1)), (x, bank), (g_like(x), g_like(bank)))[1],
        "banks of an ensemble": jax.vmap(lambda b: jax.grad(loss, 1)(x, b * b))(banks),
        "one of it each": jax.vmap(one, (0, 0, 0))(x, jnp.minimum(index, 0), banks[jnp.arange(len(x)) % 2]),
    }


def g_like(a):
    return jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)


@functools.cache  # one for all lowerings
def plain_bank(case, sets):
    b, size, c_in, c_out, k, stride, padding = case
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((b, *size, c_in)), jnp.float32)
    bank = jnp.asarray(rng.standard_normal((sets, *k, c_in, c_out)) / (k[0] * k[1] * c_in) ** 0.5, jnp.float32)
    index = jnp.asarray(rng.integers(-1, sets, b), jnp.int32)
    shape = jax.eval_shape(lambda: plain(x[0], jnp.zeros((c_out, c_in, *k)), stride=stride, padding=padding)).shape
    arguments = x, index, bank, jnp.asarray(rng.standard_normal((b, *shape)), jnp.float32)
    return arguments, jax.jit(functools.partial(everything_of_a_bank, chosen, case, None))(*arguments)


@pytest.mark.parametrize(("case", "sets"), [*zip(CASES, (1, 3, 2, 4, 5, 2, 1, 20, 3, 2), strict=True)], ids=str)
@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_images_choose_their_kernels_from_a_bank(case, sets, lowering):
    arguments, wanted = plain_bank(case, sets)
    found = jax.jit(functools.partial(everything_of_a_bank, convolve, case, lowering))(*arguments)
    for name in wanted:
        assert_close(found[name], wanted[name], 1e-4 if name == "second derivative" else 2e-5)


@needs_native
@pytest.mark.parametrize("index", [-2, 3, 2**31 - 1])
def test_an_index_that_is_no_place_in_the_bank_is_refused_by_the_cpu_program(index):
    x, bank, places = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 3, 5)), jnp.asarray([0, index])
    f = jax.jit(jax.vmap(lambda x, i, b: convolve(x, Choice(i, b), lowering="native"), (0, 0, None)))
    gradients = jax.jit(jax.grad(lambda x, b: jnp.sum(f(x, places, b)), (0, 1)))
    for run in (lambda: f(x, places, bank), lambda: gradients(x, bank)):
        with pytest.raises(Exception, match=f"index {index} of image 1 is no kernel of a bank of 3"):
            jax.block_until_ready(run())


SANITISED = """
import ctypes, sys, jax, jax.numpy as jnp, numpy as np
import puppet_jax.puppets.native as native
library = ctypes.CDLL(sys.argv[1])
for name in (*native._MAPS, "layer"):
    handler = jax.ffi.pycapsule(getattr(library, f"puppet_jax_{name}"))
    jax.ffi.register_ffi_target(f"puppet_jax_{name}", handler, platform="cpu")
native.available = lambda: True
from puppet_jax.puppets.convolution import Choice, convolve
rng = np.random.default_rng(0)
for lowering in native.LANES:
    cases = (5, 3, 7, 3, 1, "SAME"), (6, 5, 37, 5, 2, "SAME"), (7, 2, 1, 2, 4, "VALID")
    for h, c_in, c_out, k, stride, padding in cases:
        x, bank = jnp.ones((5, h, h + 1, c_in)), jnp.ones((3, k, k, c_in, c_out))
        f = lambda x, b: jnp.sum(jax.vmap(lambda x, i: convolve(
            x, Choice(i, b), stride=stride, padding=padding, lowering=lowering))(x, jnp.asarray([0, 2, -1, 2, 2])) ** 2)
        jax.block_until_ready(jax.jit(jax.grad(f, (0, 1)))(x, bank))
        for bad in (-2, 3, 2**30):
            try:
                one = lambda x, b: convolve(x, Choice(jnp.int32(bad), b), lowering=lowering)
                jax.block_until_ready(jax.jit(one)(x[0], bank))
            except Exception as error:
                assert "is no kernel of a bank" in str(error), error
            else:
                raise AssertionError("an index out of range was taken")
print("clean")
"""


@pytest.mark.soak
@needs_native
def test_the_cpu_program_under_the_address_sanitiser(tmp_path):
    """Odd shapes forwards and backwards, and indices out of range: no byte outside the arrays is touched."""
    compiler = shutil.which("g++")
    runtime = compiler and subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True)
    if not runtime or not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("no g++ with libasan on this machine")
    source = Path(native.__file__).parent / "convolution.cc"
    include = Path(jaxlib.__file__).parent / "include"
    library = tmp_path / "sanitised.so"
    flags = ["-std=c++20", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags += ["-fno-sanitize=alignment,vptr", "-w", "-fPIC", "-shared", f"-I{include}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    standard = subprocess.run([compiler, "-print-file-name=libstdc++.so"], capture_output=True, text=True).stdout
    preloaded = f"{runtime.stdout.strip()} {standard.strip()}"
    environment = {**os.environ, "LD_PRELOAD": preloaded, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", SANITISED, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "clean"


TRANSFORMS = {
    "forward": lambda h: jax.jacfwd(h, (0, 1)),
    "hessian": lambda h: jax.hessian(h, 1),
    "reverse twice": lambda h: jax.grad(lambda x, k: jnp.sum(jax.grad(h, 1)(x, k) ** 2), (0, 1)),
    "checkpoint": lambda h: jax.grad(jax.checkpoint(h), (0, 1)),
}


def derivatives(f, lowering, x, kernel):
    """Each transform of a net of two layers, in one program."""
    f = functools.partial(f, lowering=lowering)
    net = lambda x, k: jnp.sum(jnp.tanh(f(jnp.tanh(f(x, k)), k * k)) ** 2)  # noqa: E731
    return {name: jax.vmap(transform(net))(x, kernel) for name, transform in TRANSFORMS.items()}


@functools.cache  # one for all lowerings
def plain_derivatives():
    rng = np.random.default_rng(0)
    shapes = (2, 3, 3, 2), (2, 2, 2, 3, 3)
    arguments = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    return arguments, jax.jit(functools.partial(derivatives, plain, None))(*arguments)


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_forward_mode_and_second_derivatives(lowering):
    arguments, wanted = plain_derivatives()
    found = jax.jit(functools.partial(derivatives, convolve, lowering))(*arguments)
    for name in TRANSFORMS:
        assert_close(found[name], wanted[name], 1e-4)


def test_gradient_against_finite_differences(rng):
    x, kernel = (rng.standard_normal(shape) for shape in ((5, 6, 2), (3, 2, 3, 3)))
    weights = rng.standard_normal((3, 3, 3))
    loss = lambda x, k: (weights * reference.convolve(x, k, 2)).sum()  # noqa: E731
    f = lambda x, k: jnp.sum(weights * convolve(x, k, stride=2))  # noqa: E731
    found = jax.grad(f, (0, 1))(jnp.float32(x), jnp.float32(kernel))
    for argument, array in enumerate((x, kernel)):
        for flat in (0, array.size // 2, array.size - 1):
            index = np.unravel_index(flat, array.shape)
            step = np.zeros_like(array)
            step[index] = 1e-4
            shifted = [(x + s * step, kernel) if argument == 0 else (x, kernel + s * step) for s in (1, -1)]
            expected = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-4
            assert float(found[argument][index]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("lowering", EVERY_LOWERING)
def test_bfloat16_accumulates_in_float32(rng, lowering):
    x = jnp.asarray(rng.standard_normal((3, 6, 6, 64)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((3, 8, 64, 3, 3)), jnp.bfloat16)
    found = jax.vmap(functools.partial(convolve, lowering=lowering))(x, kernel)
    assert found.dtype == jnp.bfloat16
    exact = np.stack([reference.convolve(np.float64(a), np.float64(k)) for a, k in zip(x, kernel, strict=True)])
    assert_close(found, exact, 2.0**-8)  # one rounding of the exact result


@needs_native
def test_native_numbers_of_an_image_do_not_depend_on_the_batch(rng):
    x = jnp.asarray(rng.standard_normal((5, 7, 9, 6)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((5, 20, 6, 3, 3)), jnp.float32)

    @jax.jit
    def gradients(x, kernel):
        batch = jax.vmap(functools.partial(convolve, lowering="native"))
        return jax.grad(lambda x, k: jnp.sum(batch(x, k) ** 2), (0, 1))(x, kernel)

    together = gradients(x, kernel)
    for i in range(5):  # cut into other pieces over the threads
        for one, all_ in zip(gradients(x[i : i + 1], kernel[i : i + 1]), together, strict=True):
            assert (np.asarray(one[0]) == np.asarray(all_[i])).all()


@needs_native
def test_native_from_many_threads_at_once(rng):
    x = jnp.asarray(rng.standard_normal((4, 8, 8, 16)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((4, 16, 16, 3, 3)), jnp.float32)
    run = jax.jit(jax.vmap(functools.partial(convolve, lowering="native")))
    expected = np.asarray(run(x, kernel))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: np.asarray(run(x, kernel)), range(200), timeout=120):
            assert (found == expected).all()


@needs_native
def test_wider_types_get_plain_convolutions():
    with jax.enable_x64(True):
        x, kernel = jnp.zeros((4, 4, 2), jnp.float64), jnp.zeros((3, 2, 3, 3), jnp.float64)
        text = jax.jit(convolve).lower(x, kernel).as_text()
    assert "stablehlo.convolution" in text


def test_without_the_native_library_a_cpu_still_convolves(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    assert default_lowering("cpu") == "gathered"
    with pytest.raises(ValueError, match="was not built"):
        convolve(jnp.zeros((4, 4, 2)), jnp.zeros((3, 2, 3, 3)), lowering="native")


def test_layouts_agree(rng):
    x, kernel = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((5, 5, 2), (3, 2, 3, 3)))
    assert_close(convolve(x, kernel.transpose(2, 3, 1, 0), layout="HWIO"), convolve(x, kernel))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(platform):
    def batch(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(jax.vmap(convolve)(x, k) ** 2), (0, 1))(x, kernel)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 5, 5, 3), (2, 4, 3, 3, 3))]
    text = jax.jit(batch).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    name = default_lowering(platform)
    assert ("puppet_jax_kernel_gradient" in text) == (name == "native")
    assert ("stablehlo.dot_general" in text) == (name == "gathered")
    assert ("ragged_dot" in text) == (name == "ragged")


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        (((5, 5, 2), (3, 2, 3, 3)), {"layout": "IOHW"}, "layout must be"),
        (((5, 5, 2), (3, 2, 3, 3)), {"stride": 0}, "stride must be"),
        (((5, 5, 2), (3, 2, 3, 3)), {"padding": "FULL"}, "padding must be"),
        (((5, 5, 2), (3, 2, 3, 3)), {"lowering": "fast"}, "lowering must be None or one of"),
        (((2, 5, 5, 2), (3, 2, 3, 3)), {}, r"use jax\.vmap for batches"),
        (((5, 5, 1), (3, 2, 3, 3)), {}, "image has 1 channels, kernel takes 2"),
        (((2, 2, 2), (3, 2, 3, 3)), {"padding": "VALID"}, "does not fit"),
    ],
)
def test_bad_input_is_refused(shapes, options, words):
    with pytest.raises(ValueError, match=words):
        convolve(*(jnp.zeros(shape) for shape in shapes), **options)
