"""Numbers of things in sentences."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """`1 row`, `1,600 rows`, `0 rows`; a whole number is written with thousands separators.

    Args:
        number: how many.
        noun: in the singular.
        plural: of a noun that does not take an s.
    """
    shown = f"{number:,.0f}" if number == round(number) else f"{number:g}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"
