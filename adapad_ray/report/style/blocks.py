"""The elements of the page: paragraphs, lists and tables. Each renders itself as HTML.

Plain strings are escaped. `markupsafe.Markup` is not: build it with `Markup("<b>{}</b>").format(text)`, which escapes
`text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from markupsafe import Markup, escape

Text = str | Markup


class Block(Protocol):
    """Anything that renders itself as HTML."""

    def __html__(self) -> str:
        """The element's HTML."""
        ...


@dataclass(frozen=True)
class Heading:
    """A second-level heading."""

    text: Text

    def __html__(self) -> str:
        return Markup("<h2>{}</h2>").format(self.text)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `style` is a CSS class of the page (`muted` for notes, `lead` for the opening)."""

    text: Text
    style: str = ""

    def __html__(self) -> str:
        return Markup("<p{}>{}</p>").format(_css_class(self.style), self.text)


def note(text: Text) -> Paragraph:
    """A paragraph in grey that explains the table or figure above it."""
    return Paragraph(text, "muted")


@dataclass(frozen=True)
class Bullets:
    """An unordered list; with a `summary` it is folded under it."""

    items: Sequence[Text]
    summary: Text = ""

    def __html__(self) -> str:
        items = Markup("\n").join(Markup("<li>{}</li>").format(item) for item in self.items)
        bullets = Markup("<ul>\n{}\n</ul>").format(items)
        if not self.summary:
            return bullets
        return Markup("<details><summary>{}</summary>\n{}\n</details>").format(self.summary, bullets)


@dataclass(frozen=True)
class Table:
    """A table. The first column is text, the others are numbers, right-aligned.

    Args:
        columns: the headings; a newline breaks the line.
        rows: the cells, as many in each row as there are columns.
        styles: CSS classes by column index: `text` (left-aligned) or `wrap` (left-aligned text of several lines).
        highlighted: indices of the rows to mark.
    """

    columns: Sequence[Text]
    rows: Sequence[Sequence[Text | int]]
    styles: Mapping[int, str] = field(default_factory=dict)
    highlighted: frozenset[int] = frozenset()

    def __html__(self) -> str:
        head = Markup("").join(
            Markup("<th{}>{}</th>").format(_css_class("text" if i in self.styles else ""), _with_breaks(column))
            for i, column in enumerate(self.columns)
        )
        body = Markup("\n").join(self._row(i, row) for i, row in enumerate(self.rows))
        return Markup(
            '<div class="scroll"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>'
        ).format(head, body)

    def _row(self, index: int, row: Sequence[Text | int]) -> Markup:
        cells = Markup("").join(
            Markup("<td{}>{}</td>").format(_css_class(self.styles.get(i, "")), cell) for i, cell in enumerate(row)
        )
        return Markup("<tr{}>{}</tr>").format(_css_class("chosen" if index in self.highlighted else ""), cells)


def muted(text: Text) -> Markup:
    """Text in grey, within a line."""
    return Markup('<span class="muted">{}</span>').format(text)


def code(text: Text) -> Markup:
    """Text in the fixed-width font, within a line."""
    return Markup("<code>{}</code>").format(text)


def settings_list(values: Mapping[str, Text]) -> Markup:
    """Names and values of settings, one after another; a dash where there are none."""
    settings: Iterable[Markup] = (
        Markup('<span class="setting"><code>{}</code> {}</span> ').format(name, value) for name, value in values.items()
    )
    return Markup("").join(settings) or Markup("–")


def mark(condition: bool) -> str:
    """A dot where the condition holds, else nothing."""
    return "●" if condition else ""


def _css_class(name: str) -> Markup:
    return Markup(' class="{}"').format(name) if name else Markup("")


def _with_breaks(text: Text) -> Markup:
    return escape(text).replace("\n", Markup("<br>"))
