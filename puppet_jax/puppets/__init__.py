"""Puppets: the CNNs that generated kernels drive. Written for one image, its own kernels and its own depth."""

from puppet_jax.puppets._base import Puppet
from puppet_jax.puppets._plain import LayerSpec, PlainPuppet

__all__ = ["LayerSpec", "PlainPuppet", "Puppet"]
