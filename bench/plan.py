"""What ``python -m bench speed`` compares, and its targets: bench/plans/speed.toml, read."""

import dataclasses
import tomllib
from pathlib import Path

from bench.case import Size

FOLDER = Path(__file__).with_name("plans")
_TINY = (3, 8, 8, 2)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Contenders of one size that take turns, and the rows that are made of their times.

    Attributes:
        kind: the part of the command that it belongs to.
        size: of every contender.
        contenders: names in ``bench.contenders``.
        rows: number, what, over, under, sense, target and scale of each.
    """

    kind: str
    size: Size
    contenders: tuple[str, ...]
    rows: tuple[dict, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.size}"


def read(quick: bool = False) -> list[Measurement]:
    """Every measurement; ``quick`` ones are of a size that only shows that the command runs."""
    plan = tomllib.loads((FOLDER / "speed.toml").read_text(encoding="utf-8"))
    found = []
    for kind in plan["measurements"]:
        for size in [_TINY] if quick else kind["sizes"]:
            first = quick or size == kind["sizes"][0]
            contenders = (*kind["contenders"], *(kind.get("at_first_size", ()) if first else ()))
            rows = tuple(_row(row, size[1]) for row in kind["rows"] if {row["over"], row["under"]} <= set(contenders))
            found.append(Measurement(kind["name"], Size(*size), contenders, rows))
    return found


def _row(row: dict, channels: int) -> dict:
    row = {"scale": 1.0, **row}
    at_128 = row.pop("target_at_128_channels", row["target"])
    return {**row, "target": at_128 if channels == 128 else row["target"]}
