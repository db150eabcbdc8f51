"""Runs a sweep to its end: the cells that are missing, then the report. Running it again runs the difference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import yaml
from optuna.storages import RDBStorage

from adapad_ray.distributed import JobOutcome, JobProgress, WorkerPool, available_groups, connect
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.files import write_text
from adapad_ray.report.page import FailedCell, Gap, ReportPaths, build_report
from adapad_ray.report.published import PublishedPoint
from adapad_ray.report.search import SearchedLabel
from adapad_ray.results import CellResult
from adapad_ray.search.space import parse_space
from adapad_ray.search.studies import align_study, open_storage
from adapad_ray.search.tuner import TuneCell, tune_stage
from adapad_ray.storage import WorkingFolder, is_url
from adapad_ray.sweep.cells import Cell, finished
from adapad_ray.sweep.console import Console
from adapad_ray.sweep.inputs import LoadedGrounds, load_grounds
from adapad_ray.sweep.lock import claimed
from adapad_ray.sweep.planner import PlannedCell, Planner, SweepPlan, Winners
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.sweep_metrics import SweepMetrics
from adapad_ray.sweep.trials import SearchDesk
from adapad_ray.tracking import Tracker, tracking_uri

MANIFEST = "manifest.yaml"


@dataclass
class SweepOutcome:
    """How a launch ended."""

    computed: int = 0
    """Cells that this launch computed."""
    reused: int = 0
    """Cells that an earlier launch had finished."""
    failed: list[FailedCell] = field(default_factory=list)
    report: ReportPaths | None = None
    mlflow: dict[str, str] = field(default_factory=dict)
    """How to look at it there, for the terminal."""


def sweep_place(spec: SweepSpec, out: str | None = None) -> str:
    """The sweep's folder or URL: `<storage>/<name>`, or what the command line says."""
    if out is not None:
        return out if is_url(out) else str(Path(out).absolute())
    if is_url(spec.storage):
        return f"{spec.storage.rstrip('/')}/{spec.name}"
    return str((Path(spec.storage) / spec.name).absolute())


class Sweep:
    """One launch of a sweep."""

    def __init__(self, spec: SweepSpec, place: WorkingFolder, console: Console) -> None:
        self.spec, self.place, self.folder, self.console = spec, place, place.path, console
        self.outcome = SweepOutcome()
        self.loaded: LoadedGrounds = load_grounds(spec)
        self.planner = Planner(spec, self.loaded.grounds)
        self.plan: SweepPlan = self.planner.plan()
        self.cells: dict[str, Cell] = {}
        self.results: dict[str, CellResult] = {}
        self.desk: SearchDesk | None = None
        """Of `mode: search`."""
        self._check_claim: Callable[[], None] = lambda: None
        self._reasons: dict[str, str] = {}
        self._metrics = SweepMetrics(spec.name, self.cells, self.results, self._reasons)
        self._winners: Winners = {}
        """What has been shown of the tune stage."""

    def run(self) -> SweepOutcome:
        """Computes what is missing, reports, and returns how it went.

        Raises:
            BadRequestError: the request cannot be met, and nothing was started; or another launch has taken over.
            StorageError: the store of a URL cannot be reached; what is finished is kept.
        """
        with claimed(self.place, self.spec) as check:
            self._check_claim = check
            tracker = self._tracker()
            try:
                self._open_search()
                if self._all_finished():
                    self.outcome.reused = len(self.results)
                    self.console.say(f"All {len(self.results)} cells are finished: nothing to compute.")
                else:
                    self._compute_missing(tracker)
                return self._conclude(tracker)
            except BaseException as reason:
                tracker.close("KILLED", type(reason).__name__)
                with suppress(BadRequestError, StorageError):
                    check()
                    self.place.save()  # what the studies have heard since a cell ended
                raise

    def _all_finished(self) -> bool:
        """Whether earlier launches have finished every wave; nothing is known of a wave after an unfinished one."""
        searched = self.desk is None or self.desk.over
        return searched and not any(map(self._expect, self._waves()))

    def _waves(self) -> Iterator[list[PlannedCell]]:
        """The cells in the order in which they can be known; in mode search, once the search is over."""
        if self.desk is not None:
            yield self.desk.tried()
        yield from self.planner.waves(self.plan, self.results)
        if self.desk is not None:
            front = self.desk.front_wave(self.plan)
            self.console.more(len(front))
            yield front

    def _compute_missing(self, tracker: Tracker) -> None:
        self.cells.clear()
        self.results.clear()
        resources, expected = self.spec.resources, self.planner.count(self.plan)
        self._manifest("").save(self.folder)
        with connect():
            groups = available_groups(resources.workers, resources.cpus_per_worker, resources.gpus_per_worker)
            with self._pool(min(groups, expected)) as pool, self.console.live(expected, pool.groups), self._metrics:
                if self.desk is not None:
                    self._compute(pool, tracker, self.desk.tried())
                    self.desk.run(pool, lambda event: self._on_event(event, tracker))
                for wave in self._waves():
                    self._compute(pool, tracker, wave)

    def _expect(self, wave: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Takes note of a wave's cells and of those that are finished; returns the missing ones, each once."""
        self.cells.update({planned.id: planned.cell for planned in wave})
        self.results.update(finished([planned.cell for planned in wave], self.folder))
        return list({planned.id: planned for planned in wave if planned.id not in self.results}.values())

    def _compute(self, pool: WorkerPool, tracker: Tracker, wave: Sequence[PlannedCell]) -> None:
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

    def _tune(self, pool: WorkerPool, tracker: Tracker, missing: Sequence[PlannedCell]) -> None:
        stage = self.spec.tune
        assert stage is not None
        self._align_studies()
        tune_stage(
            pool,
            [TuneCell(p.id, self.planner.study(p), p.point, self._payload(p.cell)) for p in missing],
            {self.planner.study(p): self.spec.tune_space(p.cell.identity.label) for p in missing},
            name=self.spec.name,
            seed=stage.seed,
            on_event=lambda event: self._on_event(event, tracker),
            storage=self._storage,
        )

    def _align_studies(self) -> None:
        """Makes the tune stage's studies hold what is known of its cells: finished ones, and the failures of now."""
        for label in self.spec.labels():
            space = parse_space(self.spec.tune_space(label))
            studies: dict[str, list[tuple[dict[str, Any], float | None]]] = {}
            for planned in self.planner.tuned(label, self.results):
                points = studies.setdefault(self.planner.study(planned), [])
                if planned.id in self.results:
                    points.append((planned.point, self.results[planned.id].score))
                elif planned.id in self._reasons:
                    points.append((planned.point, None))
            for study, points in studies.items():
                align_study(self._storage, f"{self.spec.name}/{study}", space, points)

    def _open_search(self) -> None:
        if self.spec.search is not None:
            storage = self._storage
            self.desk = SearchDesk(
                self.spec.search, self.planner, storage, self.place, self.cells, self._payload, self.console
            )

    @cached_property
    def _storage(self) -> RDBStorage:
        return open_storage(self.folder)

    def _submit(self, pool: WorkerPool, tracker: Tracker, missing: Sequence[PlannedCell]) -> None:
        for planned in missing:
            pool.submit(planned.id, self._payload(planned.cell))
        remaining = {planned.id for planned in missing}
        while remaining:
            for event in pool.poll(timeout=1.0):
                self._on_event(event, tracker)
                if isinstance(event, JobOutcome):
                    remaining.discard(event.job_id)

    def _on_event(self, event: JobProgress | JobOutcome, tracker: Tracker) -> None:
        self._check_claim()
        self._metrics.observe(event)
        cell = self.cells[event.job_id]
        if not isinstance(event, JobOutcome):
            self.console.progress(cell.identity, event.data)
        elif event.status == "done":
            self.place.fetch(cell.within_sweep)
            result = self.results[cell.id] = finished([cell], self.folder)[cell.id]
            self.outcome.computed += 1
            tracker.log_cell(result, cell.folder(self.folder))
            self.console.finished(result)
        else:
            assert event.error is not None
            self._reasons[cell.id] = f"{event.error.type}: {event.error.message}"
            self.console.failed(cell.identity, self._reasons[cell.id])
        if isinstance(event, JobOutcome):
            self.place.save()

    def _payload(self, cell: Cell) -> dict[str, Any]:
        return {
            "sweep": self.spec.name,
            "identity": cell.identity.model_dump(mode="json"),
            "folder": self.place.within(cell.within_sweep),
            "base_model": self.spec.model,
            "checkpoint_seconds": self.spec.checkpoint.seconds,
            "checkpoint_rounds": self.spec.checkpoint.rounds,
        }

    def _pool(self, groups: int) -> WorkerPool:
        resources = self.spec.resources
        self._shared = {
            "backbone": ray.put(share_backbone(self.loaded.backbone)),
            "data": ray.put(self.loaded.grounds.data),
        }
        self.loaded.backbone.model.to("meta")  # its weights are in the object store, and the plan needs none
        return WorkerPool(
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
        if self.spec.tune is not None:
            self._align_studies()
        for cell in cells.values():
            if cell.id not in results:
                identity, reason = cell.identity, self._reasons.get(cell.id, "not computed")
                if identity.stage == "parent":
                    reason += "; what would have been cut from it is missing"
                self.outcome.failed.append(FailedCell(identity.label, identity.budget, identity.seed, reason))
        for result in results.values():
            tracker.log_cell(result, self.folder / "cells" / result.id)
        manifest = self._manifest(tracker.comparison_url)
        manifest.save(self.folder)
        if any(result.identity.stage == "curve" for result in results.values()):
            self.outcome.report = rebuild_report(self.folder, manifest)
            digest = hashlib.sha256("".join(sorted(results)).encode()).hexdigest()
            tracker.log_report(self.outcome.report.table, self.outcome.report.files, digest)
        self._check_claim()
        self.place.save()
        tracker.close("FAILED" if self.outcome.failed else "FINISHED")
        self.outcome.mlflow = tracker.how_to_look
        return self.outcome

    def _manifest(self, mlflow: str) -> Manifest:
        return Manifest(
            title=self.spec.name,
            labels={cell.id: cell.identity.label for cell in self.cells.values()} or None,
            gaps=[(gap.label, gap.budget, gap.reason) for gap in self.plan.gaps],
            failed=[tuple(f) for f in self.outcome.failed],
            delta=self.spec.delta,
            mlflow=mlflow,
            searched=[] if self.desk is None else self.desk.searched(),
            published=self.spec.published,
        )


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
    searched: list[SearchedLabel] = field(default_factory=list)
    published: list[PublishedPoint] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes it to the sweep's folder."""
        rows = {name: [list(row) for row in getattr(self, name)] for name in ("gaps", "failed", "searched")}
        published = [point.model_dump() for point in self.published]
        content = {**vars(self), **rows, "published": published}
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
        rows = {name: [tuple(row) for row in content[name]] for name in ("gaps", "failed")}
        searched = [SearchedLabel(*row) for row in content.get("searched", [])]
        published = [PublishedPoint(**point) for point in content.get("published", [])]
        return cls(**{**content, **rows, "searched": searched, "published": published})


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
        searched=manifest.searched,
        published=manifest.published,
    )
