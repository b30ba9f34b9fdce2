"""What is measured together, and the targets that ratios of it are held to."""

import dataclasses
from typing import Literal

from bench.case import Size

TEST_SET = 10_000


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Contenders that take turns: label -> (name in ``CONTENDERS``, size). ``answers``: they are given images."""

    name: str
    entries: dict[str, tuple[str, Size]]
    answers: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: time of ``over`` divided by time of ``under``, in one measurement.

    ``at least`` rows say how many times faster ours (``under``) is; ``at most`` rows what share of the peer's time
    (``under``) ours (``over``) takes. ``scale`` multiplies, where the two do not make the same number of images.
    """

    number: int
    what: str
    measurement: str
    over: str
    under: str
    sense: Literal["at least", "at most"]
    target: float
    scale: float = 1.0

    def reached(self, value: float) -> bool:
        return value >= self.target if self.sense == "at least" else value <= self.target


@dataclasses.dataclass(frozen=True)
class Plan:
    measurements: tuple[Measurement, ...]
    rows: tuple[Row, ...]


def full() -> Plan:
    """Every row, at the sizes of the targets (batch, channels, map; seven layers)."""
    return _plan(
        main=Size(64, 64, 16),
        deep=Size(64, 128, 8),
        others=(Size(64, 32, 32), Size(256, 64, 16)),
        step=Size(128, 64, 16),
        batches=(16, 1024),
        nodes=Size(8, 64, 16, layers=8),
    )


def quick() -> Plan:
    """Most rows at sizes that only show that the benchmark runs."""
    tiny = Size(3, 8, 8, layers=2)
    return _plan(main=tiny, deep=None, others=(), step=tiny, batches=(2, 4), nodes=tiny)


def _plan(main: Size, deep: Size | None, others: tuple[Size, ...], step: Size, batches, nodes: Size) -> Plan:
    measurements, rows = [], []

    def measure(name: str, *contenders: str, size: Size, answers: bool = True) -> str:
        measurements.append(Measurement(name, {c: (c, size) for c in contenders}, answers))
        return name

    sizes = [size for size in (main, deep, *others) if size]
    for size in sizes:
        more = ("exact", "vmap", "complexity") if size == main else ()
        peers = ("static_jax", "torch_batched", "torch_one_by_one", "torch_static")
        name = measure(f"predict {size}", "compile_predict", *peers, *more, size=size)
        if size in (main, deep):
            target = 2.5 if size == main else 10.0
            rows.append(_faster(4, "PyTorch conventional, batched", name, "torch_batched", "compile_predict", target))
        rows.append(_faster(5, "PyTorch conventional, image by image", name, "torch_one_by_one", "compile_predict", 4))
        rows.append(_share(6, "static twin in JAX", name, "compile_predict", "static_jax", 1.0))
        rows.append(_share(10, "PyTorch's static CNN (moonshot)", name, "compile_predict", "torch_static", 1.0))
    for size in sizes:
        more = ("train_vmap", "train_torch_batched", "train_torch_static", "train_exact") if size == main else ()
        name = measure(f"train {size}", "train_interpolated", "train_continuous", "train_static_jax", *more, size=size)
        twin = "training step, static twin in JAX"
        rows.append(_share(7, twin, name, "train_interpolated", "train_static_jax", 1.25))
        rows.append(
            _share(7, f"{twin} (ours: continuous puppeteer)", name, "train_continuous", "train_static_jax", 1.25)
        )
        if size == main:
            ours = "train_interpolated"
            rows.append(_faster(8, "training step, plain vmap", name, "train_vmap", ours, 50))
            conventional = "training step, PyTorch conventional, batched"
            rows.append(_faster(8, conventional, name, "train_torch_batched", ours, 3))
    exact = "generate_exact", "generate_continuous"
    as_read = "generate_exact_as_read", "generate_continuous_as_read"
    name = measure(f"generate {main}", "bake", "generate_baked", "torch_generate", *exact, *as_read, size=main)
    ode = "generation, ODE (ours: continuous, both exact paths"
    rows.append(_faster(12, f"{ode})", name, *exact, 5))
    rows.append(_faster(12, f"{ode}, kernels in the order the convolution reads)", name, *as_read, 5))
    peer = "generation, PyTorch conventional, batched"
    baked = _faster(1, f"{peer} (ours: nodes baked once for {TEST_SET:,} images)", name, "torch_generate", "bake", 100)
    rows.append(dataclasses.replace(baked, scale=TEST_SET / main.batch))
    written = f"{peer} (ours: each image's kernels written out from baked nodes)"
    rows.append(_faster(1, written, name, "torch_generate", "generate_baked", 100))
    exact, nodes_only = "generate_exact_gradient", "generate_nodes_gradient"
    contenders = exact, nodes_only, "generate_interpolated_gradient"
    name = measure(f"generate with gradient {step}", *contenders, size=step, answers=False)
    rows.append(_faster(2, "generation with gradient, exact path", name, exact, nodes_only, 10))
    written = "generation with gradient, exact path (ours: each image's kernels written out)"
    rows.append(_faster(2, written, name, exact, contenders[2], 10))
    small, large = (dataclasses.replace(main, batch=batch) for batch in batches)
    entries = {f"batch {size.batch}": ("generate_nodes", size) for size in (small, large)}
    measurements.append(Measurement("generate by batch", entries, answers=False))
    over, under = f"batch {large.batch}", f"batch {small.batch}"
    rows.append(_share(3, f"generation, {over} over {under}", "generate by batch", over, under, 1.2))
    name = measure(
        f"diffrax {nodes}", "diffrax", "scan", "diffrax_gradient", "scan_gradient", size=nodes, answers=False
    )
    rows.append(_share(11, "diffrax over lax.scan, forward", name, "diffrax", "scan", 1.1))
    rows.append(_share(11, "diffrax over lax.scan, with gradient", name, "diffrax_gradient", "scan_gradient", 1.3))
    if deep:
        measure(f"preset {main}", "preset_predict", "preset_train", size=main)
    return Plan(tuple(measurements), tuple(sorted(rows, key=lambda row: row.number)))


def _faster(number: int, peer: str, measurement: str, over: str, under: str, target: float) -> Row:
    return Row(number, f"times faster than: {peer}", measurement, over, under, "at least", target)


def _share(number: int, peer: str, measurement: str, over: str, under: str, target: float) -> Row:
    return Row(number, f"share of the time of: {peer}", measurement, over, under, "at most", target)
