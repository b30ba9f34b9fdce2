"""Puppeteers: sources of kernels. Each maps a complexity to one kernel a layer."""

from puppet_jax.puppeteers.continuous import ContinuousPuppeteer
from puppet_jax.puppeteers.ode import OdePuppeteer
from puppet_jax.puppeteers.protocol import Kernels, KernelShape, Puppeteer
from puppet_jax.puppeteers.stored import StoredPuppeteer

__all__ = [
    "ContinuousPuppeteer",
    "KernelShape",
    "Kernels",
    "OdePuppeteer",
    "Puppeteer",
    "StoredPuppeteer",
]
