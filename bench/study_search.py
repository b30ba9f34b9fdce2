"""The search of the study: how to build each generator, in five rounds of short runs on validation images.

At width 32 the static twin stores 56,160 kernel parameters; unless it is said otherwise, these store about a tenth of
that. Options say all that a preset might say otherwise.
"""

from bench.study_row import FLIP, Row

SIREN = {"hidden": 24}
RANK1 = {"channels": "low_rank", "rank": 1, "basis": 56, **SIREN}
RANK2 = {"channels": "low_rank", "rank": 2, "basis": 32, **SIREN}
RANK4 = {"channels": "low_rank", "rank": 4, "basis": 16, **SIREN}
ONE_LAYER = {**RANK2, "hidden_layers": 1, "hidden": 40}
MIXED = {"channels": "mixed", "basis": 120, **SIREN}
# More than the static twin stores: what is missing then is no capacity.
WHOLE64 = {"channels": "basis", "basis": 64, "hidden": 64}
SEPARABLE = {"rank": 58}
TUCKER = {"field": "tucker", "rank": 32}


def _row(name: str, what: str, source: str, options: dict, rate: float = 4e-3, more: dict | None = None) -> Row:
    return Row(f"design-{name}", "design", what, source, options, learning_rate=rate, more=more or {})


def _continuous(name: str, what: str, options: dict, rate: float = 4e-3, more: dict | None = None) -> Row:
    return _row(name, f"continuous, {what}", "continuous", options, rate, more)


def _first() -> list[Row]:
    """Storage of channel matrices, fields of the ODE, and a faster rate."""
    smaller = {**TUCKER, "gain": 6.0, "initial_scale": 0.1}
    return [
        _continuous("rank2-faster", "32 matrices of rank 2, rate 1e-2", RANK2, 1e-2),
        _continuous("mixed-faster", "120 fixed matrices, mixed, rate 1e-2", MIXED, 1e-2),
        _row("ode-separable-faster", "ODE, published field, start of rank 58, rate 1e-2", "ode", SEPARABLE, 1e-2),
        _continuous("basis", "4 whole matrices", {"channels": "basis", "basis": 4, "hidden": 32}),
        _continuous("rank1", "56 matrices of rank 1", RANK1),
        _continuous("rank2", "32 matrices of rank 2", RANK2),
        _continuous("rank4", "16 matrices of rank 4", RANK4),
        _continuous(
            "coordinates", "88 waves in channel coordinates", {"channels": "coordinates", "basis": 88, **SIREN}
        ),
        _continuous("mixed", "120 fixed matrices, mixed", MIXED),
        _row("ode-separable", "ODE, published field, start of rank 58", "ode", SEPARABLE),
        _row("ode-tucker-1", "ODE, field over three axes, gain 1, start of rank 32", "ode", TUCKER),
        _row("ode-tucker-6", "ODE, the same, gain 6", "ode", {**TUCKER, "gain": 6.0}),
        _row("ode-tucker-6-small", "ODE, the same, gain 6, start of scale 0.1", "ode", smaller),
    ]


def _frequencies() -> list[Row]:
    """What the static twin reaches in the time, and how high the sines' frequencies should be as an initial scale."""
    static = [_row(f"static-{rate}", f"stored, rate {rate}", "stored", {}, rate) for rate in (4e-3, 1e-2)]
    tried = [("rank2", "32 matrices of rank 2", RANK2, omega, 1e-2) for omega in (10.0, 30.0, 3.0)]
    tried.insert(0, ("rank2", "32 matrices of rank 2", RANK2, 10.0, 4e-3))
    tried += [("basis64", "64 whole matrices", WHOLE64, omega, 4e-3) for omega in (10.0, 30.0)]
    return [
        *static,
        *(
            _continuous(
                f"{name}-omega{omega:g}-{rate}",
                f"{what}, omega {omega:g}, rate {rate}",
                {**options, "omega": omega},
                rate,
            )
            for name, what, options, omega, rate in tried
        ),
    ]


def _second() -> list[Row]:
    """Again at a faster rate: storage, networks, the ODE's fields."""
    tucker = "ODE, field over three axes, gain 1, start of rank 32, rate 0.01"
    tried = {
        "rank1": ("56 matrices of rank 1", RANK1),
        "rank4": ("16 matrices of rank 4", RANK4),
        "mixed": ("120 fixed matrices, mixed", MIXED),
        "rank2-multiplicative": ("32 of rank 2, multiplicative network", {**RANK2, "network": "multiplicative"}),
        "rank2-one-layer": ("32 of rank 2, one sine layer", ONE_LAYER),
        "rank2-coordinate": ("32 of rank 2, H as a coordinate", {**RANK2, "conditioning": "coordinate"}),
        "rank2-modulation": ("32 of rank 2, H by modulation", {**RANK2, "conditioning": "modulation"}),
    }
    return [
        _continuous("second-rank2-0.02", "32 of rank 2, rate 0.02", RANK2, 2e-2),
        _row("static-0.02", "stored, rate 0.02", "stored", {}, 2e-2),
        *(_continuous(f"second-{n}", f"{what}, rate 0.01", options, 1e-2) for n, (what, options) in tried.items()),
        _row("second-tucker", tucker, "ode", TUCKER, 1e-2),
        _row("second-ode-0.02", "ODE, published field, start of rank 58, rate 0.02", "ode", SEPARABLE, 2e-2),
    ]


def _depth_axis() -> list[Row]:
    """How unlike layers should be at first, and whether that should make images' kernels unlike as well."""
    whole = {**WHOLE64, "conditioning": "none", "omega_depth": 60.0}
    which = (("none", 10.0), ("none", 60.0), ("layer", 60.0), ("depth", 30.0), ("depth", 60.0), ("none", 30.0))
    return [
        *(
            _continuous(
                f"{by}-omega{omega:g}",
                f"32 of rank 2, {_TOLD[by]}, omega {omega:g} in depth, rate 0.01",
                {**RANK2, "conditioning": by, "omega_depth": omega},
                1e-2,
            )
            for by, omega in which
        ),
        _continuous("basis64-none-omega60", "64 whole matrices, s = l / L, omega 60 in depth, rate 0.01", whole, 1e-2),
    ]


_TOLD = {"depth": "s = l dl", "none": "s = l / L", "layer": "s = l / L and H"}


def _recipe() -> list[Row]:
    """Augmentation and batch size for short training, on the static twin and on continuous kernels."""
    return [
        _row(
            f"recipe-{kernels}-{name.replace(' ', '-')}", f"{kernels}, rate {rate}, {name}", source, options, rate, more
        )
        for name, more in (("flip alone", FLIP), ("batch 32", {"batch-size": 32}))
        for kernels, source, options, rate in (("stored", "stored", {}, 2e-2), ("rank2", "continuous", RANK2, 1e-2))
    ]


def _third() -> list[Row]:
    """Again without crops: every method's rate, and the storage and fields that were in question."""
    tried = [
        ("rank2", 2e-2, "continuous", "continuous, 32 of rank 2", RANK2),
        ("rank2-one-layer", 2e-2, "continuous", "continuous, 32 of rank 2, one sine layer", ONE_LAYER),
        ("ode", 1e-2, "ode", "ODE, published field, start of rank 58", SEPARABLE),
        ("ode", 2e-2, "ode", "ODE, published field, start of rank 58", SEPARABLE),
        ("basis64", 1e-2, "continuous", "continuous, 64 whole matrices", WHOLE64),
        ("mixed", 1e-2, "continuous", "continuous, 120 fixed matrices, mixed", MIXED),
        ("printed", 4e-3, "printed", "ODE as printed", {}),
        ("printed", 1e-2, "printed", "ODE as printed", {}),
        ("rank1", 2e-2, "continuous", "continuous, 56 of rank 1", RANK1),
        ("tucker", 1e-2, "ode", "ODE, field over three axes, start of rank 32", TUCKER),
        ("stored", 4e-2, "stored", "stored", {}),
    ]
    return [
        _row(f"third-{name}-{rate}", f"{what}, flip alone, rate {rate}", source, options, rate, FLIP)
        for name, rate, source, what, options in tried
    ]


def _fourth() -> list[Row]:
    """What holds 64 whole matrices back, that could be the static twin's kernels: what layers or images share."""
    return [
        _continuous(
            f"fourth-{name}-{by}-omega60",
            f"{what}, flip alone, {_TOLD[by]}, omega 60 in depth, rate 0.01",
            {**options, "conditioning": by, "omega_depth": 60.0},
            1e-2,
            FLIP,
        )
        for name, what, options in (("basis64", "64 whole matrices", WHOLE64), ("rank2", "32 of rank 2", RANK2))
        for by in ("none", "layer")
    ]


def _fifth() -> list[Row]:
    """Again with orthogonal updates: every method's rate, and whether what is stored matters as much."""
    tried = [
        ("stored", 2e-2, "stored", "stored", {}),
        ("rank2", 2e-2, "continuous", "continuous, 32 of rank 2", RANK2),
        ("ode", 2e-2, "ode", "ODE, published field, start of rank 58", SEPARABLE),
        ("printed", 2e-2, "printed", "ODE as printed", {}),
        ("basis64", 2e-2, "continuous", "continuous, 64 whole matrices", WHOLE64),
        ("ode", 1e-2, "ode", "ODE, published field, start of rank 58", SEPARABLE),
        ("rank4", 2e-2, "continuous", "continuous, 16 of rank 4", RANK4),
    ]
    return [
        Row(
            f"design-fifth-{name}-{rate}",
            "design",
            f"{what}, flip alone, Muon, rate {rate}",
            source,
            options,
            optimiser="muon",
            learning_rate=rate,
            more=FLIP,
        )
        for name, rate, source, what, options in tried
    ]


SEARCH = (*_first(), *_frequencies(), *_second(), *_depth_axis(), *_recipe(), *_third(), *_fourth(), *_fifth())
