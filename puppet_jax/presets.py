"""The named presets, as plain data."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from puppet_jax.puppets import LayerSpec


@dataclasses.dataclass(frozen=True)
class Preset:
    """A puppet's layers, and options of puppeteers (by their name in ``create``) that differ from the defaults."""

    layers: tuple[LayerSpec, ...]
    puppeteer_options: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)


# Depths seen with H in bits: about 2 to 4 on 8×8 digits, 3 to 7 on CIFAR-10.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "puppet_xs": Preset(
            layers=(LayerSpec(32), LayerSpec(32, pool=2), LayerSpec(32), LayerSpec(32), LayerSpec(32), LayerSpec(32)),
            puppeteer_options={"continuous": {"basis": 8}},
        ),
        "puppet_s": Preset(
            layers=(
                LayerSpec(64, pool=2),
                LayerSpec(64),
                LayerSpec(64, pool=2),
                LayerSpec(64),
                LayerSpec(64),
                LayerSpec(64),
                LayerSpec(64),
            ),
            # A tenth of the static twin's kernel parameters (bench/study.py).
            puppeteer_options={"continuous": {"channels": "low_rank", "rank": 2, "basis": 64, "hidden": 40}},
        ),
        "puppet_m": Preset(
            layers=(
                LayerSpec(256),
                LayerSpec(256, pool=2),
                LayerSpec(256),
                LayerSpec(256, pool=2),
                LayerSpec(256),
                LayerSpec(256),
                LayerSpec(256),
                LayerSpec(256),
            ),
            # By analogy with puppet_s, a tenth again; not trained yet.
            puppeteer_options={"continuous": {"channels": "low_rank", "rank": 2, "basis": 320, "hidden": 64}},
        ),
    }
)
