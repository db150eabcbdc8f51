"""Tables fit the terminal: columns that one can do without go first, and none is cut."""

import io

import pytest
import rich.console
from rich.table import Table

from adapad_ray.cli.output.tables import fitted


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (60, ["method", "rank mean / max", "seeds", "seconds"]),
        (50, ["method", "rank mean / max", "seeds"]),
        (40, ["method", "rank mean / max"]),
        (30, ["method"]),
    ],
)
def test_columns_go_in_the_given_order_until_the_rest_fits(width, headings):
    table = Table()
    for heading in ("method", "rank mean / max", "seeds", "seconds"):
        table.add_column(heading, no_wrap=True)
    table.add_row("adapad/initial", "12.5 / 48", "3", "1,200")
    out = io.StringIO()
    console = rich.console.Console(file=out, width=width)
    console.print(fitted(table, console, ("seconds", "seeds", "rank mean / max")))
    shown = out.getvalue()
    assert [cell.strip() for cell in shown.splitlines()[1].strip("┃").split("┃")] == headings
    assert "…" not in shown and "adapad/initial" in shown
    left_out = [heading for heading in ("seconds", "seeds", "rank mean / max") if heading not in headings]
    assert ", ".join(left_out) in " ".join(shown.split()) and ("too narrow for" in shown) == bool(left_out)
