"""Numbers as the report prints them. A dash stands for a missing value."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"


def count(value: float | None) -> str:
    """A whole number with thousands separators: 41472 → `41,472`."""
    return MISSING if value is None or math.isnan(value) else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A metric or another number around 1, with three decimals."""
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}"


def one_decimal(value: float) -> str:
    """A mean of counts, with one decimal."""
    return MISSING if math.isnan(value) else f"{value:.1f}"


def quantity(value: float) -> str:
    """Three significant digits with a unit prefix: 3.1e12 → `3.1 T`."""
    for size, unit in ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:  # 999.6 is 1e+03 with three digits, and 1 of the next unit
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes with three significant digits: 4e8 → `400 MB`."""
    if math.isnan(value):
        return MISSING
    text = quantity(value)
    return f"{text}B" if " " in text else f"{text} B"


def setting(value: Any) -> str:
    """The value of a hyperparameter."""
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def short_count(value: float) -> str:
    """A parameter count for axes: 41472 → `41.5k`, 22700000 → `22.7M`."""
    for unit_size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit_size:
            return f"{value / unit_size:.3g}{unit}"
    return f"{value:.0f}"


def points(difference: float) -> str:
    """A difference of metrics in points (hundredths), rounded to one decimal: 0.015 → `1.5 points`."""
    text = f"{100 * difference:.1f}".removesuffix(".0")
    return f"{text} point{'s' * (text != '1')}"


def margin(delta: float) -> str:
    """A margin of the metric in points (hundredths), in full: 0.01 → `1 point`."""
    return f"{100 * delta:g} point{'s' * (100 * delta != 1)}"


def p_value(value: float) -> str:
    """A p-value with its relation sign: `= 0.013`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def metric_name(metric: str) -> str:
    """A metric's name in prose: `matthews_correlation` → `matthews correlation`."""
    return metric.replace("_", " ")


def seed_count(seeds: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{seeds} seed{'s' * (seeds != 1)}"
