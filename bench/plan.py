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
    sizes = Size(64, 64, 16), Size(64, 128, 8), Size(64, 32, 32), Size(256, 64, 16)
    return _plan(sizes, depths=Size(8, 64, 16, layers=8))


def quick() -> Plan:
    """Most rows at sizes that only show that the benchmark runs."""
    tiny = Size(3, 8, 8, layers=2)
    return _plan((tiny,), depths=tiny)


def _plan(sizes: tuple[Size, ...], depths: Size) -> Plan:
    measurements, rows = [], []
    main = sizes[0]

    def measure(name: str, *contenders: str, size: Size, answers: bool = True) -> str:
        measurements.append(Measurement(name, {c: (c, size) for c in contenders}, answers))
        return name

    for size in sizes:
        more = ("exact", "vmap", "complexity") if size == main else ()
        peers = ("static_jax", "torch_batched", "torch_one_by_one", "torch_static")
        name = measure(f"predict {size}", "compile_predict", *peers, *more, size=size)
        rows.append(_share(1, "PyTorch's static CNN", name, "compile_predict", "torch_static", 0.9))
        rows.append(_faster(2, "PyTorch conventional, batched", name, "torch_batched", "compile_predict", 3))
        rows.append(_faster(3, "PyTorch conventional, image by image", name, "torch_one_by_one", "compile_predict", 8))
        rows.append(_share(4, "static twin in JAX", name, "compile_predict", "static_jax", 1.0))
    for size in sizes:
        more = ("train_vmap", "train_torch_batched", "train_exact") if size == main else ()
        contenders = "train_continuous", "train_ode", "train_torch_static", "train_static_jax"
        name = measure(f"train {size}", *contenders, *more, size=size)
        static, most = "training step, PyTorch's static CNN", 1.25 if size.channels > 64 else 1.0
        rows.append(_share(5, f"{static} (ours: continuous)", name, "train_continuous", "train_torch_static", most))
        rows.append(_share(6, f"{static} (ours: ODE)", name, "train_ode", "train_torch_static", 1.5))
        twin = "training step, static twin in JAX (ours: continuous)"
        rows.append(_share(7, twin, name, "train_continuous", "train_static_jax", 1.0))
        if size == main:
            rows.append(_faster(8, "training step, plain vmap", name, "train_vmap", "train_ode", 50))
            conventional = "training step, PyTorch conventional, batched"
            rows.append(_faster(8, conventional, name, "train_torch_batched", "train_ode", 3))
    exact = "generate_exact", "generate_continuous"
    as_read = "generate_exact_as_read", "generate_continuous_as_read"
    gradients = "generate_bank_gradient", "generate_bank_continuous_gradient"
    name = measure(f"generate {main}", "bake", "torch_generate", *exact, *as_read, *gradients, size=main)
    ode = "generation, ODE (ours: continuous, kernels for every image"
    rows.append(_faster(9, f"{ode})", name, *exact, 5))
    rows.append(_faster(9, f"{ode}, in the order the convolution reads)", name, *as_read, 5))
    peer = f"generation, PyTorch conventional, batched (ours: baked once for {TEST_SET:,} images)"
    baked = _faster(10, peer, name, "torch_generate", "bake", 100)
    rows.append(dataclasses.replace(baked, scale=TEST_SET / main.batch))
    integrators = "diffrax", "scan", "diffrax_gradient", "scan_gradient"
    name = measure(f"diffrax {depths}", *integrators, size=depths, answers=False)
    rows.append(_share(11, "diffrax over lax.scan, forward", name, "diffrax", "scan", 1.1))
    rows.append(_share(11, "diffrax over lax.scan, with gradient", name, "diffrax_gradient", "scan_gradient", 1.3))
    return Plan(tuple(measurements), tuple(sorted(rows, key=lambda row: row.number)))


def _faster(number: int, peer: str, measurement: str, over: str, under: str, target: float) -> Row:
    return Row(number, f"times faster than: {peer}", measurement, over, under, "at least", target)


def _share(number: int, peer: str, measurement: str, over: str, under: str, target: float) -> Row:
    return Row(number, f"share of the time of: {peer}", measurement, over, under, "at most", target)
