"""What the test split shows: differences between labels, their ranks, and areas under the curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.differences import Area, LabelDifference, areas, conclusions, ranks
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Bullets, Heading, Paragraph, Table, note
from adapad_ray.report.style.formatting import count, margin, metric_name, share
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Differences(Section):
    """Conclusions, possible ranks, all comparisons, areas, and how to read the intervals."""

    heading = "What the test data show"

    differences: list[LabelDifference]
    areas: list[Area]
    metric: str
    delta: float
    confidence: float

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        return cls(
            sweep.differences,
            areas(sweep.curves),
            metric_name(sweep.metric),
            sweep.inputs.delta,
            sweep.inputs.confidence,
        )

    def words(self) -> Iterator[Block]:
        if self.differences:
            yield Bullets(conclusions(self.differences))
            yield self._ranks()
            yield note(
                "Best and worst rank that are compatible with the test data: a method ranks below those that are "
                "significantly better and above those that are significantly worse, and ties with all others."
            )
            yield Bullets(
                [difference.sentence for difference in self.differences],
                summary=f"All comparisons ({len(self.differences)})",
            )
        else:
            yield Paragraph("No two methods share a budget and a seed.")
        yield Bullets(self._explanations(), summary="How to read the intervals")
        if self.areas:
            yield Heading("Area under the curve")
            yield Table(
                ["method", f"mean test {self.metric} over log(parameters)", "95 % interval", "from", "to"],
                [
                    [
                        area.label,
                        share(area.value),
                        f"{share(area.low)} – {share(area.high)}",
                        count(area.range[0]),
                        count(area.range[1]),
                    ]
                    for area in self.areas
                ],
            )

    def _ranks(self) -> Table:
        by_budget = ranks(self.differences)
        labels = sorted({label for of_labels in by_budget.values() for label in of_labels})
        columns = ["by area" if budget is None else f"at {count(budget)}" for budget in by_budget]
        rows = []
        for label in labels:
            possible = [of_labels.get(label, ()) for of_labels in by_budget.values()]
            rows.append([label, *("–".join(map(str, dict.fromkeys(rank))) or "·" for rank in possible)])
        return Table(["rank", *columns], rows)

    def _explanations(self) -> list[str]:
        return [
            "An interval shows how far a mean would move with other seeds and other test items of the same kind. The "
            "items' part comes from a bootstrap over items. The seeds' part comes from the scatter over seeds with "
            "Student's t, because three seeds often agree by chance and a bootstrap of three values cannot account "
            "for that. With one seed the interval is about that one trained model.",
            "Overlapping intervals do not show that two methods are equal. Differences are paired by seed and test "
            "item, which removes the variation that both methods share. Their p-values are corrected for all "
            "comparisons on this page together (Holm), areas included.",
            "The number of seeds that “would detect” a difference gives a chance of 80 % to find a difference of that "
            "size, after the same correction. It is computed from the upper 80 % confidence limit of the scatter over "
            "the seeds of this sweep. More seeds do not replace test items: a small difference may need more items.",
            "The recommendation uses the validation split only. It is the smallest adapter whose validation "
            f"{self.metric} is, with {100 * self.confidence:g} % one-sided confidence, less than {margin(self.delta)} "
            "below that of the best; each candidate is tested by itself. The test split is only reported.",
        ]
