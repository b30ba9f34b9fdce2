"""Times on the CPU, conventional beside proposed beside static: ``speed*.json``."""

from bench.report.words import Language
from bench.table import markdown, milliseconds
from bench.timing import Ratio, Times, ratio

# contender: (whose, what), in the order of the tables
_WHO = {
    "torch_batched": ("conventional (ODE)", "PyTorch, batched"),
    "torch_one_by_one": ("conventional (ODE)", "PyTorch, image by image"),
    "exact": ("conventional (ODE)", "JAX, kernels for every image"),
    "vmap": ("conventional (ODE)", "JAX, plain `vmap`"),
    "compile_predict": ("ours", "`compile_predict`, kernels of the ODE baked"),
    "torch_static": ("static", "PyTorch (oneDNN), all layers"),
    "static_jax": ("static", "JAX twin, all layers"),
    "complexity": ("a part of ours", "complexity alone"),
    "train_torch_batched": ("conventional (ODE)", "PyTorch, batched"),
    "train_exact": ("conventional (ODE)", "JAX, kernels for every image"),
    "train_vmap": ("conventional (ODE)", "JAX, plain `vmap`"),
    "train_interpolated": ("ODE, interpolated", "kernels at nodes in H"),
    "train_continuous": ("continuous, interpolated", "kernels at nodes in H"),
    "train_torch_static": ("static", "PyTorch, all layers"),
    "train_static_jax": ("static", "JAX twin, all layers"),
}
_SIZES = "Sizes are batch, channels, map; seven layers unless a fourth number says otherwise."
_KINDS = {
    "predict": ("Prediction, images to logits", ("compile_predict",)),
    "train": ("Training step", ("train_interpolated", "train_continuous")),
}


def render(data: dict, say: Language) -> str:
    told = say("Medians and quartiles over {rounds} rounds, measured in turns.", rounds=data["rounds"])
    parts = [say.together([say(_SIZES), told])]
    rest = dict(data["measurements"])
    for kind, (title, ours) in _KINDS.items():
        found = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{kind} ")}
        if found:
            parts += [f"#### {say(title)}", _times(kind, found, say)]
            parts += [_ratios(kind, found, one, say) for one in ours if has(found, one)]
    if rest:
        parts += [f"#### {say('Generation, integrator and presets')}", _others(rest, say)]
    parts += [f"#### {say('Targets')}", _targets(data["rows"], say)]
    return "\n\n".join(parts)


def has(found: dict, name: str) -> bool:
    return any(name in one["contenders"] for one in found.values())


def _names(found: dict) -> list[str]:
    """Contenders that were measured at any size, in the order of ``_WHO``, unknown ones last."""
    there = dict.fromkeys(name for one in found.values() for name in one["contenders"])
    return sorted(there, key=lambda name: list(_WHO).index(name) if name in _WHO else len(_WHO))


def _who(name: str, say: Language) -> tuple[str, str]:
    whose, what = _WHO.get(name, ("", f"`{name}`"))
    return say(whose), say(what)


def _times(kind: str, found: dict, say: Language) -> str:
    head = (say("kernels"), say("by"), *(f"{name.removeprefix(f'{kind} ')}: ms" for name in found))
    rows = [
        (*_who(name, say), *(_time(one["contenders"], name, say) for one in found.values())) for name in _names(found)
    ]
    left_out = [
        say("`{name}` in {where} ({why})", name=name, where=where, why=say.term(why))
        for where, one in found.items()
        for name, why in one["left_out"].items()
    ]
    told = say("Left out: {names}.", names=say.several(left_out))
    return markdown(head, rows) + (f"\n\n{told}" if left_out else "")


def _time(contenders: dict, name: str, say: Language) -> str:
    if name not in contenders:
        return "–"
    middle, low, high = (milliseconds(contenders[name][key]) for key in ("median_s", "low_s", "high_s"))
    return say("{middle} ({low} to {high})", middle=middle, low=low, high=high)


def _ratios(kind: str, found: dict, ours: str, say: Language) -> str:
    """Each peer's time over ours, formed round by round from the calls."""
    whose, what = _who(ours, say)
    head = (say("time over that of {whose}: {what}", whose=whose, what=what), say("by"))
    head += tuple(name.removeprefix(f"{kind} ") for name in found)
    peers = [name for name in _names(found) if name != ours]
    rows = [(*_who(name, say), *(cell(one["contenders"], name, ours, say) for one in found.values())) for name in peers]
    return markdown(head, rows)


def compared(contenders: dict, over: str, under: str) -> Ratio | None:
    """Time of one over that of another, where both were measured."""
    if over not in contenders or under not in contenders:
        return None
    return ratio(*(Times(contenders[name]["calls_s"]).per_round() for name in (over, under)))


def cell(contenders: dict, over: str, under: str, say: Language) -> str:
    """The same as a table has it."""
    found = compared(contenders, over, under)
    return "–" if found is None else say.spread(found.median, found.low, found.high)


def _others(found: dict, say: Language) -> str:
    rows = [
        (name, say.term(each["what"]), each["size"], _time(one["contenders"], label, say))
        for name, one in found.items()
        for label, each in one["contenders"].items()
    ]
    rows += [
        (name, f"`{label}`", "", say("left out: {why}", why=say.term(why)))
        for name, one in found.items()
        for label, why in one["left_out"].items()
    ]
    return markdown([say(each) for each in ("in", "what", "size", "ms")], rows)


def _targets(rows: list[dict], say: Language) -> str:
    lines = [
        (
            row["number"],
            say.term(row["what"]),
            row["measurement"],
            say.spread(row["median"], row["low"], row["high"]),
            f"{'≥' if row['sense'] == 'at least' else '≤'} {row['target']:g}",
            say.verdict(row["reached"]),
        )
        for row in rows
    ]
    head = ("row", "ratio", "in", "median (quartiles)", "target", "")
    return markdown([say(each) for each in head], lines)
