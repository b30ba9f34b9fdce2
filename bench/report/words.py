"""Numbers as a report writes them."""


def number(value: float) -> str:
    """Three significant digits, more before the point; no exponent for what is 0.0001 or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def spread(median: float, low: float, high: float) -> str:
    """A median with its quartiles, or a mean with its least and greatest: the table says which."""
    return f"{number(median)} ({number(low)} to {number(high)})"


def mib(count: float | None) -> str:
    """Bytes in MiB."""
    return "–" if count is None else f"{count / 2**20:,.1f}"


def percent(share: float) -> str:
    return f"{share:.1%}"
