"""The engine: convolutions of images that choose their kernels, and the layers made of them."""

from puppet_jax.convolution._convolve import Choice, FactoredBank, convolve, layer, whole

__all__ = ["Choice", "FactoredBank", "convolve", "layer", "whole"]
