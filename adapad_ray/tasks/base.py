"""The contract of a task type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.losses import cross_entropy
from adapad_ray.tasks.source import Source, SourceFile
from adapad_ray.tasks.task_data import DataLimits, Evaluated, Passes, RawTask, TaskData

if TYPE_CHECKING:
    from torch import nn

    from adapad_ray.models import BackboneRecipe

SourceT = TypeVar("SourceT", bound=Source)


class TaskType(ABC, Generic[SourceT]):
    """A task type: how its data are made, which model it trains, and how that model is evaluated.

    Most types read rows and derive from `rows.RowTask`, which leaves less to write.
    """

    name: ClassVar[str]
    """The value of `task.type`."""
    Source: type[SourceT]
    """The fields of `task`."""
    auto_class: ClassVar[str | None]
    """The class of transformers that the model is loaded with; None for a model that transformers does not have."""
    loss = staticmethod(cross_entropy)
    """The training loss (see `losses.Loss`)."""
    reads_texts: ClassVar[bool] = True
    """Whether rows are texts, so that the reader is the model's tokenizer."""
    writes_special_tokens: ClassVar[bool] = False
    """Whether the type writes special tokens between texts itself, as chat templates do."""
    can_pack_sequences: ClassVar[bool] = False
    """Whether several of its texts can stand in one row of a batch."""
    rows_name_files: ClassVar[bool] = False
    """Whether rows name further files, which `adapad submit` cannot send along."""

    @abstractmethod
    def read(self, source: SourceT) -> RawTask:
        """Read and check the source.

        Raises:
            BadRequestError: a file, column, label or split is missing or unusable.
            UnreachableError: a file does not exist, or the Hub cannot be reached.
        """

    @abstractmethod
    def encode(self, raw: RawTask, reader: Any, limits: DataLimits) -> TaskData:
        """Encode the task for a model that reads with `reader`.

        Raises:
            BadRequestError: a limit does not suit the data or the model.
        """

    def declares_rows(self, source: SourceT) -> bool:
        """Whether the source declares how many rows it has, so that `assume` can stand in for missing data."""
        return False

    def assume(self, source: SourceT, reader: Any, limits: DataLimits) -> TaskData:
        """Data for `adapad plan` without reading any: the declared number of rows, each of the largest size."""
        raise NotImplementedError(f"task type {self.name} cannot assume rows")

    def files(self, source: SourceT) -> list[SourceFile]:
        """The local files that the source names; `adapad submit` sends them along."""
        return source.files()

    def reader(self, model: str) -> Any:
        """What turns raw inputs into the model's: its tokenizer, or the format of its images."""
        from adapad_ray.models import load_tokenizer  # torch and transformers are slow to import

        return load_tokenizer(model)

    def planning_reader(self, model: str) -> tuple[Any, bool]:
        """A reader that is good enough to plan with, and whether it is the model's own."""
        from adapad_ray.models import sketch_tokenizer

        return sketch_tokenizer(model)

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """Number of outputs of the model's head."""
        return len(class_names)

    def recipe(
        self,
        model: str,
        data: TaskData,
        *,
        pooling: str | None = None,
        dtype: str = "float32",
        precision: str = "full",
        quantization: str | None = None,
        attn_implementation: str | None = None,
    ) -> BackboneRecipe:
        """Check the model, and return how to load it with its weights.

        Raises:
            BadRequestError: the model cannot be loaded, or an argument does not fit it.
        """
        from adapad_ray.models import find_recipe

        assert self.auto_class is not None
        outputs = self.outputs(data.class_names)
        return find_recipe(
            model,
            outputs,
            auto_class=self.auto_class,
            pooling=pooling,
            dtype=dtype,
            precision=precision,
            quantization=quantization,
            attn_implementation=attn_implementation,
        )

    def skeleton(self, model: str, data: TaskData, *, pooling: str | None = None, device: str = "meta") -> nn.Module:
        """Build the model from its configuration: without weights on the meta device, with random ones on others.

        Raises:
            BadRequestError: the configuration cannot be read, or `pooling` does not fit it.
        """
        from adapad_ray.models import load_skeleton

        assert self.auto_class is not None
        outputs = self.outputs(data.class_names)
        return load_skeleton(model, outputs, pooling, auto_class=self.auto_class, device=device)

    def check(self, model: str, limited: Sequence[str]) -> None:
        """Check that the type goes with the rest of a sweep's file.

        Args:
            model: the sweep's model.
            limited: the fields of `DataLimits` that differ from their defaults.

        Raises:
            BadRequestError: it does not.
        """
        from adapad_ray.models import LINEAR

        if model == LINEAR:
            raise BadRequestError(
                f"model {model!r} does not go with this task: model {LINEAR} is for task bilinear, and for no other"
            )

    @abstractmethod
    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Evaluate a model on the named splits. `validation` is the first of them; only it may set a threshold.

        Raises:
            FloatingPointError: an output of the model is not finite.
        """
