"""Plain printing on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.console

_WIDTH = 120
"""Columns for output that goes to a file or a pipe: enough for the widest table."""


def terminal(*, stderr: bool = False) -> rich.console.Console:
    """A console as wide as the terminal, or 120 columns where the output is no terminal."""
    import rich.console

    console = rich.console.Console(stderr=stderr)
    return console if console.is_terminal else rich.console.Console(stderr=stderr, width=_WIDTH)


def print_line(text: str) -> None:
    """Prints one line on stdout as it is: not wrapped, without markup or colours."""
    terminal().print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Prints one line on stderr that begins with the command's name."""
    terminal(stderr=True).print(f"adapad: {message}", markup=False, highlight=False, soft_wrap=True)
