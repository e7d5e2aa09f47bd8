"""Where an axis has its marks, and how numbers are written."""

import math


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values within [low, high], evenly spaced by 1, 2, 2.5 or 5 times a power of ten, about `wanted` of them.

    Equal ends give that one value. Raises ValueError when `low` is above `high` or either is not finite.
    """
    _check_ends(low, high)
    span = high - low
    if not math.isfinite(span):
        return [low, high]
    if span <= abs(high) * 1e-12 or span < 1e-300:
        return [low]
    rough = span / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [min(high, max(low, index * step)) for index in range(first, last + 1)] or [low]


def log_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Values within [low, high] at powers of ten, with 2 and 5 times them where few decades are shown.

    Raises ValueError unless 0 < low <= high and both are finite.
    """
    _check_ends(low, high)
    if low <= 0:
        raise ValueError(f"a logarithmic axis cannot show {low}")
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        found = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) >= 3:
            stride = math.ceil(len(found) / (2 * wanted))
            return [min(high, max(low, value)) for value in found[::stride]]
    return linear_ticks(low, high, wanted)


def _check_ends(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"an axis cannot go from {low} to {high}")


def exact(value: float) -> str:
    """Six significant digits, without an exponent where it reads well: 12,345.6 or 3e-05."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.6g}" if abs(value) < 1e4 or abs(value) >= 1e15 else f"{value:,.1f}"


def short(value: float) -> str:
    """Three significant digits with k, M, B or T: 1.1B, 24k, 0.5, 3e-4."""
    if value == 0:
        return "0"
    for suffix, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor * 0.9995:
            return f"{_three_digits(value / factor)}{suffix}"
    if abs(value) < 1e-3:
        mantissa, power = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{share * 100:.1f}%"


def size(n_bytes: float) -> str:
    """Bytes in decimal units: 1.2 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor * 0.9995:
            return f"{_three_digits(n_bytes / factor)} {unit}"
    return f"{n_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 3 min 05 s, 2 h 07 min, 90.4 days."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < 48 * 3600:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h {rest:02d} min"
    return f"{seconds / 86_400:.1f} days"
