"""Ctrl-C and SIGTERM: one exception for both, work that they must not cut, and waiting that they can end."""

from __future__ import annotations

import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_AGAIN_SECONDS = 0.5
"""Between an interrupt that was dropped and the next."""


class Interrupt(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM raise KeyboardInterrupt, so that everything is closed; in the main thread only.

    An interrupt may meet code that drops it: a bare `except` in a library, a finalizer, a callback from C. One that is
    dropped is raised again; one that is on its way through `except` and `finally` is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()

    def interrupt(number: int, _frame: object) -> None:
        raised = Interrupt()
        threading.Thread(target=_raise_again, args=(number, weakref.ref(raised), ended), daemon=True).start()
        try:
            raise raised
        finally:
            del raised  # else its traceback would keep it alive, through this frame

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    unraisable = sys.unraisablehook
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    sys.unraisablehook = lambda report: None if isinstance(report.exc_value, Interrupt) else unraisable(report)
    try:
        yield
    finally:
        ended.set()
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _raise_again(number: int, raised: weakref.ref[Interrupt], ended: threading.Event) -> None:
    """Sends a signal again when the interrupt that it has raised is gone, but the block that it should end is not.

    A block ends before its interrupt is gone, so it is asked last: it may end between the two looks.
    """
    while not ended.wait(_AGAIN_SECONDS):
        if raised() is None and not ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return


def was_interrupted(error: BaseException) -> bool:
    """Whether an exception is an interrupt, or was raised while one was on its way."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, KeyboardInterrupt):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


@contextmanager
def interrupts_delayed() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM to the end of the block, because they would break a transaction.

    A second signal interrupts at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def delay(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, delay) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if caught:
            signal.raise_signal(caught[0])


def within(seconds: float, call: Callable[[], T]) -> T:
    """Returns what `call` returns or raises what it raises; Ctrl-C and SIGTERM end the wait at once.

    It runs in a thread, because Python handles no signal while the main thread waits in a library's C code. A call that
    takes too long goes on in its thread, which does not keep the process alive.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  (raised again by the waiting thread)
            errors.append(error)

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return results[0]
