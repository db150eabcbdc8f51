"""Tables, figure and conclusions of the study in `glue.yaml`, from the folders of its sweeps.

    python benchmarks/glue.py runs/glue-sst2 runs/glue-mrpc runs/glue-stsb runs/glue-cola --figure runs/glue

Prints one Markdown table per task and the conclusions of its comparisons, which are corrected within the task at 5 %.
Draws one panel per task; the range of a panel is that of the task's means.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapad_ray.report.curves import Curves
from adapad_ray.report.differences import conclusions, label_differences
from adapad_ray.report.recommendation import FROZEN
from adapad_ray.report.records import load_results
from adapad_ray.report.style.colours import GREY, LIGHT, PALETTE
from adapad_ray.report.style.drawing import STYLE, save_figure
from adapad_ray.results import CellResult
from adapad_ray.sweep.manifest import Manifest

SHOWN = dict(zip(("lora", "adapad", "lora/qv", "para"), PALETTE, strict=False))
"""Labels drawn in colour; the others are grey."""


def main() -> None:
    """Prints the tables and conclusions; writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--figure", type=Path, help="stem of the figure's files")
    arguments = parser.parse_args()

    points, verdicts = {}, []
    for folder in arguments.folders:
        results = load_results(folder, Manifest.load(folder).labels)
        curves = Curves(results, folder)
        task = folder.name.removeprefix("glue-")
        points[task] = curves.table().query("kind == 'final'")
        print(f"\n**{task}** ({curves.metric})\n\n{task_table(points[task], tuned_rates(results))}")
        verdicts.append(f"{task}: {' '.join(conclusions(label_differences(curves)))}")
    print("", *verdicts, sep="\n")
    if arguments.figure is not None:
        save_figure(figure(points), arguments.figure)


def task_table(rows: pd.DataFrame, rates: dict[str, float]) -> str:
    """One row per label: mean and 95 % interval at every budget, in percent."""
    cells = rows.assign(
        budget=rows["budget"].fillna(0),
        score=[
            f"{_percent(mean)} ({_percent(low)} to {_percent(high)})"
            for mean, low, high in zip(rows["test_mean"], rows["test_low"], rows["test_high"], strict=True)
        ],
    )
    table = cells.pivot(index="label", columns="budget", values="score").fillna("–")
    table.columns = [f"{budget:,}" if budget else "without" for budget in table.columns]
    table["rate"] = [f"{rates[label]:g}" for label in table.index]
    flops = rows.groupby("label")["train_flops"].max()
    table["TFLOP, most"] = [f"{flops[label] / 1e12:.1f}" for label in table.index]
    return _markdown(table)


def tuned_rates(results: list[CellResult]) -> dict[str, float]:
    """The learning rate that the tune stage chose for every label."""
    return {r.identity.label: r.identity.training["learning_rate"] for r in results if r.identity.stage == "curve"}


def figure(points: dict[str, pd.DataFrame]) -> Figure:
    """One panel per task: test metric against deployed parameters, with 95 % intervals of the coloured labels."""
    with rc_context(STYLE):
        drawn = Figure(figsize=(11, 7.6), layout="constrained")
        panels = drawn.subplots(2, (len(points) + 1) // 2, squeeze=False).flat
        for axes, (task, rows) in zip(panels, points.items(), strict=False):
            draw_task(axes, task, rows)
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def draw_task(axes: Axes, task: str, rows: pd.DataFrame) -> None:
    """Draws the curves of one task."""
    adapted = rows[rows["budget"].notna()]
    for label, of in sorted(adapted.groupby("label"), key=lambda group: group[0] in SHOWN):
        curve, colour = of.sort_values("parameters"), SHOWN.get(label)
        style = {"color": colour or LIGHT, "linewidth": 2 if colour else 1, "label": label if colour else None}
        axes.plot(curve["parameters"], 100 * curve["test_mean"], marker="o", markersize=4, **style)
        if colour:
            band = (100 * curve["test_low"], 100 * curve["test_high"])
            axes.fill_between(curve["parameters"], *band, color=colour, alpha=0.08, linewidth=0)
    axes.plot([], [], color=LIGHT, label="the other methods")
    for label, line, name in ((FROZEN, "--", "frozen, trained head"), ("full", ":", "full fine-tuning")):
        for mean in rows.loc[rows["label"] == label, "test_mean"]:
            axes.axhline(100 * mean, color=GREY, linestyle=line, linewidth=1.2, label=name)
    low, high = 100 * rows["test_mean"].min(), 100 * rows["test_mean"].max()
    axes.set_ylim(low - 0.2 * (high - low) - 0.1, high + 0.2 * (high - low) + 0.1)
    axes.set_title(task, loc="left", fontweight="bold")
    axes.set_xlabel("deployed adapter parameters")
    axes.set_ylabel("test metric × 100")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0:.1f}"  # + 0 turns -0.0 into 0.0


def _markdown(table: pd.DataFrame) -> str:
    header = ["label", *table.columns]
    lines = [header, ["---"] * len(header), *table.itertuples()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
