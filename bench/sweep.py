"""What ``python -m bench speed scaling`` varies: one quantity at a time around a base case, as plain data."""

import dataclasses

from bench.case import Size

ABOUT = (
    "One quantity at a time around a base case. Complexities are CIFAR-10's: nearly every image gets six layers or "
    "more, so up to there D_max alone decides. Images are 32×32 always: the first layer's stride makes them the map."
)
CONTENDERS = ("compile_predict", "static_jax", "train_ode", "train_continuous", "train_static_jax")


@dataclasses.dataclass(frozen=True)
class Point:
    """A case and how many cores it gets (``None``: all)."""

    size: Size
    cores: int | None = None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One quantity at several values.

    Attributes:
        quantity: its name.
        axis: what it counts, for the axis of a figure.
        arithmetic: the exponent that the number of multiplications of a convolution has in it; of the cores, that of
            perfect division of labour.
        points: value -> case, in rising order.
    """

    quantity: str
    axis: str
    arithmetic: float
    points: dict[int, Point]


def full(cores: int) -> tuple[Sweep, ...]:
    """Around batch 64, 32 channels, maps of 16×16, six layers, on all of ``cores``."""
    return _sweeps(
        base=Size(64, 32, 16, layers=6),
        batch=(8, 16, 64, 256),
        width=(16, 32, 64, 128),
        depth=(2, 3, 4, 6),
        side=(4, 8, 16, 32),
        cores=_powers_of_two(cores),
    )


def quick(cores: int) -> tuple[Sweep, ...]:
    """Sizes that only show that the benchmark runs."""
    return _sweeps(base=Size(2, 4, 4, layers=2), batch=(2, 4), width=(4, 8), depth=(), side=(), cores=())


def _sweeps(base: Size, batch, width, depth, side, cores) -> tuple[Sweep, ...]:
    def of(name, values):
        return {value: Point(dataclasses.replace(base, **{name: value})) for value in values}

    machine = {count: Point(base, None if count == max(cores) else count) for count in cores}
    sweeps = (
        Sweep("batch", "images in a batch", 1.0, of("batch", batch)),
        Sweep("width", "channels of every layer", 2.0, of("channels", width)),
        Sweep("depth", "layers, D_max", 1.0, of("layers", depth)),
        Sweep("image size", "rows (= columns) of every map", 2.0, of("map", side)),
        Sweep("cores", "cores", -1.0, machine),
    )
    return tuple(sweep for sweep in sweeps if len(sweep.points) > 1)


def _powers_of_two(most: int) -> tuple[int, ...]:
    """1, 2, 4, … and ``most`` itself."""
    return tuple(sorted({2**power for power in range(most.bit_length())} | {most}))
