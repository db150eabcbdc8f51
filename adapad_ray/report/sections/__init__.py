"""The sections of the report, in the order of the page. To add one, write a file here and list its class below."""

from adapad_ray.report.section import Section
from adapad_ray.report.sections.convergence import Convergence
from adapad_ray.report.sections.cost import Costs
from adapad_ray.report.sections.curve import Curve
from adapad_ray.report.sections.curve_table import CurveTable
from adapad_ray.report.sections.data import Data
from adapad_ray.report.sections.differences import Differences
from adapad_ray.report.sections.hardware import Hardware
from adapad_ray.report.sections.missing import Missing
from adapad_ray.report.sections.published import Published
from adapad_ray.report.sections.ranks import Ranks
from adapad_ray.report.sections.search import Searches
from adapad_ray.report.sections.settings import Settings
from adapad_ray.report.sections.summary import Summary
from adapad_ray.report.sections.training import Training
from adapad_ray.report.sections.tuning import Tuning

SECTIONS: tuple[type[Section], ...] = (
    Summary,
    Curve,
    Differences,
    CurveTable,
    Published,
    Searches,
    Ranks,
    Training,
    Convergence,
    Missing,
    Hardware,
    Costs,
    Data,
    Settings,
    Tuning,
)
