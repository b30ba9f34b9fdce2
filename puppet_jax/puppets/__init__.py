"""Puppets: the CNNs that generated kernels drive. Written for one image, its own kernels and its own depth."""

from puppet_jax.puppets.foreign import ForeignPuppet
from puppet_jax.puppets.layers import LayerSpec
from puppet_jax.puppets.plain import PlainPuppet
from puppet_jax.puppets.protocol import Puppet
from puppet_jax.puppets.staged import StagedPuppet
from puppet_jax.puppets.stages import StageSpec

__all__ = ["ForeignPuppet", "LayerSpec", "PlainPuppet", "Puppet", "StageSpec", "StagedPuppet"]
