"""Runs the sections of the GPU check, each in a process and with a time limit of its own; see check.sh.

A section that fails, hangs or breaks the GPU's context costs its own table only. Rows are printed as they are found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.scale import FULL, TINY

TIMED = {"packs": 130, "curve": 80, "step_times": 120}
"""Module of this folder → most seconds that it may take on a GPU. These have the machine to themselves."""
CHECKED = {"methods": 120, "recovery": 140, "shares": 150}
"""The same of those whose findings do not depend on what else runs; on a GPU they run side by side."""
SECTIONS = TIMED | CHECKED
TINY_FACTOR = 4
"""Tiny shapes may take this much longer: other tests run beside them."""


def main() -> None:
    """Runs all sections, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, as in CI")
    parser.add_argument("--model", help="folder with the model of the sweep; default: random weights")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--section", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scale = TINY if arguments.tiny else FULL
    if arguments.section:
        with arguments.out.open("w") as file:
            for row in import_module(f"benchmarks.gpu.{arguments.section}").measure(scale, arguments.model):
                print(json.dumps(row), file=file, flush=True)
                print(arguments.section, row, flush=True)  # all that is left of it where the machine is taken away
        return
    if unknown := set(arguments.sections) - SECTIONS.keys():
        parser.error(f"no section {sorted(unknown)[0]!r}: choose from {', '.join(SECTIONS)}")
    report: dict[str, Any] = {"hardware": _hardware(), "sections": {}}
    print(report["hardware"], flush=True)
    chosen = [section for section in SECTIONS if section in (arguments.sections or SECTIONS)]
    checked = [section for section in chosen if section in CHECKED]
    batches = [[section] for section in chosen if section in TIMED]
    batches += [checked] if torch.cuda.is_available() else [[section] for section in checked]
    for batch in batches:
        with ThreadPoolExecutor(max(1, len(batch))) as threads:
            for section, (seconds, rows) in zip(batch, threads.map(lambda s: _run(s, arguments), batch), strict=True):
                report["sections"][section] = rows
                print(f"\n## {section} ({seconds:.0f} s)\n\n{markdown(rows)}", flush=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    failed = [f"{name}: {row['error']}" for name, rows in report["sections"].items() for row in rows if "error" in row]
    if failed:
        sys.exit("\n".join(["", f"{len(failed)} checks failed", *failed]))


def _run(section: str, arguments: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and rows of a section; what it had measured before it failed or ran out of time stands."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        out.touch()
        command = [sys.executable, "-m", "benchmarks.gpu.check", "--section", section, "--out", str(out)]
        command += ["--tiny"] * arguments.tiny + (["--model", arguments.model] if arguments.model else [])
        ended, seconds = "", SECTIONS[section] * (TINY_FACTOR if arguments.tiny else 1)
        try:
            code = subprocess.run(command, timeout=seconds, check=False).returncode
            ended = f"ended with exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"not finished after {seconds} s"
        rows: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
        return time.monotonic() - began, [*rows, {"error": ended}] if ended else rows


def _hardware() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; the columns of all rows, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(lines + [f"| {' | '.join(str(row.get(key, '')) for key in columns)} |" for row in rows])


if __name__ == "__main__":
    main()
