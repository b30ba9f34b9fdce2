"""Puppet-CNN in JAX: convolutional networks whose kernels and depth are generated for each image.

Xing and Wang, "Puppet-CNN", arXiv:2411.12876.
"""

from typing import TYPE_CHECKING, Any

from puppet_jax import puppeteers as _puppeteers
from puppet_jax._artifact import LoadedModel, load
from puppet_jax._complexity import complexity, depth, depth_clipped, entropy, frequency_map, initial_value, step_size
from puppet_jax._export import export
from puppet_jax._measure import Measure
from puppet_jax._model import PuppetCNN, create
from puppet_jax._predict import Predictor, compile_predict
from puppet_jax._prediction import Prediction
from puppet_jax._pretrained import list_pretrained, load_pretrained, pretrained_info
from puppet_jax._summary import Summary, summary
from puppet_jax.any_cnn._puppetize import puppetize
from puppet_jax.puppeteers import ContinuousPuppeteer, Puppeteer, StoredPuppeteer
from puppet_jax.puppets import LayerSpec, PlainPuppet, Puppet
from puppet_jax.puppets._presets import PRESETS

if TYPE_CHECKING:
    from puppet_jax.puppeteers import OdePuppeteer

__version__ = "0.2.0"

__all__ = [
    "PRESETS",
    "ContinuousPuppeteer",
    "LayerSpec",
    "LoadedModel",
    "Measure",
    "OdePuppeteer",
    "PlainPuppet",
    "Prediction",
    "Predictor",
    "Puppet",
    "PuppetCNN",
    "Puppeteer",
    "StoredPuppeteer",
    "Summary",
    "compile_predict",
    "complexity",
    "create",
    "depth",
    "depth_clipped",
    "entropy",
    "export",
    "frequency_map",
    "initial_value",
    "list_pretrained",
    "load",
    "load_pretrained",
    "pretrained_info",
    "puppetize",
    "step_size",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name == "OdePuppeteer":  # imports diffrax
        return _puppeteers.OdePuppeteer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
