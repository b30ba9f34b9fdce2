"""The named presets, as plain data."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

from puppet_jax._measure import DepthRule
from puppet_jax.puppets._nets import puppet_resnet, puppet_vgg
from puppet_jax.puppets._plain import LayerSpec


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a puppet is made of, and options of puppeteers (by their name in ``create``) that differ from the defaults.

    Attributes:
        layers: of a plain puppet.
        net: what makes a module to be puppetized instead.
        width: of the net's first stage.
        puppeteer_options: by puppeteer.
        depth: the measurement's, unless one is given.
        exits: of the puppet.
    """

    layers: tuple[LayerSpec, ...] = ()
    net: Callable | None = None
    width: int = 0
    puppeteer_options: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    depth: DepthRule | int = "complexity"
    exits: tuple[int, ...] | None = None


def _plain(width: int, pools: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    return tuple(LayerSpec(width, pool=pool) for pool in pools)


# Depths seen with H in bits: about 2 to 4 on 8×8 digits, 3 to 7 on CIFAR-10.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "puppet_xs": Preset(
            layers=(LayerSpec(32), LayerSpec(32, pool=2), LayerSpec(32), LayerSpec(32), LayerSpec(32), LayerSpec(32)),
            puppeteer_options={"continuous": {"basis": 8, "rank": None, "hidden": 32}},
        ),
        # On CIFAR-10 one layer on maps of 32×32, two on 16×16, four on 8×8.
        "puppet_s": Preset(
            layers=_plain(64, pools=(2, 1, 2, 1, 1, 1, 1)),
            # A tenth of the static twin's kernel parameters (bench/studies/cifar10.toml).
            puppeteer_options={"continuous": {"basis": 72, "hidden": 32}},
        ),
        # More layers store scales and shifts alone: their kernels are samplings of the same function. Depth by
        # complexity would take back what they give (docs/limits.md), and it ends at eight.
        "puppet_m": Preset(
            layers=_plain(96, pools=(2, 1, 1, 2, 1, 1, 1, 1, 1, 1)),
            puppeteer_options={"continuous": {"basis": 96, "rank": 4, "hidden": 48}},
            depth="full",
        ),
        # Cheap layers first and many on small maps, so that leaving early saves much: images may leave after three,
        # four or six tenths of the multiplications.
        "puppet_e": Preset(
            layers=(LayerSpec(24, pool=2), LayerSpec(48, pool=2), *[LayerSpec(96)] * 8),
            puppeteer_options={"continuous": {"basis": 52, "hidden": 32, "conditioning": "none"}},
            depth="full",
            exits=(3, 4, 6, 10),
        ),
        # Seven blocks to skip in either of these, one more a depth from the fourth on: CIFAR-10 asks for 4 to 7. Of
        # the static twin's kernel parameters again about a tenth. As layers that always run reach further along s =
        # l·dl than 1, kernels would turn faster with H than they do in a plain puppet: hence omega_depth.
        "puppet_vgg_s": Preset(
            net=puppet_vgg,
            width=32,
            puppeteer_options={"continuous": {"basis": 104, "hidden": 40, "omega_depth": 5.0}},
        ),
        "puppet_resnet_s": Preset(  # the convolutions of ResNet-20 (He et al. 2016, section 4.2)
            net=puppet_resnet,
            width=16,
            puppeteer_options={"continuous": {"basis": 80, "hidden": 40, "omega_depth": 4.0}},
        ),
    }
)
