"""Measures how many copies of the frozen backbone a node holds when several groups take it from the object store.

    python benchmarks/memory.py [--groups 2] [--model minilm-l6]

Prints for every process the proportional set size (PSS) of the mapped object store, and for every worker the growth of
its private memory while it sets up and reads every weight. The tokenizer, about 10 MB of objects in each worker, is not
included. Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import ray

from adapad_ray.distributed import JobContext, SetupContext, WorkerPool, connect
from adapad_ray.distributed.cell_jobs import open_workspace
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.models import load_backbone
from adapad_ray.tasks import encode, load_task
from adapad_ray.training.cell import Workspace

HERE = Path(__file__).parent
STORE = "/dev/shm/plasma"


def set_up(context: SetupContext) -> Workspace:
    """Opens the workspace as in a sweep, reads every weight, and writes the growth of private memory to a file."""
    for name in ray.get(context.shared["modules"]):
        with suppress(ImportError):  # an alias created by transformers
            importlib.import_module(name)  # so that imported code does not count as growth
    before = private_bytes()
    workspace = open_workspace(context)
    for parameter in workspace.backbone.model.parameters():
        parameter.sum()
    growth = private_bytes() - before
    (Path(ray.get(context.shared["folder"])) / str(os.getpid())).write_text(str(growth))
    return workspace


def run(workspace: Workspace, payload: dict[str, object], context: JobContext) -> dict[str, object]:
    """Does nothing; no job is submitted."""
    return {}


def private_bytes() -> int:
    """Private bytes of this process, without the object store."""
    maps = psutil.Process().memory_maps(grouped=True)
    return sum(m.private_clean + m.private_dirty for m in maps if not m.path.startswith(STORE))


def store_pss() -> dict[psutil.Process, int]:
    """PSS of the object store in bytes, for this process and all its descendants."""
    found = {}
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            found[process] = sum(m.pss for m in process.memory_maps(grouped=True) if m.path.startswith(STORE))
    return found


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--model", default="minilm-l6")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    sys.path.insert(0, str(HERE))
    backbone = load_backbone(arguments.model, 2)
    data = encode(load_task("rotten-tomatoes"), backbone.tokenizer, max_length=64, max_train_examples=64)
    copy = sum(
        p.nbytes
        for name, p in backbone.model.named_parameters()
        if not name.startswith(tuple(f"{head}." for head in backbone.head_modules))
    )
    with connect(num_cpus=arguments.groups), tempfile.TemporaryDirectory() as folder:
        modules = [name for name in sys.modules if name.startswith("transformers.models.")]
        shared = {"data": ray.put(data), "modules": ray.put(modules), "folder": ray.put(folder)}
        before = sum(store_pss().values())
        shared["backbone"] = ray.put(share_backbone(replace(backbone, tokenizer=None)))
        backbone.model.to("meta")
        with WorkerPool("memory:set_up", "memory:run", groups=arguments.groups, shared=shared, name="memory") as pool:
            while len(list(Path(folder).iterdir())) < arguments.groups:  # every set-up writes a file
                pool.poll(0.1)
            held = store_pss()
            titles = {process: process.cmdline()[0].split("/")[-1].strip() for process, pss in held.items() if pss}
        growth = {int(path.name): int(path.read_text()) for path in Path(folder).iterdir()}
    print(f"{arguments.model}: the frozen backbone has {copy / 1e6:.1f} MB; {arguments.groups} groups of one worker")
    print("| process | object store, PSS (MB) | private growth in set-up (MB) |\n|---|---|---|")
    for process, title in titles.items():
        grown = f"{growth[process.pid] / 1e6:.1f}" if process.pid in growth else ""
        print(f"| {title} | {held[process] / 1e6:.1f} | {grown} |")
    store = sum(held.values()) - before
    total = store + sum(growth.values())
    print(f"object store: {store / copy:.3f} copies; with all private growth: {total / copy:.3f} copies")


if __name__ == "__main__":
    main()
