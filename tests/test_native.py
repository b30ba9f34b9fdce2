"""The C++ program for CPUs: threads, numbers that do not depend on the batch, and memory, under a sanitiser."""

import concurrent.futures
import ctypes
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
from small import close

from puppet_jax.convolution import Choice, convolve, native

needs_native = pytest.mark.skipif(not native.available(), reason="the package was installed without a C++ compiler")


@functools.partial(jax.jit, static_argnums=0)
def everything(lowering, x, index, bank):
    """The value, and the gradients in images and bank."""
    one = lambda x, i, bank: convolve(x, Choice(i, bank), lowering=lowering)  # noqa: E731
    run = lambda x, bank: jax.vmap(one, (0, 0, None))(x, index, bank)  # noqa: E731
    y, back = jax.vjp(run, x, bank)
    return y, *back(jnp.cos(y))


def draw(images, sets, size, c_in, c_out):
    rng = np.random.default_rng(0)
    x, bank = (jnp.float32(rng.standard_normal(s)) for s in ((images, *size, c_in), (sets, 3, 3, c_in, c_out)))
    return x, jnp.asarray(rng.integers(-1, sets, images), jnp.int32), bank


@needs_native
def test_a_program_of_another_version_is_not_used(monkeypatch):
    without = ctypes.CDLL(None)
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: without)
    with pytest.warns(UserWarning, match="another version"):
        assert not native.available.__wrapped__()


def test_a_missing_program_is_told(monkeypatch):
    monkeypatch.setattr(native.importlib.machinery, "EXTENSION_SUFFIXES", [])
    monkeypatch.setattr(native.sys, "platform", "linux")
    with pytest.warns(UserWarning, match=r"was not built .* C\+\+ compiler .* install puppet-jax again"):
        assert not native.available.__wrapped__()


@needs_native
@pytest.mark.parametrize("c_in", [6, 18])  # direct, and by Winograd's filtering
def test_an_images_numbers_do_not_depend_on_the_batch(c_in):
    x, index, bank = draw(5, 3, (7, 9), c_in, 20)
    y, dx, _ = everything("native", x, index, bank)
    for i in range(5):  # cut into other pieces over the threads, kernels packed or read where they lie
        one = everything("native", x[i : i + 1], index[i : i + 1], bank)
        np.testing.assert_array_equal(one[0][0], y[i])
        np.testing.assert_array_equal(one[1][0], dx[i])


@needs_native
def test_more_kernels_than_are_laid_out_at_a_time():
    arguments = draw(36, 18, (4, 4), 256, 256)  # sixteen are
    assert close(everything("native", *arguments), everything("gathered", *arguments), 1e-4)


@needs_native
def test_many_images_of_a_kernel_from_many_threads_at_once():
    arguments = draw(9, 2, (32, 32), 16, 16)  # more than a cache holds
    expected = [np.asarray(each) for each in everything("native", *arguments)]
    assert close(expected, list(everything("gathered", *arguments)), 1e-4)
    run = lambda _: [np.asarray(each) for each in everything("native", *arguments)]  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(run, range(100), timeout=120):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_wider_types_get_plain_convolutions():
    with jax.enable_x64(True):
        x, kernel = jnp.zeros((4, 4, 2), jnp.float64), jnp.zeros((3, 2, 3, 3), jnp.float64)
        text = jax.jit(convolve).lower(x, kernel).as_text()
    assert "stablehlo.convolution" in text


# In a process of its own, whose memory the sanitiser watches. Each map is a program by itself, so that its operands and
# results are memory by themselves; from small to large, as what the program keeps from call to call grows only.
WATCHED = """
import ctypes, functools, itertools, sys
import jax, jax.numpy as jnp, numpy as np
from puppet_jax.convolution import _lowerings as lowerings, _primitives as maps, native
from puppet_jax.puppeteers import _factors

library = ctypes.CDLL(sys.argv[1])
native.register(library)
native.available = lambda: True
rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
def as_arrays(images, *others):  # of the type that is had
    images, *others = map(jnp.asarray, (images, *others))
    return images.astype(dtype), *(each.astype(dtype) if each.shape == images.shape else each for each in others)

ran = refused = 0
cases = [  # image, kernel, stride, padding, channels in and out
    ((1, 1), (1, 1), 1, 0, 1, 1),
    ((3, 2), (2, 3), 1, 2, 3, 5),
    ((3, 3), (5, 5), 1, 2, 2, 4),
    ((9, 9), (3, 3), 4, 0, 1, 3),
    ((7, 5), (3, 3), 2, 1, 5, 16),
    ((5, 5), (3, 3), 1, 1, 4, 37),
    ((4, 4), (3, 3), 1, 1, 20, 20),
    ((4, 4), (3, 3), 1, 1, 100, 8),
    ((7, 5), (3, 3), 1, 0, 17, 37),
]
choices = [[2, -1, 0, 2, 2, 1], [-1] * 6, [0, 3, 0, 0, 0, 0], [-2] * 6, [2**31 - 1] * 6, [-(2**31)] * 6]
types = [jnp.float32, jnp.bfloat16]
for (image, kernel, stride, pad, c_in, c_out), lowering, dtype in itertools.product(cases, native.LANES, types):
    geometry = lowerings.Geometry(image, kernel, (stride, stride), ((pad, pad), (pad, pad)))
    static = {"geometry": geometry, "sets": 3, "lowering": lowering}
    bank, taps = draw(3, *kernel, c_in, c_out), draw(3, *kernel, c_in)
    of_finish = {"groups": 2 - c_out % 2, "relu": True, "epsilon": 1e-5}
    same = c_in == c_out and image == geometry.output
    layer = functools.partial(maps.layer_p.bind, **of_finish, residual=same)
    for index in choices:
        index = np.array(index, np.int32)
        x, y, wide = draw(len(index), *image, c_in), *(draw(len(index), *geometry.output, c) for c in (c_out, c_in))
        good = ((index >= -1) & (index < 3)).all()
        norm = draw(c_out), draw(c_out)
        if good:
            results = maps.finish_p.bind(*as_arrays(y, index, x, *norm), **of_finish, residual=same, lowering=lowering)
            results += maps.gradient_p.bind(*as_arrays(y, -y, index, *norm), **of_finish, lowering=lowering)
            assert all(np.isfinite(each).all() and not np.any(each[index < 0]) for each in results)
            ran += 2
        for bind, operands in (
            (maps.forward_p.bind, (x, index, bank)),
            (maps.image_gradient_p.bind, (y, index, bank)),
            (maps.kernel_gradient_p.bind, (x, y, index)),
            (maps.depthwise_p.bind, (x, index, taps)),
            (maps.depthwise_image_gradient_p.bind, (wide, index, taps)),
            (maps.depthwise_kernel_gradient_p.bind, (x, wide, index)),
            (layer, (x, index, bank, *norm)),
        ):
            try:
                results = jax.tree.leaves(bind(*as_arrays(*operands), **static))
                assert all(np.isfinite(each).all() for each in results)
                assert good, "an index beyond the bank was taken"
                ran += 1
            except Exception as error:
                assert not good and "is no kernel of a bank of 3" in str(error), error
                refused += 1
for (t, r, i, o), lowering in itertools.product([(9, 7, 5, 6), (1, 19, 40, 33)], native.LANES):
    factors = map(jnp.asarray, (draw(3, t, r), np.int32([0, -1, 0]), draw(i, r), draw(r, o)))
    _, back = jax.vjp(lambda *a: _factors.factors_p.bind(*a, epsilon=1e-6, lowering=lowering)[0], *factors)
    assert all(np.isfinite(each).all() for each in back(jnp.ones((3, r + 1, o))) if each.dtype == jnp.float32)
print(ran, refused)
"""


def compiler():
    name = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if sys.platform != "linux" or name is None:
        pytest.skip("needs Linux and a C++ compiler with AddressSanitizer")
    ask = lambda file: subprocess.run([name, f"-print-file-name={file}"], capture_output=True, text=True).stdout.strip()  # noqa: E731
    found = [ask(file) for file in ("libasan.so", "libstdc++.so")]  # the second for what it does when C++ throws
    if not all(map(os.path.isabs, found)):
        pytest.skip(f"{name} has no shared AddressSanitizer (libasan.so) to load before Python")
    return name, " ".join(found)


@pytest.mark.soak
def test_no_memory_is_read_or_written_that_is_not_its_own(tmp_path):
    name, sanitiser = compiler()
    source = Path(native.__file__).parent / "convolution.cc"
    include = Path(jaxlib.__file__).parent / "include"
    options = ["-std=c++20", "-O0", "-g1", "-w", "-shared", "-fPIC", "-D_GLIBCXX_SANITIZE_VECTOR"]
    watch = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = [name, *options, *watch, f"-I{include}", str(source), "-o", str(tmp_path / "watched.so")]
    made = subprocess.run(built, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitiser,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(native.__file__).parents[3]),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "watched.so")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ran, refused = map(int, done.stdout.split())
    assert (ran, refused) == (9 * 4 * 2 * 2 * 9, 9 * 4 * 2 * 4 * 7)  # cases, lanes, types, choices, maps
