"""Builds a report: computes the sections, writes their files, and assembles one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from adapad_ray.files import write_text
from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.recommendation import Recommendation
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.sections import SECTIONS
from adapad_ray.report.style.blocks import Block
from adapad_ray.report.style.drawing import STYLE, save_figure
from adapad_ray.report.sweep_results import SweepResults

PAGE = "report.html"
_LARGEST_FALLBACK = 300_000
"""Characters of a static figure that an interactive chart keeps for readers without scripts."""


@dataclass(frozen=True)
class Report:
    """A finished report: its files, and what the command line prints of it."""

    files: dict[str, Path]
    """Path by name, such as `report.html`, `curve.csv` and `curve.png`."""
    recommendation: Recommendation
    metric: str
    table: pd.DataFrame
    """The curve, one row per deployable model: see `Curves.table`."""
    verdicts: tuple[str, ...]
    """For each search, one sentence on whether its front dominates the default points."""


class _Part(NamedTuple):
    """A section as the page template takes it."""

    heading: str
    figures: list[Markup]
    """Elements of the page."""
    words: list[Block]


def build_report(folder: Path | str, inputs: ReportInputs, sections: Sequence[type[Section]] = SECTIONS) -> Report:
    """Writes the report of a sweep's finished cells into its folder, each file atomically.

    The same cells give the same files.

    Raises:
        BadRequestError: the folder has no finished cell of the curve stage, or a record is damaged.
    """
    folder = Path(folder)
    sweep = SweepResults(folder, inputs)
    templates = Environment(
        loader=PackageLoader("adapad_ray.report", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files: dict[str, Path] = {}
    parts = []
    for section in filter(None, (section.compute(sweep) for section in sections)):
        for name, content in section.files().items():
            files[name] = folder / name
            write_text(files[name], content)
        figures = []
        with rc_context(STYLE):
            for chart in section.figures():
                inline = Markup()
                if chart.figure is not None:
                    png, svg = save_figure(chart.figure, folder / chart.stem)
                    files |= {png.name: png, svg.name: svg}
                    inline = _inline(svg, chart.description)
                figures.append(_element(templates, chart, inline))
        parts.append(_Part(section.heading, figures, list(section.words())))
    files[PAGE] = folder / PAGE
    write_text(files[PAGE], _render(templates, inputs.title, parts))
    verdicts = tuple(search.verdict for search in sweep.searches)
    return Report(files, sweep.recommendation, sweep.metric, sweep.table, verdicts)


def _render(templates: Environment, title: str, parts: Sequence[_Part]) -> str:
    style, licence, *scripts = (
        Markup((resources("adapad_ray.report") / "web" / name).read_text(encoding="utf-8"))
        for name in ("report.css", "vega.LICENSE.txt", "vega.min.js", "report.js")
    )
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    # The browser itself refuses every request, and every script but these two. Vega compiles expressions.
    policy = " ".join(
        [
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval'",
            *(f"'sha256-{digest}'" for digest in digests),
        ]
    )
    return templates.get_template("page.html.j2").render(
        title=title, sections=parts, policy=policy, style=style, licence=licence, scripts=scripts
    )


def _element(templates: Environment, chart: Chart, inline: Markup) -> Markup:
    """The chart on the page: interactive if it has a plot; `inline` is the static figure."""
    if chart.plot is None:
        return Markup("<figure>{}</figure>").format(inline)
    if len(inline) > _LARGEST_FALLBACK:
        inline = Markup("<p>This chart needs JavaScript. {}.svg in the sweep's folder is static.</p>").format(
            chart.stem
        )
    return Markup(
        templates.get_template("plot.html.j2").render(
            stem=chart.stem, description=chart.description, plot=chart.plot, svg=inline
        )
    )


def _inline(svg: Path, description: str) -> Markup:
    """The figure as an element of the page: no prologue, no namespace addresses, and a name for screen readers.

    The file is safe to include: matplotlib has escaped the labels in it.
    """
    text = svg.read_text(encoding="utf-8")
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :], count=3)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    opening = Markup('<svg role="img" aria-label="{}"').format(description)
    return Markup(text.replace("<svg", str(opening), 1))
