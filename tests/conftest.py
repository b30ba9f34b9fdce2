"""Fixtures and independent references, in float64 NumPy, shared by the tests."""

import importlib.metadata
import os
import shutil
import tempfile

# Before jax is imported anywhere: the tests need no accelerator and must not depend on one being there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is XLA's, for programs that run once: without most optimisations, and without the slower of its
# two code generators for CPUs, a training step is compiled in a fifth of the time. See also the fixture ``optimised``.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A jaxlib that does not know a flag would end the process.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
# What one test or command has compiled, no other compiles again: the folder is shared by all processes of a run.
_PROGRAMS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="puppet-jax-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as many tests wait for a process of their own; each takes about 1 GiB."""
    return min(4, len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2)


SLOWEST = ("notebook", "train_run", "bench_gpu", "train_processes", "train_resume", "bench_commands")
"""Files of few tests that take long, the longest first: one that began last would keep all others waiting."""


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_unconfigure():
    if _PROGRAMS is not None:  # in the process that made it, which ends last
        shutil.rmtree(_PROGRAMS, ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--soak-seconds", type=float, default=float("inf"), help="soak tests begin nothing after that")


@pytest.fixture(scope="session")
def time_left(request) -> Callable[[], bool]:
    """Whether a soak test may begin another repetition: by ``--soak-seconds``, from the first such test on."""
    until = time.monotonic() + request.config.getoption("--soak-seconds")
    return lambda: time.monotonic() < until


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def no_type_checker():
    """For tests of our own errors: the runtime type checker of shapes would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optimised():
    """XLA leaves out nothing, as at our users': where more is asked than whether it runs and computes the same."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
