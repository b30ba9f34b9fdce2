"""Puppets: the CNNs that generated kernels drive. Written for one image, its own kernels and its own depth."""

from puppet_jax.puppets._base import Puppet
from puppet_jax.puppets._layers import LayerSpec
from puppet_jax.puppets._plain import PlainPuppet
from puppet_jax.puppets._staged import StagedPuppet
from puppet_jax.puppets._stages import StageSpec

__all__ = ["LayerSpec", "PlainPuppet", "Puppet", "StageSpec", "StagedPuppet"]
