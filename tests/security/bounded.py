"""What the tests of hostile input share: a bound on memory, and the form of a refusal."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

ROOM = 1 << 30
"""Bytes of address space that reading something hostile may take beside what is there."""


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Whoever asks for much more memory than there is now gets a MemoryError, which no test here expects."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check_sentence(error: Exception) -> None:
    """One line that a terminal can hold."""
    text = str(error)
    assert text.strip() and len(text) < 2000, text[:300]
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text[:300]
