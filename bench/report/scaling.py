"""Exponents of time in batch, width, depth, image size and cores: ``scaling.json``."""

from bench.report.words import Language
from bench.scaling import values
from bench.table import markdown, milliseconds

_WHO = {
    "compile_predict": "prediction, ours",
    "static_jax": "prediction, static twin in JAX",
    "train_interpolated": "training step, interpolated ODE",
    "train_continuous": "training step, interpolated continuous",
    "train_static_jax": "training step, static twin in JAX",
}


def render(data: dict, say: Language) -> str:
    found = data["quantities"]
    names = list(dict.fromkeys(name for one in found.values() for name in one["contenders"]))
    who = {name: say(_WHO[name]) if name in _WHO else f"`{name}`" for name in names}
    of = [say("of {quantity} ({values})", quantity=say.term(q), values=values(one)) for q, one in found.items()]
    rows = [(say("of the arithmetic alone"), *(f"{one['arithmetic']:g}" for one in found.values()))]
    rows += [(who[name], *(_cell(one, name, say, _exponent) for one in found.values())) for name in names]
    rows += [
        (
            say("between the two greatest: {who}", who=who[name]),
            *(_cell(one, name, say, _last) for one in found.values()),
        )
        for name in names
    ]
    times = [(who[name], *(_cell(one, name, say, _times) for one in found.values())) for name in names]
    told = say(
        "{about} Exponents by least squares on the logarithms of medians over {rounds} rounds, ± the standard error of "
        "the slope (two sizes fit every power law), in brackets 95 % over rounds drawn again.",
        about=say.term(data["about"]),
        rounds=data["rounds"],
    )
    left_out = [say("Left out: {name}: {why}.", name=name, why=say.term(why)) for name, why in data["left_out"].items()]
    tables = [markdown((say("time grows as the power"), *of), rows)]
    tables.append(markdown(("ms", *map(say.term, found)), times))
    return "\n\n".join([told, *tables, *left_out])


def _cell(one: dict, name: str, say: Language, of) -> str:
    contender = one["contenders"].get(name)
    return "–" if contender is None else of(contender, say)


def _exponent(contender: dict, say: Language) -> str:
    error = "" if contender["standard_error"] is None else f" ± {contender['standard_error']:.2f}"
    low, high = (f"{contender[key]:.2f}" for key in ("low", "high"))
    return say("{middle} ({low} to {high})", middle=f"{contender['exponent']:.2f}{error}", low=low, high=high)


def _last(contender: dict, say: Language) -> str:
    return f"{contender['last']:.2f}"


def _times(contender: dict, say: Language) -> str:
    return " / ".join(milliseconds(seconds) for seconds in contender["median_s"])
