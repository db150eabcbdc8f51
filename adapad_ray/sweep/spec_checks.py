"""Checks of a sweep's file that span several fields. Every check raises `BadRequestError`."""

from __future__ import annotations

import re

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.search.settings import BUDGET, SearchStage, TuneStage
from adapad_ray.sweep.spec import SweepSpec, front_label
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings
from adapad_ray.validation import nearest

MOST_CELLS = 100_000
"""Of one sweep. A project default: a plan is a table of cells in memory."""
_LABEL = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)?")


def check_spec(spec: SweepSpec) -> None:
    """Checks everything that needs neither the model nor the data.

    Raises:
        BadRequestError: one sentence about the first problem.
    """
    cells = len(spec.labels()) * len(spec.budgets) * len(spec.seeds)
    if cells > MOST_CELLS:
        raise BadRequestError(
            f"methods × budgets × seeds are {cells:,} cells, more than {MOST_CELLS:,}: make the sweep smaller"
        )
    for label in spec.labels():
        _check_label(spec, label)
    if spec.tune is not None:
        _check_tune(spec, spec.tune)
    if spec.mode == "search" and spec.search is None:
        raise BadRequestError(
            "mode is search, but search is missing: add trials and space, as in sweeps/search_growth.yaml"
        )
    if spec.mode == "curve" and spec.search is not None:
        raise BadRequestError("search is given, but mode is curve: add mode: search, or remove search")
    if spec.search is not None:
        _check_search(spec, spec.search)


def _check_label(spec: SweepSpec, label: str) -> None:
    method = spec.method_name(label)
    if not _LABEL.fullmatch(label):
        raise BadRequestError(
            f"methods key {label!r} is not a label: write a method, or a method and a word of your own (lora/qv)"
        )
    if method not in METHODS:
        raise BadRequestError(f"method {method!r} is unknown: {nearest(method, METHODS)}")
    spec.method_settings(label)
    spec.training_settings(label)
    for key in spec.entry(label).training:
        if key in DATA_SETTINGS:
            raise BadRequestError(f"methods.{label}.training.{key} cannot differ between methods: set training.{key}")
    for budget in spec.budgets_of(label):
        if budget not in spec.budgets:
            raise BadRequestError(f"methods.{label}.budgets has {budget!r}, which is not among budgets {spec.budgets}")
    leader = spec.compute_as(label)
    if leader is not None and not spec.has_budget(label):
        raise BadRequestError(f"methods.{label}.compute_as needs budgets, and {method} has none: remove it")
    if leader is not None and (leader not in spec.methods or spec.compute_as(leader) is not None):
        raise BadRequestError(
            f"methods.{label}.compute_as is {leader!r}: name another label of this sweep, itself without compute_as"
        )


def _check_tune(spec: SweepSpec, stage: TuneStage) -> None:
    methods = [METHODS[spec.method_name(label)] for label in spec.labels()]
    known = {*TrainingSettings.model_fields}.union(*(method.Config.model_fields for method in methods))
    for key in stage.space:
        if key not in known:
            raise BadRequestError(f"tune.space.{key} is a setting of no method here: {nearest(key, known)}")
        if key in DATA_SETTINGS or any(key in method.structural for method in methods):
            raise BadRequestError(
                f"tune.space.{key} would change the data or which adapters exist: add a label for each value instead"
            )
    for label in spec.labels():
        if not spec.tune_space(label):
            raise BadRequestError(f"tune.space has no setting of {label}: add learning_rate, which every method has")


def _check_search(spec: SweepSpec, stage: SearchStage) -> None:
    if spec.tune is not None:
        raise BadRequestError("tune is given, but mode: search searches settings itself: remove tune")
    for label in stage.methods or []:
        if label not in spec.methods:
            raise BadRequestError(f"search.methods has {label!r}: {nearest(label, spec.methods)}")
    searched = stage.methods or list(spec.methods)
    known = {BUDGET, *TrainingSettings.model_fields}
    known.update(*(METHODS[spec.method_name(label)].Config.model_fields for label in searched))
    for key in stage.space:
        if key not in known:
            raise BadRequestError(f"search.space.{key} is a setting of no method searched: {nearest(key, known)}")
        if key in DATA_SETTINGS:
            raise BadRequestError(f"search.space.{key} would change the data, which all cells share: remove it")
    for label in searched:
        if front_label(label) in spec.methods:
            raise BadRequestError(
                f"methods.{front_label(label)} is the name that the front of {label} will have: rename it"
            )
