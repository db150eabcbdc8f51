"""Counts how often training waits for the device, per round and method, on `meta` as a stand-in for an accelerator.

    python benchmarks/device_waits.py

Every method trains 15 steps on the tiny model of the tests (12 modules); no GPU is needed. A wait is a value that is
read, a copy to the host, or a copy to the device that blocks. Prints a Markdown table.
"""

from __future__ import annotations

from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.testing.stand_in_device import watched

CASES = [
    MethodCase("lora"),
    MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 5, "initial_rank": 3}),
    MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2, "growth_start": 0.5}),
    MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2, "growth_score": "reserve", "growth_interval": 4}),
    MethodCase("sequential"),
    MethodCase("dylora", 4 * COST_PER_RANK),
    MethodCase("dylora", 4 * COST_PER_RANK, {"update": "single"}),
    MethodCase("increlora"),
    MethodCase("ard", 4 * COST_PER_RANK, {"rank_interval": 3}),
    MethodCase("adalora"),
    MethodCase("cp", 1000),
    MethodCase("melora"),
    MethodCase("dora", 2500),
    MethodCase("full", None),
    MethodCase("head_only", None),
]


def waits(case: MethodCase) -> tuple[list[int], list[int]]:
    """The number of lanes, and of waits, in every round."""
    trainer = case.trainer(device="meta")
    lanes, counted = [], []
    with watched() as watch:
        trainer.start()
        while trainer.step < trainer.total_steps:
            watch.waits.clear()
            lanes.append(len(trainer.method.lanes(trainer.step)))
            trainer.run(stop_at=min(trainer.step + trainer.method.local_steps, trainer.total_steps))
            counted.append(watch.waits.total())
    return lanes, counted


def span(numbers: list[int]) -> str:
    """Smallest and largest of some numbers."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def main() -> None:
    """Counts and prints."""
    print("| method | settings | steps a round | lanes | waits a round |\n|---|---|---|---|---|")
    for case in CASES:
        lanes, counted = waits(case)
        settings = ", ".join(f"{key} {value}" for key, value in case.config.items())
        print(f"| {case.method} | {settings} | {case.make().local_steps} | {span(lanes)} | {span(counted)} |")


if __name__ == "__main__":
    main()
