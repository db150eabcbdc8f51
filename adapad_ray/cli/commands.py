"""What the commands do: each returns the exit code (0 done, 1 cells failed, 2 bad request, 130 interrupted)."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.storage import WorkingFolder, is_url, working_folder
from adapad_ray.sweep.console import terminal
from adapad_ray.sweep.spec import load_spec

P = ParamSpec("P")
_STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def _command(run: Callable[P, int]) -> Callable[P, int]:
    """Prints a bad request as one sentence on stderr and turns it into exit code 2."""

    @functools.wraps(run)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return run(*args, **kwargs)
        except BadRequestError as error:
            terminal(stderr=True).print(f"adapad: {error}", markup=False, highlight=False, soft_wrap=True)
            return 2
        except KeyboardInterrupt:
            message = "adapad: interrupted; finished cells are kept, the same command goes on from here"
            terminal(stderr=True).print(message, markup=False)
            return 130
        except StorageError as error:
            message = f"adapad: {error}: finished cells are kept, the same command goes on from here"
            terminal(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
            return 1
        except OSError as error:
            if error.errno not in _STORAGE_FAULTS:
                raise
            terminal(stderr=True).print(_storage_fault(error), markup=False, highlight=False, soft_wrap=True)
            return 1

    return guarded


def _storage_fault(error: OSError) -> str:
    where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    return f"adapad: {where} ({error.strerror}): finished cells are kept; make room and give the same command again"


@_command
def run_sweep(path: Path, overrides: Sequence[str], out: str | None) -> int:
    """`adapad sweep`."""
    from adapad_ray.distributed import sigterm_as_interrupt
    from adapad_ray.sweep.console import Console
    from adapad_ray.sweep.run import Sweep, sweep_place

    spec = load_spec(path, overrides)
    console = Console()
    with sigterm_as_interrupt(), working_folder(sweep_place(spec, out)) as place:
        outcome = Sweep(spec, place, console).run()
    if outcome.report is not None:
        console.curve(outcome.report.table, outcome.report.metric)
        console.say("")
        for verdict in outcome.report.verdicts:
            console.say(verdict)
        console.say(outcome.report.recommendation.sentence)
    console.failures(outcome.failed)
    console.say(f"\n{outcome.computed} cells computed, {outcome.reused} reused, {len(outcome.failed)} failed.")
    links: dict[str, str | Path] = {"results": place.place, **outcome.mlflow}
    if outcome.report is not None:
        files = {"report": "report.html", "figure": "curve.png"}
        links = {**{name: place.within(file) for name, file in files.items()}, **links}
    console.links(links)
    return 1 if outcome.failed else 0


@_command
def show_plan(path: Path, overrides: Sequence[str], as_json: bool, link_gbps: float) -> int:
    """`adapad plan`."""
    from adapad_ray.cost.estimate import estimate, tables
    from adapad_ray.sweep.inputs import sketch_inputs
    from adapad_ray.sweep.planner import Planner

    spec = load_spec(path, overrides)
    inputs = sketch_inputs(spec)
    found = estimate(spec, inputs, Planner(spec, inputs).plan(), link_gbps)
    console = terminal()
    if as_json:
        console.print_json(json.dumps(dataclasses.asdict(found)))
        return 0
    for table in tables(found):
        console.print(table)
    return 0


@_command
def submit_sweep(
    path: Path,
    overrides: Sequence[str],
    address: str | None,
    shared: Sequence[Path],
    cpus: float,
    gpus: float,
    wait: bool,
) -> int:
    """`adapad submit`."""
    from adapad_ray.submit.job_server import JobServer
    from adapad_ray.submit.package import Request, packed

    console = terminal()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with packed(Request(path, tuple(overrides), tuple(folder.absolute() for folder in shared))) as sweep:
        server = JobServer(address)
        if server.open_to_anyone:
            say(f"Anyone who reaches {server.address} can run code there: start its nodes with RAY_AUTH_MODE=token.")
        job = server.submit(
            sweep.entrypoint,
            sweep.folder,
            name=sweep.name,
            environment=sweep.environment,
            cpus=cpus,
            gpus=gpus,
            metadata=sweep.metadata,
        )
    look = f"ray job logs --follow --address {server.address} {job}"
    say(f"job {job}\n{look}\nray job stop --address {server.address} {job}")
    if not wait:
        return 0
    try:
        end = server.follow(job, lambda text: console.out(text, end="", highlight=False))
    except KeyboardInterrupt:
        say(f"\nadapad: the job goes on without this terminal: {look}")
        return 130
    except ConnectionError as error:
        say(f"adapad: {error}; the job may well go on: {look}")
        return 1
    if end.status == "SUCCEEDED":
        return 0
    say(f"adapad: job {job} {end.status.lower()}: {end.message}")
    return end.exit_code or 1


@_command
def show_report(folder: str) -> int:
    """`adapad report`."""
    from adapad_ray.sweep.console import Console
    from adapad_ray.sweep.run import rebuild_report

    with _copy_of(folder) as place:
        report = rebuild_report(place.path)
        place.save()
    console = Console()
    console.curve(report.table, report.metric)
    for verdict in report.verdicts:
        console.say(verdict)
    console.say(report.recommendation.sentence)
    console.links({"report": place.within("report.html")})
    return 0


@_command
def export_adapter(folder: str, method: str, budget: str, to: Path, prefix: int | None, seed: int | None) -> int:
    """`adapad export`."""
    from adapad_ray.sweep.export import find_adapter

    with _copy_of(folder) as place:
        source, point = find_adapter(place.path, method, budget, prefix, seed)
        _check_empty(to)
        if not source.is_dir():
            raise BadRequestError(f"{source} is gone: delete its cell's folder and launch the sweep again")
        shutil.copytree(source, to, dirs_exist_ok=True)
    terminal().print(
        f"{to}: {point.parameters:,} adapter parameters on {len(point.ranks)} modules, validation "
        + ", ".join(f"{name} {value:.3f}" for name, value in point.validation.items()),
        markup=False,
        soft_wrap=True,
    )
    return 0


@_command
def compress_adapter(
    source: Path, to: Path, ratio: float | None, energy: float | None, budget: str | None, cut: str
) -> int:
    """`adapad compress`."""
    from adapad_ray.adapters.compression import compress, table

    _check_empty(to)
    report = compress(source, to, ratio=ratio, energy=energy, budget=budget, cut=cut)
    console = terminal()
    console.print(table(report))
    before, now = report.ranks
    remainder = "" if report.budget_remainder is None else f", {report.budget_remainder:,} of the budget left"
    console.print(
        f"{to}: {report.parameters:,} of {report.parameters_before:,} parameters "
        f"({report.parameters / report.parameters_before:.1%}){remainder}; {now} of {before} ranks "
        f"({now / before:.1%}); energy {report.energy_kept:.2%}, relative error of the update "
        f"{report.relative_error:.2g}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


@contextmanager
def _copy_of(folder: str) -> Iterator[WorkingFolder]:
    with working_folder(folder if is_url(folder) else str(Path(folder).absolute())) as place:
        place.fetch()
        yield place


def _check_empty(to: Path) -> None:
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise BadRequestError(f"{to} exists and is not an empty folder: choose another")


@_command
def show_list(what: str) -> int:
    """`adapad list`."""
    entries = _entries(what)
    width = max(map(len, entries))
    for name, summary in entries.items():
        terminal().print(f"{name:<{width}}  {summary}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _entries(what: str) -> dict[str, str]:
    if what == "methods":
        from adapad_ray.methods import METHODS

        return {name: method.summary for name, method in METHODS.items()}
    if what == "tasks":
        from adapad_ray.tasks import list_tasks

        return list_tasks()
    if what == "models":
        from adapad_ray.models import list_models

        return list_models()
    raise BadRequestError(f"adapad list takes methods, tasks or models, not {what!r}")
