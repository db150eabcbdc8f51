"""Shared by the tests of hostile input: a limit on memory, and the form of an error message."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

ROOM = 1 << 30
"""Bytes of additional address space that reading hostile input may use."""


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Limits memory inside the block; allocating more raises MemoryError, which no test expects."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check_one_line(error: Exception) -> None:
    """Checks that an error message is one short line."""
    text = str(error)
    assert text.strip() and len(text) < 2000, text[:300]
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text[:300]


def name_of(value: object) -> str:
    """A short name of a parameter for the names of tests."""
    return re.sub(r"\W+", "-", ascii(value)).strip("-")[:50] or "empty"
