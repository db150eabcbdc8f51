"""Checks of a sweep's file that span several fields. Every check raises `BadRequestError`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from adapad_ray.budget import BudgetText, read_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.search.ranges import points_over, values_of
from adapad_ray.search.settings import BUDGET, SearchStage, TuneStage
from adapad_ray.search.space import parse_space
from adapad_ray.spelling import nearest
from adapad_ray.sweep.spec import Space, SweepSpec, front_label
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings

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
    _check_budgets(spec)
    _check_attention(spec)
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


def _check_budgets(spec: SweepSpec) -> None:
    """Checks that budgets can be read, and that none stands there twice: `10k` and `10000` are the same."""
    written: dict[BudgetText, int | float | str] = {}
    for budget in spec.budgets:
        amount = read_budget(budget)
        if amount in written:
            raise BadRequestError(f"budgets has {written[amount]!r} and {budget!r}, which are the same: remove one")
        written[amount] = budget


def _check_attention(spec: SweepSpec) -> None:
    kind, dtypes = spec.attn_implementation or "", ("bfloat16", "float16")
    if kind.startswith("flash") and spec.dtype not in dtypes:
        raise BadRequestError(
            f"attn_implementation {kind} is for half precision, but dtype is {spec.dtype}: use {' or '.join(dtypes)}"
        )
    if kind.startswith(("flash", "flex")) and not spec.resources.gpus_per_worker:
        raise BadRequestError(
            f"attn_implementation {kind} trains on GPUs, but resources.gpus_per_worker is 0: raise it, or use sdpa"
        )


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
    if (space := spec.entry(label).space) is not None:
        _check_own_space(spec, label, space)
    known = {read_budget(budget) for budget in spec.budgets}
    for budget in spec.budgets_of(label):
        if read_budget(budget) not in known:
            raise BadRequestError(f"methods.{label}.budgets has {budget!r}, which is not among budgets {spec.budgets}")
    leader = spec.compute_as(label)
    if leader is not None and not spec.has_budget(label):
        raise BadRequestError(f"methods.{label}.compute_as needs budgets, and {method} has none: remove it")
    if leader is not None and (leader not in spec.methods or spec.compute_as(leader) is not None):
        raise BadRequestError(
            f"methods.{label}.compute_as is {leader!r}: name another label of this sweep, itself without compute_as"
        )


def _check_tune(spec: SweepSpec, stage: TuneStage) -> None:
    readers = [label for label in spec.labels() if spec.entry(label).space is None]
    _check_names(spec, stage.space, "tune.space", readers, "is a setting of no method here")
    if not stage.by_budget:
        _check_budget("tune.budget", stage.budget)
    for label in spec.labels():
        where = _space_key(spec, label, "tune.space")
        if not spec.tune_space(label):
            raise BadRequestError(f"{where} has no setting of {label}: add learning_rate, which every method has")
        for point in points_over(parse_space(spec.tune_space(label), where)):
            _check_point(spec, label, point, where)


def _space_key(spec: SweepSpec, label: str, shared: str) -> str:
    """The key of the file that has a label's space."""
    return shared if spec.entry(label).space is None else f"methods.{label}.space"


def _check_search(spec: SweepSpec, stage: SearchStage) -> None:
    if spec.tune is not None:
        raise BadRequestError("tune is given, but mode: search searches settings itself: remove tune")
    for label in stage.methods or []:
        if label not in spec.methods:
            raise BadRequestError(f"search.methods has {label!r}: {nearest(label, spec.methods)}")
    searched = stage.methods or list(spec.methods)
    readers = [label for label in searched if spec.entry(label).space is None]
    names = [name for name in stage.space if name != BUDGET]
    _check_names(spec, names, "search.space", readers, "is a setting of no method searched")
    for values in stage.space[BUDGET].values():
        for value in values:
            _check_budget(f"search.space.{BUDGET}", value)
    for label in searched:
        settings = {key: values for key, values in spec.search_space(label).items() if key != BUDGET}
        where = _space_key(spec, label, "search.space")
        distributions = parse_space(settings, where) if settings else {}
        for name in distributions:  # one at a time: a search passes over combinations that cannot exist
            for value in values_of(name, distributions):
                with suppress(_JointError):
                    _check_point(spec, label, {name: value}, where)
        if front_label(label) in spec.methods:
            raise BadRequestError(
                f"methods.{front_label(label)} is the name that the front of {label} will have: rename it"
            )


def _check_own_space(spec: SweepSpec, label: str, space: Space) -> None:
    """Checks the names in the space of one label; `_check_tune` and `_check_search` check its values."""
    where = f"methods.{label}.space"
    if spec.tune is None and spec.search is None:
        raise BadRequestError(f"{where} is given, but nothing is tuned or searched: add tune, or remove it")
    if BUDGET in space and spec.search is not None:
        raise BadRequestError(f"{where}.{BUDGET} cannot differ between methods: set search.space.{BUDGET}")
    _check_names(spec, space, where, [label], f"is no setting of {label}")
    if space:
        parse_space(space, where)


def _check_names(spec: SweepSpec, names: Iterable[str], where: str, readers: Sequence[str], unknown: str) -> None:
    """Checks the names of a space's settings, given the labels that read it; `unknown` says what is wrong with one."""
    methods = [METHODS[spec.method_name(label)] for label in readers]
    known = {*TrainingSettings.model_fields}.union(*(method.Config.model_fields for method in methods))
    for name in names:
        if name not in known:
            raise BadRequestError(f"{where}.{name} {unknown}: {nearest(name, known)}")
        if name in DATA_SETTINGS:
            raise BadRequestError(f"{where}.{name} would change the data, which all cells share: remove it")
        if spec.tune is not None and any(name in method.structural for method in methods):
            raise BadRequestError(
                f"{where}.{name} would change which adapters exist: add a label for each value instead"
            )


class _JointError(BadRequestError):
    """Values that are allowed by themselves, but not together or with the settings of the file."""


def _check_point(spec: SweepSpec, label: str, point: Mapping[str, Any], where: str) -> None:
    """Checks that a label takes the values of a point.

    Raises:
        BadRequestError: names the value that is never allowed.
        _JointError: names the values that do not go together.
    """
    try:
        spec.method_settings(label, point, where)
        spec.training_settings(label, point, where)
    except BadRequestError as error:
        message = str(error)
        if message.startswith(f"{where}."):
            raise BadRequestError(f"{message} (for {label})") from error
        reason = message.removeprefix(f"{where}: ")
        named = [name for name in point if name in reason] or list(point)
        values = " and ".join(f"{where}.{name} {point[name]!r}" for name in named)
        raise _JointError(f"{values} cannot be trained by {label}: {reason}") from error


def _check_budget(key: str, budget: Any) -> None:
    try:
        read_budget(budget)
    except BadRequestError as error:
        raise BadRequestError(f"{key}: {error}") from error
