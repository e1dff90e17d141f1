"""Round ticks, and numbers as short as they can be read."""

import math


def round_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from at most `low` to at least `high`, about `count` of them.

    Args:
        low: Finite.
        high: Finite, not below `low`; equal ones get room around them.
        count: Steps between ticks that are aimed at.
    """
    if high == low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    pitch = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / pitch + 1e-9), math.ceil(high / pitch - 1e-9)
    return [float(f"{k * pitch:.12g}") for k in range(first, last + 1)]


def format_number(value: float) -> str:
    """At most four significant digits: 12,345,678 as 12.35M, 0.002 as 2e-3."""
    size = abs(value)
    for limit, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / unit:.4g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 1e-2:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def format_percent(share: float, *, digits: int = 1) -> str:
    """0.9889 as 98.9 %, with a space that does not break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def format_seconds(seconds: float) -> str:
    """12.3 s, 4 min 5 s or 1 h 2 min."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
