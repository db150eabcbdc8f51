"""The sweep's file: what it may say, and one clear sentence for what it may not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.report.published import PublishedPoint
from adapad_ray.safe_yaml import LONGEST_TEXT, read_yaml
from adapad_ray.search.settings import BUDGET, SearchStage, TuneStage
from adapad_ray.tasks import Source, parse_source
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings

REFERENCE = "head_only"
_LABEL = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)?")
MOST_CELLS = 100_000
"""Of one sweep. A project default: a plan is a table of cells in memory."""
SECRET = "secret"
"""Type of the errors whose message must not show the value."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodEntry(_Part):
    """What the file says under one label: these fields, and beside them the settings of the method."""

    model_config = ConfigDict(frozen=True, extra="allow")

    target_modules: str | list[str] | None = None
    """By default the sweep's."""
    training: dict[str, Any] = {}
    """Training settings that differ from the sweep's; data settings cannot."""
    budgets: list[int | float | str] | None = None
    """Those of the sweep's budgets at which the label is run; by default all."""
    compute_as: str | None = None
    """The label whose training compute this one is given, budget by budget: a compute-matched control."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the method."""
        return dict(self.model_extra or {})


class Resources(_Part):
    """What one cell gets; as many cells run at once as the cluster has room for."""

    workers: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: float = Field(default=1.0, ge=1e-3)
    gpus_per_worker: float = Field(default=0.0, ge=0)


class CheckpointPeriod(_Part):
    """How often a running cell saves its state, at the end of a round: what a kill can cost."""

    seconds: float = Field(default=60.0, gt=0)
    rounds: int | None = Field(default=None, ge=1)
    """In rounds as well; whichever is due first."""


class SweepSpec(_Part):
    """One sweep: its cells are every (method, budget, seed), after an optional tune stage."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """By default the file's name."""
    model: str
    task: str | SerializeAsAny[Source]
    data_dir: str | None = None
    """Folder of a GLUE task's files, or of the files that `task` names."""
    pooling: str | None = None
    """`mean`, `own`, or by default what the model declares."""
    dtype: str = "float32"
    target_modules: str | list[str] = "all-linear"
    methods: dict[str, MethodEntry] = Field(min_length=1)
    """Label → settings. A label is a method's name, or that name and a word of the user's: `lora/qv`."""
    budgets: list[int | float | str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[0, 1, 2], min_length=1)
    training: TrainingSettings = TrainingSettings()
    mode: Literal["curve", "search"] = "curve"
    """`curve`: every (method, budget, seed), after the tune stage. `search`: the front that Optuna finds, and beside it
    the same curve with the settings of the file."""
    tune: TuneStage | None = None
    search: SearchStage | None = None
    reference: bool = True
    """Whether `head_only`, the frozen backbone, is added as the curve's reference."""
    resources: Resources = Resources()
    checkpoint: CheckpointPeriod = CheckpointPeriod()
    storage: str = "runs"
    tracking: str = "sqlite:///mlflow.db"
    delta: float = Field(default=0.01, gt=0, lt=1)
    """How much worse than the best, in units of the metric, a recommended model may be."""
    published: list[PublishedPoint] = []
    """Figures of papers, to stand beside ours in the report."""
    max_attempts: int = Field(default=3, ge=1)
    """Starts of one cell before it is given up when its worker keeps dying."""

    @field_validator("task", mode="before")
    @classmethod
    def _task_is_described(cls, task: Any) -> Any:
        """The kind of task that a mapping means, or the sentence about that kind."""
        return parse_source(task) if isinstance(task, Mapping) else task

    @field_validator("tracking")
    @classmethod
    def _tracking_holds_no_secret(cls, tracking: str) -> str:
        if urlsplit(tracking).password is not None:
            raise PydanticCustomError(
                SECRET,
                "its password would be kept with the results: leave it out, and set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI",
            )
        return tracking

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds

    def labels(self) -> list[str]:
        """The labels in the file's order, the reference first where it is added."""
        added = [REFERENCE] if self.reference and REFERENCE not in self.methods else []
        return added + list(self.methods)

    def method_name(self, label: str) -> str:
        """The method behind a label."""
        return label.split("/")[0]

    def entry(self, label: str) -> MethodEntry:
        """What the file says about a label."""
        return self.methods.get(label, MethodEntry())

    def method_settings(self, label: str, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The method's resolved configuration, every default written out; a tuned `point` wins over the file."""
        config = METHODS[self.method_name(label)].Config
        tuned = {key: value for key, value in (point or {}).items() if key in config.model_fields}
        return _validated(config, {**self.entry(label).config, **tuned}, f"methods.{label}").model_dump(mode="json")

    def training_settings(self, label: str, point: Mapping[str, Any] | None = None) -> TrainingSettings:
        """The training settings of a label: the sweep's, then the label's own, then the tuned `point`."""
        tuned = {key: value for key, value in (point or {}).items() if key in TrainingSettings.model_fields}
        settings = {**self.training.model_dump(), **self.entry(label).training, **tuned}
        return _validated(TrainingSettings, settings, f"methods.{label}.training")

    def modules_of(self, label: str) -> str | list[str]:
        """Which modules a label adapts."""
        own = self.entry(label).target_modules
        return self.target_modules if own is None else own

    def budgets_of(self, label: str) -> list[int | float | str]:
        """The budgets at which a label is run."""
        own = self.entry(label).budgets
        return self.budgets if own is None else own

    def compute_as(self, label: str) -> str | None:
        """The label whose training compute this one is given."""
        return self.entry(label).compute_as

    def tune_space(self, label: str) -> dict[str, dict[str, list[Any]]]:
        """The part of the tune space that this label's method has."""
        assert self.tune is not None
        return self._space_of(label, self.tune.space)

    def search_space(self, label: str) -> dict[str, dict[str, list[Any]]]:
        """The part of the search space that this label's method has, and the budget."""
        assert self.search is not None
        return {BUDGET: self.search.space[BUDGET], **self._space_of(label, self.search.space)}

    def _space_of(self, label: str, space: Mapping[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        fields = {*TrainingSettings.model_fields, *METHODS[self.method_name(label)].Config.model_fields}
        return {key: value for key, value in space.items() if key in fields}


def load_spec(path: Path | str, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads a sweep's file and applies `key=value` overrides (dotted keys, values in YAML).

    Raises:
        BadRequestError: one sentence about the first thing that is wrong.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_TEXT + 1)
    except OSError as error:
        raise BadRequestError(f"sweep file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequestError(f"sweep file {path} is not valid YAML: {error}") from error
    content = read_yaml(text, f"sweep file {path}")
    if not isinstance(content, dict):
        raise BadRequestError(f"sweep file {path} must be a mapping with model, task, methods and budgets")
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", path.stem)
    return parse_spec(content)


def parse_spec(content: Mapping[str, Any]) -> SweepSpec:
    """Validates what a file says, method settings included.

    Raises:
        BadRequestError: one sentence about the first thing that is wrong.
    """
    content = {
        key: ({k: v or {} for k, v in value.items()} if key == "methods" and isinstance(value, dict) else value)
        for key, value in content.items()
    }
    spec = _validated(SweepSpec, content, "")
    cells = len(spec.labels()) * len(spec.budgets) * len(spec.seeds)
    if cells > MOST_CELLS:
        raise BadRequestError(
            f"methods × budgets × seeds are {cells:,} cells, more than {MOST_CELLS:,}: make it smaller"
        )
    for label in spec.labels():
        _check_label(spec, label)
    if spec.tune is not None:
        _check_space(spec, spec.tune)
    if spec.mode == "search" and spec.search is None:
        raise BadRequestError(
            "mode is search, but search is missing: say trials and space, as in sweeps/search_growth.yaml"
        )
    if spec.mode == "curve" and spec.search is not None:
        raise BadRequestError("search is given, but mode is curve: add mode: search, or remove search")
    if spec.search is not None:
        _check_search(spec, spec.search)
    return spec


def _check_label(spec: SweepSpec, label: str) -> None:
    name = spec.method_name(label)
    if not _LABEL.fullmatch(label):
        raise BadRequestError(f"methods key {label!r} is not a label: write a method, or a method and a word (lora/qv)")
    if name not in METHODS:
        raise BadRequestError(f"method {name!r} is unknown: {_nearest(name, METHODS)}")
    spec.method_settings(label)
    spec.training_settings(label)
    for key in spec.entry(label).training:
        if key in DATA_SETTINGS:
            raise BadRequestError(f"methods.{label}.training.{key} cannot differ between methods: set training.{key}")
    for budget in spec.budgets_of(label):
        if budget not in spec.budgets:
            raise BadRequestError(f"methods.{label}.budgets has {budget!r}, which is not among budgets {spec.budgets}")
    leader = spec.compute_as(label)
    if leader is not None and not METHODS[name].budgeted:
        raise BadRequestError(f"methods.{label}.compute_as follows budgets, which {name} has none of: remove it")
    if leader is not None and (leader not in spec.methods or spec.compute_as(leader) is not None):
        raise BadRequestError(
            f"methods.{label}.compute_as is {leader!r}: name another label of this sweep, itself without compute_as"
        )


def _check_space(spec: SweepSpec, stage: TuneStage) -> None:
    methods = [METHODS[spec.method_name(label)] for label in spec.labels()]
    known = {*TrainingSettings.model_fields}.union(*(method.Config.model_fields for method in methods))
    for key in stage.space:
        if key not in known:
            raise BadRequestError(f"tune.space.{key} is a setting of no method here: {_nearest(key, known)}")
        if key in DATA_SETTINGS or any(key in method.structural for method in methods):
            raise BadRequestError(
                f"tune.space.{key} would change the data or which adapters exist: use labels of their own instead"
            )
    for label in spec.labels():
        if not spec.tune_space(label):
            raise BadRequestError(f"tune.space has no setting of {label}: add learning_rate, which every method has")


def _check_search(spec: SweepSpec, stage: SearchStage) -> None:
    if spec.tune is not None:
        raise BadRequestError("tune has no place in mode search, which searches settings itself: remove it")
    for label in stage.methods or []:
        if label not in spec.methods:
            raise BadRequestError(f"search.methods has {label!r}: {_nearest(label, spec.methods)}")
    searched = stage.methods or list(spec.methods)
    known = {BUDGET, *TrainingSettings.model_fields}
    known.update(*(METHODS[spec.method_name(label)].Config.model_fields for label in searched))
    for key in stage.space:
        if key not in known:
            raise BadRequestError(f"search.space.{key} is a setting of no method searched: {_nearest(key, known)}")
        if key in DATA_SETTINGS:
            raise BadRequestError(f"search.space.{key} would change the data, which all cells share: remove it")
    for label in searched:
        if front_label(label) in spec.methods:
            raise BadRequestError(f"methods.{front_label(label)} is how the front of {label} is called: rename it")


def front_label(label: str) -> str:
    """What the curve calls the configurations on a label's front: `adapad/front`, `adapad/exact-front`."""
    return f"{label}-front" if "/" in label else f"{label}/front"


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise BadRequestError(f"override {override!r} is not key=value, as in training.epochs=2 or seeds=[0,1]")
    value = read_yaml(text, f"override {override[:100]!r}")
    *parents, last = key.split(".")
    place = content
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise BadRequestError(f"override {override!r}: {name} holds a value, not a mapping")
    place[last] = value


def _validated(model: type[ModelT], content: Mapping[str, Any], where: str) -> ModelT:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        sentence = _sentence(error, model, where)
        # Keys are repeated as they stand, and may hold what a terminal would obey.
        raise BadRequestError("".join(c if c.isprintable() else "?" for c in sentence)) from error


def _sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first problem in one sentence: which key, which value, what would be right."""
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"] if str(part) not in ("int", "float", "str", "list[str]", "Source")]
    key = ".".join([where, *parts] if where else parts)
    if problem["type"] == "extra_forbidden":
        fields = _fields(model, parts[:-1])
        return f"{key} is unknown: {_nearest(parts[-1], fields)}"
    if problem["type"] == "missing":
        return (
            f"{key} is missing: every sweep needs model, task, methods and budgets"
            if not where
            else f"{key} is missing"
        )
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == SECRET:
        return f"{key}: {message}"
    key, message, shown = key[:200], message[:1000], repr(problem["input"])
    return f"{key or where} is {shown[:200]}: {message[:1].lower()}{message[1:]}" if parts else f"{where}: {message}"


def _fields(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    for name in parents:
        field = model.model_fields.get(name)
        options = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            break
        model = inner[0]
    entry = list(MethodEntry.model_fields) if model in {m.Config for m in METHODS.values()} else []
    return [*model.model_fields, *entry]


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)
    close.sort(key=lambda k: sorted(k) != sorted(str(name)))  # swapped letters are a likelier slip than a missing one
    choices = ", ".join(sorted(str(k) for k in known))
    return f"did you mean {close[0]}?" if close else f"known are {choices}"
