"""Puppeteers: sources of kernels. Each maps a complexity to one kernel a layer."""

from typing import TYPE_CHECKING, Any

from puppet_jax.puppeteers._base import Puppeteer, StoredPuppeteer
from puppet_jax.puppeteers._continuous import ContinuousPuppeteer
from puppet_jax.puppeteers._kernels import Kernels, KernelShape

if TYPE_CHECKING:
    from puppet_jax.puppeteers._ode import OdePuppeteer

__all__ = [
    "ContinuousPuppeteer",
    "KernelShape",
    "Kernels",
    "OdePuppeteer",
    "Puppeteer",
    "StoredPuppeteer",
]


def __getattr__(name: str) -> Any:
    # Imported at its first use: diffrax takes a third of the time that importing the package would.
    if name == "OdePuppeteer":
        from puppet_jax.puppeteers._ode import OdePuppeteer

        return OdePuppeteer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
