"""What a sweep prints about its data."""

import io

import rich.console

from adapad_ray.cli.console import Console
from adapad_ray.tasks import SplitSize


def test_the_rows_of_every_split_and_class_are_one_line():
    out = io.StringIO()
    console = Console(rich.console.Console(file=out, width=200))
    console.data_read(
        {
            "train": SplitSize(70, {"[red]": 60, "01": 10}, available=700),
            "validation": SplitSize(10, {"[red]": 9, "01": 1}, available=10, carved=True),
            "test": SplitSize(20),
        }
    )
    assert out.getvalue() == (
        "Data: train 70 of 700 rows ([red] 60, 01 10); validation 10 rows ([red] 9, 01 1); test 20 rows; "
        "validation carved from the training data.\n"
    )
