"""Numbers and names of things in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """`1 row`, `1,600 rows`, `0 rows`; a whole number is written with thousands separators.

    Args:
        number: how many.
        noun: in the singular.
        plural: of a noun that does not take an s.
    """
    shown = f"{number:,.0f}" if number == round(number) else f"{number:g}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence; those that spaces or line breaks would hide are quoted."""
    return ", ".join(name if name.isprintable() and name == name.strip() != "" else repr(name) for name in names)


def duration(seconds: float) -> str:
    """A time with two or three significant digits: `8.4 s`, `12 min`, `3.1 h`."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


_ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0)
"""Round numbers of minutes up to an hour, and of seconds."""


def rough_duration(seconds: float) -> str:
    """A time that was estimated from a short measurement: `15 min`, `2 h`, rounded to about a third of itself.

    Two measurements of the same machine then mostly read the same.
    """
    sizes = [*_ROUND, *(60 * count for count in _ROUND), *(3600 * count for count in (*_ROUND, 70.0, 100.0))]
    nearest = min(sizes, key=lambda size: abs(math.log(size / max(seconds, 1.0))))
    return duration(seconds if seconds > sizes[-1] else nearest).replace(".0 ", " ")


def clock(seconds: float) -> str:
    """A time as a clock shows it: `3:07`, `1:02:45`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
