"""The top of the page: what was trained, the recommendation, and where to find the runs in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from adapad_ray.report.recommendation import RECOMMENDATION, Recommendation, recommended_command
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Paragraph, code, note
from adapad_ray.report.style.formatting import count
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Summary(Section):
    """The recommendation, also as `recommendation.json`."""

    subject: str
    """Model, task, seeds, numbers of items and dtype, in one line."""
    recommendation: Recommendation
    mlflow_url: str | None
    title: str
    """The sweep's name."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        identity = sweep.results[0].identity
        seeds = sorted({result.identity.seed for result in sweep.curves.results})
        validation, test = (count(len(sweep.curves.targets(split))) for split in ("validation", "test"))
        products = ", trained with frozen products in bf16" if identity.precision == "mixed" else ""
        stored = f" with linear layers in {identity.quantization}" if identity.quantization else ""
        subject = (
            f"{identity.model} on {identity.task} · seeds {', '.join(map(str, seeds))} · "
            f"{validation} validation and {test} test items · {identity.dtype}{stored}{products}"
        )
        return cls(subject, sweep.recommendation, sweep.inputs.mlflow_url, sweep.inputs.title)

    def files(self) -> Mapping[str, str]:
        return {RECOMMENDATION: self.recommendation.model_dump_json(indent=2) + "\n"}

    def words(self) -> Iterator[Block]:
        yield note(self.subject)
        yield Paragraph(self.recommendation.sentence, "lead")
        yield Paragraph(self.recommendation.next_step)
        if self.recommendation.adapter is not None:
            command = code(recommended_command(".", self.recommendation.point, self.title))
            yield Paragraph(Markup("To export the adapter, in the sweep's folder: {}.").format(command))
        if self.mlflow_url and re.match(r"https?://", self.mlflow_url):
            link = Markup('<a href="{}">compare the runs of the curve</a>').format(self.mlflow_url)
            yield Paragraph(Markup("In MLflow, while its server is running: {}.").format(link))
        elif self.mlflow_url:
            yield Paragraph(Markup("In MLflow: {}.").format(code(self.mlflow_url)))
