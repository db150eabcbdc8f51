"""What is printed never ends a command: not by an encoding, a closed pipe, a full disk or a missing stream."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
import rich.console

from adapad_ray.cli.output import terminal
from adapad_ray.cli.output.terminal import Output, prepare_streams, print_line
from tests.report.factory import SweepFactory


@pytest.fixture
def stdout(monkeypatch):
    """Replaces stdout by a stream of an encoding; returns the bytes that it has received."""

    def replace(encoding: str) -> io.BytesIO:
        received = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(received, encoding=encoding))
        prepare_streams()
        return received

    return replace


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"0.1 - 0.9 x ?...\n"), ("latin-1", b"0.1 - 0.9 \xd7 ?...\n"), ("utf-8", "0.1 – 0.9 × 日…\n".encode())],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding, shown, stdout):
    received = stdout(encoding)
    print_line("0.1 – 0.9 × 日…")
    assert received.getvalue() == shown


def test_a_file_name_that_is_no_unicode_is_shown(stdout):
    received = stdout("utf-8")
    print_line(os.fsdecode(b"caf\xe9.csv"))
    assert received.getvalue() == b"caf?.csv\n"


def test_json_is_the_same_in_every_encoding(stdout):
    received = stdout("latin-1")
    content = {"classes": ["日本", "schön", "a–b"]}
    terminal.terminal().print_json(json.dumps(content), ensure_ascii=True)
    assert json.loads(received.getvalue()) == content


@pytest.mark.parametrize("problem", [BrokenPipeError, OSError(28, "No space left on device"), OSError(5, "I/O error")])
def test_a_stream_that_fails_is_silent_from_then_on(problem):
    class Failing(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise problem

    console = rich.console.Console(file=Output(Failing()))
    console.print("a table")
    console.print("the next one")


def test_a_pipe_whose_reader_has_ended_takes_the_rest_to_nowhere():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        console = rich.console.Console(file=Output(stream))
        for _ in range(3):
            console.print("a line")
        assert os.path.samestat(os.fstat(writer), os.stat(os.devnull))
    # Closing flushes, as Python does at its end.


def test_a_stream_that_the_shell_has_closed_gives_its_number_to_no_file():
    program = (
        "from adapad_ray.cli.output.terminal import *; prepare_streams(); print_line('x'); exit(os.open('/', 0) < 3)"
    )
    assert subprocess.run(["sh", "-c", f'exec "$0" -c "{program}" >&-', sys.executable], timeout=60).returncode == 0


def test_a_terminal_without_cursor_control_gets_lines_instead_of_a_bar(tmp_path, monkeypatch):
    from adapad_ray.cli.output.console import Console
    from adapad_ray.sweep.observers import SweepState
    from adapad_ray.sweep.planning.cells import Cell

    monkeypatch.setenv("TERM", "dumb")
    shown = io.StringIO()
    console = Console(rich.console.Console(file=shown, force_terminal=True, width=120))
    result = SweepFactory(tmp_path).cell("lora", 1000, 0, 0.8)
    console.computing_started(SweepState(), 1, 1)
    console.cell_finished(Cell(result.identity), result, 1)
    console.computing_ended()
    assert "lora 1,000 seed 0: validation accuracy" in shown.getvalue() and "\x1b[" not in shown.getvalue()
