"""The style of all figures, and how they are saved.

Figures are created without pyplot, so that nothing global changes and any thread may draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from adapad_ray.files import atomic_path
from adapad_ray.report.style.colours import GREY, INK

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "adapad-ray",
    "svg.fonttype": "path",
    "text.parse_math": False,
}
"""Matplotlib settings of the figures. They apply while axes are created: draw inside `rc_context(STYLE)`."""


def save_figure(figure: Figure, stem: Path | str) -> tuple[Path, Path]:
    """Writes `stem.png` (150 dpi) and `stem.svg` atomically; the same figure gives the same SVG bytes."""
    png, svg = (Path(f"{stem}{suffix}") for suffix in (".png", ".svg"))
    with rc_context(STYLE):
        with atomic_path(png) as temporary:
            figure.savefig(temporary, dpi=150, facecolor="white")
        with atomic_path(svg) as temporary:
            no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(temporary, facecolor="white", metadata=no_metadata)
    return png, svg
