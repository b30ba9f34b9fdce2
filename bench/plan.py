"""What ``python -m bench speed`` compares, and its targets: bench/plans/speed.toml, read."""

import dataclasses
import tomllib
from pathlib import Path

from bench.case import Size

_PATH = Path(__file__).with_name("plans") / "speed.toml"
TINY = Size(3, 12, 16, 2)  # several channels a group, uneven padding


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Contenders (``bench.contenders``) of one size that take turns, for one part of the command, and the rows that are
    made of their times: number, what, over, under (names), sense, target and scale of each."""

    kind: str
    size: Size
    contenders: tuple[str, ...]
    rows: tuple[dict, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.size}"


def read(quick: bool = False) -> list[Measurement]:
    """Every measurement; ``quick`` ones are of a size that only shows that the command runs."""
    plan = tomllib.loads(_PATH.read_text(encoding="utf-8"))
    found = []
    for kind in plan["measurements"]:
        for place, size in enumerate([TINY] if quick else [Size(*each) for each in kind["sizes"]]):
            contenders = (*kind["contenders"], *(() if place else kind.get("at_first_size", ())))
            rows = [_row(row, place) for row in kind["rows"]]
            rows = tuple(row for row in rows if {row["over"], *row["under"]} <= set(contenders))
            found.append(Measurement(kind["name"], size, contenders, rows))
    return found


def _row(row: dict, place: int) -> dict:
    """A row of the plan at the size of this place."""
    under, goal = row["under"], row.get("target")
    under, goal = [under] if isinstance(under, str) else under, goal[place] if isinstance(goal, list) else goal
    return {"scale": 1.0, "sense": None, **row, "under": under, "target": goal}
