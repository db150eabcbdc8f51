"""Tables as notebooks show them."""

from __future__ import annotations

from html import escape
from numbers import Integral
from typing import Any

import pandas as pd


def html(sentence: str, *tables: pd.DataFrame) -> str:
    """A sentence, and tables below it."""
    return f"<p>{escape(sentence)}</p>" + "".join(table.map(_text).to_html(index=False) for table in tables)


def _text(value: Any) -> str:
    """Whole numbers with separators, others with three digits after the point, and a dash for what is missing."""
    if not isinstance(value, str) and pd.isna(value):
        return "–"
    if isinstance(value, float) and not (value == 0 or (value.is_integer() and abs(value) >= 2)) and abs(value) < 1000:
        return f"{value:.3f}"
    if isinstance(value, Integral | float) and not isinstance(value, bool):
        return f"{value:,.0f}"
    return str(value)
