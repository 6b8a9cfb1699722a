"""Numbers as people read them."""

from __future__ import annotations


def percent(part: float) -> str:
    """A share in words: ``34 %``."""
    return f"{100 * part:.0f} %"


def short(number: float) -> str:
    """A number of at most four digits, with a suffix: ``12.3 k``."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(number) >= size:
            return f"{number / (1e3 if suffix == ' k' else size):.3g}{suffix}"
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def seconds(time: float | None) -> str:
    """A time in words."""
    if time is None:
        return "\N{EN DASH}"
    if time < 1:
        return f"{1000 * time:.0f} ms"
    if time < 90:
        return f"{time:.1f} s" if time < 10 else f"{time:.0f} s"
    return f"{time / 60:.0f} min"


def factor(times: float) -> str:
    """How many times: ``4.2`` and the sign for it."""
    number = f"{times:.0f}" if times >= 10 else f"{times:.1f}"
    return f"{number} \N{MULTIPLICATION SIGN}"
