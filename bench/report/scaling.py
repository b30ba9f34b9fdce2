"""Exponents of time in batch, width, depth, image size and cores: ``scaling.json``."""

from bench.scaling import exponent, values
from bench.table import markdown, milliseconds

_WHO = {
    "compile_predict": "prediction, ours",
    "static_jax": "prediction, static twin in JAX",
    "train_interpolated": "training step, interpolated ODE",
    "train_continuous": "training step, interpolated continuous",
    "train_static_jax": "training step, static twin in JAX",
}


def render(data: dict) -> str:
    found = data["quantities"]
    names = list(dict.fromkeys(name for one in found.values() for name in one["contenders"]))
    head = ("time grows as the power", *(f"of {quantity} ({values(one)})" for quantity, one in found.items()))
    rows = [("of the arithmetic alone", *(f"{one['arithmetic']:g}" for one in found.values()))]
    rows += [(_WHO.get(name, name), *(_cell(one, name, exponent) for one in found.values())) for name in names]
    last = [
        ("between the two greatest: " + _WHO.get(name, name), *(_cell(one, name, _last) for one in found.values()))
        for name in names
    ]
    times = [(_WHO.get(name, name), *(_cell(one, name, _times) for one in found.values())) for name in names]
    told = (
        f"{data['about']} Exponents by least squares on the logarithms of medians over {data['rounds']} rounds, ± the "
        "standard error of the slope (two sizes fit every power law), in brackets 95 % over rounds drawn again."
    )
    left_out = [f"Left out: {name}: {why}." for name, why in data["left_out"].items()]
    parts = [told, markdown(head, [*rows, *last]), markdown(("ms", *found), times), *left_out]
    return "\n\n".join(parts)


def _cell(one: dict, name: str, of) -> str:
    contender = one["contenders"].get(name)
    return "–" if contender is None else of(contender)


def _last(contender: dict) -> str:
    return f"{contender['last']:.2f}"


def _times(contender: dict) -> str:
    return " / ".join(milliseconds(seconds) for seconds in contender["median_s"])
