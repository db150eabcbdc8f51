"""Runs a sweep to its end: the cells that are missing, then the report. Running it again runs the difference."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import yaml

from adapad_ray.distributed import GroupPool, Outcome, Progress, available_groups, connect
from adapad_ray.distributed.backbone import share_backbone
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.report.page import FailedCell, Gap, ReportPaths, build_report
from adapad_ray.results import CellResult
from adapad_ray.sweep.cells import Cell, finished
from adapad_ray.sweep.console import Console
from adapad_ray.sweep.grounds import LoadedGrounds, load_grounds
from adapad_ray.sweep.planner import PlannedCell, Planner, SweepPlan, Winners
from adapad_ray.sweep.search import TuneCell, tune_stage
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tracking import Tracker, tracking_uri

MANIFEST = "manifest.yaml"


@dataclass
class SweepOutcome:
    """How a launch ended."""

    folder: Path
    computed: int = 0
    """Cells that this launch computed."""
    reused: int = 0
    """Cells that an earlier launch had finished."""
    failed: list[FailedCell] = field(default_factory=list)
    report: ReportPaths | None = None
    mlflow: str = ""


def sweep_folder(spec: SweepSpec, out: Path | None = None) -> Path:
    """The sweep's folder: `<storage>/<name>`, or what the command line says.

    Raises:
        BadRequestError: storage is not a folder of this machine.
    """
    if out is None and "://" in spec.storage:
        raise BadRequestError(
            f"storage {spec.storage!r} must be a folder that all workers share; URLs are not supported yet"
        )
    return (out or Path(spec.storage) / spec.name).absolute()


class Sweep:
    """One launch of a sweep."""

    def __init__(self, spec: SweepSpec, folder: Path, console: Console) -> None:
        self.spec, self.folder, self.console = spec, folder, console
        self.outcome = SweepOutcome(folder)
        self.loaded: LoadedGrounds = load_grounds(spec)
        self.planner = Planner(spec, self.loaded.grounds)
        self.plan: SweepPlan = self.planner.plan()
        self.cells: dict[str, Cell] = {}
        self.results: dict[str, CellResult] = {}
        self._reasons: dict[str, str] = {}
        self._winners: Winners = {}
        """What has been shown of the tune stage."""

    def run(self) -> SweepOutcome:
        """Computes what is missing, reports, and returns how it went.

        Raises:
            BadRequestError: the request cannot be met; nothing was started.
        """
        self._claim_folder()
        tracker = self._tracker()
        try:
            if self._all_finished():
                self.outcome.reused = len(self.results)
                self.console.say(f"All {len(self.results)} cells are finished: nothing to compute.")
            else:
                self._compute_missing(tracker)
            return self._conclude(tracker)
        except BaseException as reason:
            tracker.close("KILLED", type(reason).__name__)
            raise

    def _all_finished(self) -> bool:
        """Whether earlier launches have finished every wave; nothing is known of a wave after an unfinished one."""
        return not any(self._expect(wave) for wave in self.planner.waves(self.plan, self.results))

    def _compute_missing(self, tracker: Tracker) -> None:
        self.cells.clear()
        self.results.clear()
        resources, expected = self.spec.resources, self.planner.count(self.plan)
        self._manifest("").save(self.folder)
        with connect():
            groups = available_groups(resources.workers, resources.cpus_per_worker, resources.gpus_per_worker)
            with self._pool(min(groups, expected)) as pool, self.console.live(expected, pool.groups):
                for wave in self.planner.waves(self.plan, self.results):
                    self._compute(pool, tracker, wave)

    def _expect(self, wave: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Takes note of a wave's cells and of those that are finished; returns the missing ones, each once."""
        self.cells.update({planned.id: planned.cell for planned in wave})
        self.results.update(finished([planned.cell for planned in wave], self.folder))
        return list({planned.id: planned for planned in wave if planned.id not in self.results}.values())

    def _compute(self, pool: GroupPool, tracker: Tracker, wave: Sequence[PlannedCell]) -> None:
        known = len(self.results)
        parents = {p.id for p in wave if p.cell.identity.stage == "parent"} - self.cells.keys()
        missing = self._expect(wave)
        self.console.more(len(parents))
        self.outcome.reused += len(self.results) - known
        self.console.reused(len(self.results) - known)
        for planned in wave:
            if planned.id in self.results:
                tracker.log_cell(self.results[planned.id], planned.cell.folder(self.folder))
        if not missing:
            return
        stages = {planned.cell.identity.stage for planned in missing}
        if "tune" in stages:
            self._tune(pool, tracker, missing)
            return
        winners = self.planner.winners(self.results)
        if "curve" in stages and winners != self._winners:
            self._winners = winners
            self.console.tuned(winners, self.spec)
        self._submit(pool, tracker, missing)

    def _tune(self, pool: GroupPool, tracker: Tracker, missing: Sequence[PlannedCell]) -> None:
        stage = self.spec.tune
        assert stage is not None
        tune_stage(
            pool,
            [TuneCell(p.id, p.cell.identity.label, p.point, self._payload(p.cell)) for p in missing],
            {label: self.spec.tune_space(label) for label in self.spec.labels()},
            name=self.spec.name,
            seed=stage.seed,
            on_event=lambda event: self._on_event(event, tracker),
        )

    def _submit(self, pool: GroupPool, tracker: Tracker, missing: Sequence[PlannedCell]) -> None:
        for planned in missing:
            pool.submit(planned.id, self._payload(planned.cell))
        remaining = {planned.id for planned in missing}
        while remaining:
            for event in pool.poll(timeout=1.0):
                self._on_event(event, tracker)
                if isinstance(event, Outcome):
                    remaining.discard(event.job_id)

    def _on_event(self, event: Progress | Outcome, tracker: Tracker) -> None:
        cell = self.cells[event.job_id]
        if not isinstance(event, Outcome):
            self.console.progress(cell.identity, event.data)
        elif event.status == "done":
            result = self.results[cell.id] = finished([cell], self.folder)[cell.id]
            self.outcome.computed += 1
            tracker.log_cell(result, cell.folder(self.folder))
            self.console.finished(result)
        else:
            assert event.error is not None
            self._reasons[cell.id] = f"{event.error.type}: {event.error.message}"
            self.console.failed(cell.identity, self._reasons[cell.id])

    def _payload(self, cell: Cell) -> dict[str, Any]:
        return {
            "sweep": self.spec.name,
            "identity": cell.identity.model_dump(mode="json"),
            "folder": str(cell.folder(self.folder)),
            "base_model": self.spec.model,
            "checkpoint_seconds": self.spec.checkpoint.seconds,
            "checkpoint_rounds": self.spec.checkpoint.rounds,
        }

    def _pool(self, groups: int) -> GroupPool:
        resources = self.spec.resources
        self._shared = {
            "backbone": ray.put(share_backbone(self.loaded.backbone)),
            "data": ray.put(self.loaded.grounds.data),
        }
        self.loaded.backbone.model.to("meta")  # its weights are in the object store, and the plan needs none
        return GroupPool(
            open_workspace,
            compute,
            groups=groups,
            workers=resources.workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            shared=self._shared,
            max_attempts=self.spec.max_attempts,
            name=self.spec.name,
        )

    def _tracker(self) -> Tracker:
        return Tracker.open(tracking_uri(self.spec.tracking), self.spec.name, self.spec.name)

    def _conclude(self, tracker: Tracker) -> SweepOutcome:
        """The report of what is finished, the curve in MLflow, and the table of what failed."""
        results, cells = self.results, self.cells
        for cell in cells.values():
            if cell.id not in results:
                identity, reason = cell.identity, self._reasons.get(cell.id, "not computed")
                if identity.stage == "parent":
                    reason += "; what would have been cut from it is missing"
                self.outcome.failed.append(FailedCell(identity.label, identity.budget, identity.seed, reason))
        for result in results.values():
            tracker.log_cell(result, self.folder / "cells" / result.id)
        self.outcome.mlflow = tracker.how_to_look
        manifest = self._manifest(tracker.comparison_url)
        manifest.save(self.folder)
        if any(result.identity.stage == "curve" for result in results.values()):
            self.outcome.report = rebuild_report(self.folder, manifest)
            digest = hashlib.sha256("".join(sorted(results)).encode()).hexdigest()
            tracker.log_report(self.outcome.report.table, self.outcome.report.files, digest)
        tracker.close("FAILED" if self.outcome.failed else "FINISHED")
        return self.outcome

    def _manifest(self, mlflow: str) -> Manifest:
        return Manifest(
            title=self.spec.name,
            labels={cell.id: cell.identity.label for cell in self.cells.values()} or None,
            gaps=[(gap.label, gap.budget, gap.reason) for gap in self.plan.gaps],
            failed=[tuple(f) for f in self.outcome.failed],
            delta=self.spec.delta,
            mlflow=mlflow,
        )

    def _claim_folder(self) -> None:
        """Refuses a folder that belongs to a sweep of another model or task; then records the spec as resolved."""
        path = self.folder / "spec.yaml"
        mine = self.spec.model_dump(mode="json")
        if path.exists():
            theirs = yaml.safe_load(path.read_text())
            for key in ("model", "task", "pooling", "dtype"):
                if theirs.get(key) != mine[key]:
                    raise BadRequestError(
                        f"{self.folder} belongs to a sweep with {key} {theirs.get(key)!r}, not {mine[key]!r}: "
                        "choose another name or --out"
                    )
        try:
            write_text(path, yaml.safe_dump(mine, sort_keys=False))
        except OSError as error:
            raise BadRequestError(f"output folder {self.folder} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Manifest:
    """What a report needs beside the cells: which of them belong to the sweep, and what is not there."""

    title: str
    labels: dict[str, str] | None
    """Cell id → label, for every cell of the sweep; None while it is not known yet: then all finished cells count."""
    gaps: list[tuple[str, int, str]]
    failed: list[tuple[Any, ...]]
    delta: float
    mlflow: str

    def save(self, folder: Path) -> None:
        """Writes it to the sweep's folder."""
        content = {**vars(self), "gaps": [list(g) for g in self.gaps], "failed": [list(f) for f in self.failed]}
        write_text(folder / MANIFEST, yaml.safe_dump(content, sort_keys=False))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads it back.

        Raises:
            BadRequestError: the folder holds no sweep.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise BadRequestError(
                f"{folder} holds no sweep ({MANIFEST} is missing): pass the folder that `adapad sweep` printed"
            )
        content = yaml.safe_load(path.read_text())
        return cls(
            **{**content, "gaps": [tuple(g) for g in content["gaps"]], "failed": [tuple(f) for f in content["failed"]]}
        )


def rebuild_report(folder: Path, manifest: Manifest | None = None) -> ReportPaths:
    """Figures, tables and page from the finished cells of a sweep's folder."""
    manifest = manifest or Manifest.load(folder)
    return build_report(
        folder,
        title=manifest.title,
        mlflow_url=manifest.mlflow or None,
        notes=[Gap(*gap) for gap in manifest.gaps],
        failed=[FailedCell(*failed) for failed in manifest.failed],
        cells=manifest.labels,
        delta=manifest.delta,
    )
