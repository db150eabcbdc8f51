"""The rounds of a cell on disk: one file per worker, one JSON line per round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from adapad_ray.files import write_text
from adapad_ray.results import WorkerCost
from adapad_ray.training.record import RoundStats

_FOLDER = "rounds"
_SUMMED = tuple(name for name in WorkerCost.model_fields if name != "rank")


class RoundLog:
    """An observer that writes the rounds of the worker of `rank` to a cell's folder and sums up their cost.

    A line is written before the next round begins. After a kill, `rewind` drops the rounds that will be computed again,
    so that no round is listed twice; the round of the checkpoint itself is missing if the kill came between checkpoint
    and line.
    """

    def __init__(self, cell: Path, rank: int) -> None:
        self._folder, self._rank = cell / _FOLDER, rank
        self._file: TextIO | None = None
        self._total = dict.fromkeys(_SUMMED, 0.0)

    def rewind(self, rounds: int, workers: int) -> None:
        """Keeps the first `rounds` rounds.

        Rank 0 also trims the files of ranks that a group of `workers` no longer has.
        """
        for rank, path in sorted(_files(self._folder).items()):
            if rank == self._rank or (self._rank == 0 and rank >= workers):
                kept = [row for row in _rows(path) if row["round"] <= rounds]
                write_text(path, "".join(map(_line, kept)))
                if rank == self._rank:
                    for row in kept:
                        self._add(row)

    def __call__(self, stats: RoundStats) -> None:
        row = {name: value for name, value in vars(stats).items() if name != "ranks"}
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / f"worker-{self._rank}.jsonl").open("a", buffering=1, encoding="utf-8")
        self._file.write(_line(row))
        self._add(row)

    @property
    def cost(self) -> WorkerCost:
        """The sum over all rounds in the file."""
        return WorkerCost(rank=self._rank, **self._total)  # type: ignore[arg-type]

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _add(self, row: dict[str, Any]) -> None:
        for name in _SUMMED:
            self._total[name] += row[name]


def load_rounds(cell: Path) -> dict[int, list[RoundStats]]:
    """Rank of the worker → its rounds in order, from a cell's folder; empty where there are none."""
    return {
        rank: [RoundStats(**{name: _by_lane(value) for name, value in row.items()}) for row in _rows(path)]
        for rank, path in sorted(_files(cell / _FOLDER).items())
    }


def _files(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("worker-")): path for path in folder.glob("worker-*.jsonl")}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines before the first incomplete one: a kill may have cut the last."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _by_lane(value: Any) -> Any:
    return {int(lane): number for lane, number in value.items()} if isinstance(value, dict) else value
