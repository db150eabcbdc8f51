"""Plain printing on the terminal, which never ends a command: not by its encoding, and not by its absence."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    import rich.console

_WIDTH = 10_000
"""Columns for output that goes to a file or a pipe: no table loses a column there, and no sentence is broken."""
_PLAIN = {"–": "-", "—": "-", "−": "-", "…": "...", "’": "'", "×": "x", "±": "+/-", "≤": "<=", "≥": ">=", "→": "->"}
_PLAIN |= {"━": "=", "─": "-", "·": "|"}  # of the live lines
"""What a stream shows whose encoding lacks these characters; all others become `?`."""
_ERRORS = "adapad.plain"
"""Name under which `_in_plain_characters` is registered with Python's codecs."""


def prepare_streams() -> None:
    """Lets stdout and stderr replace characters that their encodings lack, and opens those that the shell has closed.

    A file that is opened later would get the number of a closed stream, and whatever is printed.
    """
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    codecs.register_error(_ERRORS, _in_plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


class Output(io.TextIOBase):
    """A text stream that loses lines rather than raise.

    After the first write that fails, because the reader of a pipe has ended (`| head`), a terminal was closed or a disk
    is full, nothing is shown any more.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream; rich draws tables accordingly."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes if it can."""
        try:
            self._stream.write(text)
        except OSError:
            self._end()
        return len(text)

    def flush(self) -> None:
        """Flushes the stream if it can."""
        try:
            self._stream.flush()
        except OSError:
            self._end()

    def _end(self) -> None:
        """Lets the rest go nowhere, in this process's other streams on the same file too.

        Python flushes stdout at its end, and would fail there again.
        """
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def terminal(*, stderr: bool = False) -> rich.console.Console:
    """A console as wide as the terminal, or without a limit where the output is no terminal."""
    import rich.console

    stream = sys.stderr if stderr else sys.stdout
    file = None if stream is None else cast(IO[str], Output(stream))  # None: closed by the shell, as in `>&-`
    console = rich.console.Console(stderr=stderr, file=file)
    return console if console.is_terminal else rich.console.Console(stderr=stderr, file=file, width=_WIDTH)


def print_line(text: str) -> None:
    """Prints one line on stdout as it is: not wrapped, without markup or colours."""
    terminal().print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Prints one line on stderr that begins with the command's name."""
    terminal(stderr=True).print(f"adapad: {message}", markup=False, highlight=False, soft_wrap=True)
