"""The fields of a sweep's file, and the settings that follow from them for each label.

A *label* is a method variant: a method's name, or that name and a word of the user's, as in `lora/qv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator
from pydantic_core import PydanticCustomError

from adapad_ray.methods import METHODS
from adapad_ray.report.published import PublishedPoint
from adapad_ray.search.settings import BUDGET, SearchStage, TuneStage
from adapad_ray.search.space import number_of_points, parse_space
from adapad_ray.storage import DEFAULT_FOLDER
from adapad_ray.tasks import Source, parse_source
from adapad_ray.tracking.store import DEFAULT_STORE
from adapad_ray.training.settings import DATA_SETTINGS, TrainingSettings
from adapad_ray.validation import SECRET, validated

REFERENCE = "head_only"
"""The method that is the curve's reference: the frozen backbone with a trained head."""

Space = dict[str, dict[str, list[Any]]]
"""Ranges by hyperparameter: `{log | uniform | int: [low, high]}` or `{choice: [...]}`."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_list(budgets: Any) -> Any:
    """One budget as a list of one."""
    return [budgets] if isinstance(budgets, (int, float, str)) and not isinstance(budgets, bool) else budgets


Budgets = Annotated[list[int | float | str], BeforeValidator(_as_list)]


class MethodEntry(_Section):
    """What the file has under one label: these fields, and the settings of the method."""

    model_config = ConfigDict(frozen=True, extra="allow")

    target_modules: str | list[str] | None = None
    """Default: the sweep's."""
    training: dict[str, Any] = {}
    """Training settings that differ from the sweep's. Settings of the data cannot differ."""
    budgets: Budgets | None = None
    """A subset of the sweep's budgets; default: all."""
    space: Space | None = None
    """Ranges of its own, instead of those of `tune.space` or `search.space`: full fine-tuning wants smaller learning
    rates than adapters do."""
    compute_as: str | None = None
    """The leader: a label whose training compute this one is given at every budget, as a compute-matched control."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the method."""
        return dict(self.model_extra or {})


def _of_this_cluster(gpus: Any) -> Any:
    """`auto` as one GPU where there are any."""
    if gpus != "auto":
        return gpus
    from adapad_ray.distributed import visible_gpus  # Ray, which other values do without

    return min(1.0, visible_gpus())


def _of_one_worker(gpus: float) -> float:
    if gpus > 1:
        raise ValueError(
            f"a worker uses one GPU, and {gpus - 1:g} of {gpus:g} would be idle: set it to 1 or less; several workers "
            "share a cell, and a model that is too large for one GPU needs dtype: bfloat16 or quantization: nf4"
        )
    return gpus


class Resources(_Section):
    """What one cell gets. As many cells run at once as the cluster has room for, up to `max_groups`."""

    workers: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: float = Field(default=1.0, ge=1e-3)
    gpus_per_worker: Annotated[float, BeforeValidator(_of_this_cluster), AfterValidator(_of_one_worker)] = Field(
        default=0.0, ge=0
    )
    """`auto`: one if the cluster has GPUs when the sweep starts, else none."""
    memory_per_worker: float = Field(default=0.0, ge=0)
    """GB of main memory that Ray reserves."""
    accelerator_type: str | None = None
    """As Ray names it, for example `A100`."""
    node_labels: dict[str, str] = {}
    """Labels of the nodes that cells run on, as Ray's selectors."""
    slots_per_pass: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    """Most lanes in one forward and backward pass, of one cell or of several that train side by side in a worker.
    `auto`: as many as a GPU's memory holds, 1 on a CPU."""
    max_groups: int | None = Field(default=None, ge=1, le=1000)
    """Most cells at a time."""


class CheckpointPeriod(_Section):
    """How often a running cell saves its state, at the end of a round. A kill costs at most this much."""

    seconds: float = Field(default=60.0, gt=0)
    rounds: int | None = Field(default=None, ge=1)
    """Also after this many rounds, if that comes first."""


class TimeLimits(_Section):
    """What ends when it takes too long; finished cells and checkpoints are kept."""

    cell: float | None = Field(default=None, gt=0)
    """Minutes of one cell in one launch; it counts as failed then, and the next launch continues it."""
    sweep: float | None = Field(default=None, gt=0)
    """Minutes of computing in one launch."""


class SweepSpec(_Section):
    """One sweep: a cell for every (method, budget, seed), after an optional tune stage or beside a search."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Default: the file's name."""
    model: str
    """A packaged name (`adapad list models`), a Hub name, or a folder written by `save_pretrained`."""
    task: str | SerializeAsAny[Source]
    """A name (`adapad list tasks`), or files and columns."""
    data_dir: str | None = None
    """Folder of a GLUE task's files, or of the files that `task` names."""
    pooling: str | None = None
    """`mean` or `own`; default: what the model declares."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Of the backbone's weights."""
    quantization: Literal["nf4", "int8", "fp8"] | None = None
    """Of the backbone's linear layers; None: they are in the `dtype`, as all else is."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        None
    )
    """How attention is computed; None: as transformers chooses, `sdpa` where the model has it."""
    precision: Literal["auto", "full", "tf32", "mixed"] = "auto"
    """Of the training; evaluation is always in the `dtype`. `mixed`: products with frozen weights are in bf16, all else
    in fp32. `tf32`: all products of a GPU are in TF32. `auto`: see `precision.py`."""
    target_modules: str | list[str] = "all-linear"
    """Which linear layers are adapted: all, the ends of their names, or a regular expression."""
    methods: dict[str, MethodEntry] = Field(min_length=1)
    """Label → settings."""
    budgets: Budgets = Field(min_length=1)
    """Deployed adapter parameters, as `41472`, `10.4k`, `0.5%` (of the backbone's) or `144 ranks`."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[0, 1, 2], min_length=1)
    """Every method is trained at every budget with every seed."""
    training: TrainingSettings = TrainingSettings()
    mode: Literal["curve", "search"] = "curve"
    """`curve`: every (method, budget, seed), after the tune stage. `search`: the Pareto front that Optuna finds, beside
    the curve with the settings of the file."""
    tune: TuneStage | None = None
    search: SearchStage | None = None
    reference: bool = True
    """Whether `head_only`, the frozen backbone, is added as the curve's reference."""
    resources: Resources = Resources()
    checkpoint: CheckpointPeriod = CheckpointPeriod()
    storage: str = DEFAULT_FOLDER
    """Folder of the sweeps' folders, or its address, as `s3://…`."""
    tracking: str = DEFAULT_STORE
    """MLflow's database or server."""
    tensorboard: bool = False
    """Whether losses and validations go to TensorBoard too, as event files in the sweep's folder."""
    wandb: str | None = Field(default=None, pattern=r"^([^/\\#?%:\s]+/)?[^/\\#?%:]{1,128}$")
    """A project of Weights & Biases to which they go too: `project` or `team/project`."""
    validations: int = Field(default=0, ge=0, le=1000)
    """Times that every cell scores the validation split during training, besides at its end. It changes no result."""
    log_adapters: bool = False
    """Whether MLflow gets a copy of every adapter; the sweep's folder has them anyway."""
    delta: float = Field(default=0.01, gt=0, lt=1)
    """How much worse than the best, in units of the metric, a recommended model may be."""
    published: list[PublishedPoint] = []
    """Numbers from papers that the report shows next to the sweep's."""
    max_attempts: int = Field(default=3, ge=1)
    """Starts of one cell before it counts as failed because its workers keep dying."""
    max_minutes: TimeLimits = TimeLimits()

    @field_validator("task", mode="before")
    @classmethod
    def _parse_task(cls, task: Any) -> Any:
        """Parses a mapping by the task type that it names, so that an error is about that type."""
        return parse_source(task) if isinstance(task, Mapping) else task

    @field_validator("tracking")
    @classmethod
    def _tracking_has_no_password(cls, tracking: str) -> str:
        if urlsplit(tracking).password is not None:
            raise PydanticCustomError(
                SECRET,
                "its password would be stored with the results: remove it, and set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI",
            )
        return tracking

    @field_validator("seeds", mode="before")
    @classmethod
    def _is_a_list(cls, seeds: Any) -> Any:
        if isinstance(seeds, str):
            raise ValueError("write a list, as in [0, 1, 2]")
        if type(seeds) is not int or seeds < 0:
            return seeds
        if seeds > 0:
            first = "[0, 1, …]" if seeds > 3 else str(list(range(seeds)))
            raise ValueError(f"write [{seeds}] for the seed {seeds}, or {first} for {seeds} of them")
        return [0]

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds

    def labels(self) -> list[str]:
        """The labels in the file's order, after the reference where it is added."""
        added = [REFERENCE] if self.reference and REFERENCE not in self.methods else []
        return added + list(self.methods)

    def method_name(self, label: str) -> str:
        """The method of a label."""
        return label.split("/")[0]

    def has_budget(self, label: str) -> bool:
        """Whether a label trains for a budget; `head_only` and `full` do not."""
        return METHODS[self.method_name(label)].budgeted

    def entry(self, label: str) -> MethodEntry:
        """What the file has under a label."""
        return self.methods.get(label, MethodEntry())

    def method_settings(
        self, label: str, point: Mapping[str, Any] | None = None, where: str | None = None
    ) -> dict[str, Any]:
        """The method's resolved configuration with every default; values of `point` override the file's.

        Args:
            where: what error messages name; default: the label's key in the file.
        """
        config = METHODS[self.method_name(label)].Config
        tuned = {key: value for key, value in (point or {}).items() if key in config.model_fields}
        settings = {**self.entry(label).config, **tuned}
        key, more_fields = f"methods.{label}", MethodEntry.model_fields.keys()
        elsewhere = {name: f"{key}.training.{name}" for name in TrainingSettings.model_fields}
        elsewhere |= {name: f"training.{name}" for name in DATA_SETTINGS}
        method = validated(config, settings, where or key, more_fields=more_fields, elsewhere=elsewhere)
        return method.model_dump(mode="json")

    def training_settings(
        self, label: str, point: Mapping[str, Any] | None = None, where: str | None = None
    ) -> TrainingSettings:
        """The training settings of a label: values of `point` override the label's, which override the sweep's.

        Args:
            where: as for `method_settings`.
        """
        tuned = {key: value for key, value in (point or {}).items() if key in TrainingSettings.model_fields}
        settings = {**self.training.model_dump(), **self.entry(label).training, **tuned}
        key = f"methods.{label}"
        elsewhere = {name: f"{key}.{name}" for name in METHODS[self.method_name(label)].Config.model_fields}
        return validated(TrainingSettings, settings, where or f"{key}.training", elsewhere=elsewhere)

    def modules_of(self, label: str) -> str | list[str]:
        """The modules that a label adapts."""
        own = self.entry(label).target_modules
        return self.target_modules if own is None else own

    def budgets_of(self, label: str) -> list[int | float | str]:
        """The budgets of a label."""
        own = self.entry(label).budgets
        return self.budgets if own is None else own

    def compute_as(self, label: str) -> str | None:
        """The leader of a label, whose training compute it is given; None for most labels."""
        return self.entry(label).compute_as

    def tune_space(self, label: str) -> Space:
        """The part of the tune space that applies to a label's method."""
        assert self.tune is not None
        return self._space_of(label, self.tune.space)

    def tune_trials(self, label: str) -> int:
        """The points at which a label is tuned: `tune.trials`, or all of its space where it has fewer."""
        assert self.tune is not None
        size = number_of_points(parse_space(self.tune_space(label)))
        return self.tune.trials if size is None else min(self.tune.trials, size)

    def search_space(self, label: str) -> Space:
        """The part of the search space that applies to a label's method, and the budget."""
        assert self.search is not None
        return {BUDGET: self.search.space[BUDGET], **self._space_of(label, self.search.space)}

    def _space_of(self, label: str, space: Space) -> Space:
        own = self.entry(label).space
        if own is not None:
            return own
        fields = {*TrainingSettings.model_fields, *METHODS[self.method_name(label)].Config.model_fields}
        return {key: value for key, value in space.items() if key in fields}


def front_label(label: str) -> str:
    """The curve's label for the retrained front of a search: `adapad/front`, `adapad/exact-front`."""
    return f"{label}-front" if "/" in label else f"{label}/front"
