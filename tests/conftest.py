"""Fixtures and independent references, in float64 NumPy, shared by the tests."""

import os

# Before jax is imported anywhere: the tests need no accelerator and must not depend on one being there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jaxtyping
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def no_type_checker():
    """For tests of our own errors: the runtime type checker of shapes would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
