"""Ctrl-C and SIGTERM end whatever runs, except a block that must not be cut."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from adapad_ray import interrupts
from adapad_ray.interrupts import interruptible, interrupts_delayed, was_interrupted, within


def test_sigterm_raises_as_ctrl_c_does_and_only_inside_the_block():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_block_and_the_second_does_not(number):
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(), interrupts_delayed():
        signal.raise_signal(number)
        done.append("first")
    assert done == ["first"]
    with pytest.raises(KeyboardInterrupt), interruptible(), interrupts_delayed():
        signal.raise_signal(number)
        signal.raise_signal(number)
        done.append("second")
    assert done == ["first"]


def test_the_result_or_the_error_of_a_call_is_passed_on():
    assert within(10, lambda: 3) == 3
    assert within(10, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 / 0)


def test_a_call_that_never_ends_is_given_up():
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 seconds"):
        within(0.01, threading.Event().wait)


def test_a_signal_ends_the_wait_for_a_call_that_never_ends():
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        within(60, threading.Event().wait)
    assert time.monotonic() - start < 30
    timer.join()


def test_an_interrupt_that_is_dropped_is_raised_again():
    dropped = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(signal.SIGTERM)
        except:  # noqa: E722  (as in a library)
            dropped.append(1)
        threading.Event().wait(60)
    assert dropped == [1]


def test_an_interrupt_in_a_finalizer_is_raised_again_and_printed_nowhere(capsys):
    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interruptible():
        Finalized()
        threading.Event().wait(60)
    assert capsys.readouterr().err == ""


def test_no_signal_is_sent_to_a_block_that_ends_while_it_is_looked_at(monkeypatch):
    class EndsAfterTheLook(threading.Event):
        def wait(self, timeout=None):
            waited = self.is_set()
            self.set()
            return waited

    sent = []
    monkeypatch.setattr(signal, "pthread_kill", lambda *arguments: sent.append(arguments))
    interrupts._raise_again(signal.SIGINT, lambda: None, EndsAfterTheLook())
    assert sent == []


def test_an_interrupt_on_its_way_is_left_alone(monkeypatch):
    monkeypatch.setattr(interrupts, "_AGAIN_SECONDS", 0.01)
    closed = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(0.2)  # as long as many looks at it
            closed.append(1)
    assert closed == [1]


def test_an_error_that_an_interrupt_has_caused_is_known():
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError("the connection was cut")
    except OSError as error:
        assert was_interrupted(error)
    assert not was_interrupted(OSError("the connection was cut"))
