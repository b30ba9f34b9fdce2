"""Puppets: the CNNs that generated kernels drive. Written for one image, its own kernels and its own depth."""

from puppet_jax.puppets.foreign import ForeignPuppet
from puppet_jax.puppets.layers import LayerSpec
from puppet_jax.puppets.mixed import Mixture
from puppet_jax.puppets.plain import CONVOLVED, PlainPuppet

__all__ = ["CONVOLVED", "ForeignPuppet", "LayerSpec", "Mixture", "PlainPuppet"]
