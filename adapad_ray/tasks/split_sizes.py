"""How many rows each split has of each class, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapad_ray.wording import counted

_MOST_CLASSES = 10
"""Classes that a sentence lists; of more it gives the range."""


@dataclass(frozen=True)
class SplitSize:
    """How much of a split is used."""

    rows: int
    classes: dict[str, int] = field(default_factory=dict)
    """Class → rows, in the order of the classes; empty without classes."""
    available: int | None = None
    """Rows before `max_<split>_examples`; None where they are not known."""
    carved: bool = False
    """Whether the split was carved from the training data."""

    @property
    def used_rows(self) -> str:
        """`1,600 of 8,878`, or `151`."""
        return f"{self.rows:,}" if self.available in (None, self.rows) else f"{self.rows:,} of {self.available:,}"

    @property
    def rows_in_words(self) -> str:
        """`1,600 of 8,878 rows`, or `151 rows`."""
        return f"{self.used_rows} {'row' if self.used_rows == '1' else 'rows'}"

    @property
    def classes_in_words(self) -> str:
        """`fresh 800, rotten 800`, or `77 classes of 2 to 10 rows`; empty without classes."""
        if len(self.classes) > _MOST_CLASSES:
            low, high = min(self.classes.values()), max(self.classes.values())
            each = f"{low:,} to {counted(high, 'row')}" if low < high else f"{counted(high, 'row')} each"
            return f"{len(self.classes)} classes of {each}"
        return ", ".join(f"{name} {rows:,}" for name, rows in self.classes.items())


def sizes_in_words(sizes: Mapping[str, SplitSize]) -> str:
    """All splits in one line, and which were carved."""
    splits = [
        f"{name} {size.rows_in_words}" + (f" ({size.classes_in_words})" if size.classes else "")
        for name, size in sizes.items()
    ]
    return "; ".join(splits) + carved_in_words(sizes)


def carved_in_words(sizes: Mapping[str, SplitSize]) -> str:
    """The end of a sentence that names the carved splits; empty if there are none."""
    carved = [name for name, size in sizes.items() if size.carved]
    return f"; {' and '.join(carved)} carved from the training data" if carved else ""
