"""`attach`: a method of this package inside a training loop of the user's own, such as transformers' `Trainer`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from adapad_ray.adapters.export import deployed_adapter, provenance, save_peft
from adapad_ray.api import token_outputs
from adapad_ray.api.outside_loop import OutsideLoop
from adapad_ray.api.own_model import Borrowed, own_backbone
from adapad_ray.api.request import AnyPrecision, Request, check_arguments, resolve
from adapad_ray.errors import BadRequestError
from adapad_ray.files import require_empty
from adapad_ray.methods import METHODS, CellContext, Deployable, Method
from adapad_ray.models import CAUSAL, SEQUENCES, Backbone, initialise_head
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.tasks.losses import Loss, cross_entropy, squared_error
from adapad_ray.training.batches import Batch
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.validation import validated

if TYPE_CHECKING:
    from adapad_ray.api.trainer_callback import AttachedCallback

_OF_THE_LOOP = (
    "epochs", "batch_size", "max_length", "group_by_length", "pad_to_multiple_of", "pack_sequences",
    "evaluation_batch_size", "max_train_examples", "max_validation_examples", "max_test_examples",
)  # fmt: skip
"""Training settings that the user's loop decides."""


def attach(
    model: nn.Module,
    method: str = "adapad",
    budget: int | float | str | None = None,
    *,
    steps: int,
    target_modules: str | Sequence[str] = "all-linear",
    head_modules: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    precision: AnyPrecision = "auto",
    loss: Loss | None = None,
    **training: Any,
) -> Attached:
    """Prepares a model to be trained in a loop of the user's own: `loss.backward()`, `optimizer.step()`.

    Equal batches give the adapter of `train`. The model is changed in place until `detach`.

    Args:
        model: a model of transformers, on its device.
        method: one that trains its own adapter; all but `para`, `full` and `head_only`.
        budget: adapter parameters, as in a sweep's file.
        steps: optimizer steps that the loop will take: the learning rates and the growth of ranks depend on it.
        target_modules: as in a sweep's file.
        head_modules: layers to train as the head, from new weights; default: those outside the base model.
        settings: of the method, as under its name in a sweep's file.
        seed: decides the head's first weights, the components' and their dropout.
        precision: as in a sweep's file.
        loss: one value per example from output and labels; default: cross-entropy, or the squared error where the head
            has one output; the model's own for a language model and for answers in a text.
        **training: of `training` in a sweep's file: `learning_rate`, `lr_scheduler_type`, `warmup_fraction`,
            `component_warmup_steps`, `weight_decay`, `max_grad_norm`, `optimizer`, `gradient_checkpointing`.

    Raises:
        BadRequestError: the request cannot be met; the model is unchanged.
    """
    for name in _OF_THE_LOOP:
        if name in training:
            raise BadRequestError(f"training.{name} is decided by your loop: leave it out")
    chosen = validated(TrainingSettings, training, "training")
    check_arguments(target_modules=target_modules, settings=settings, seed=seed, precision=precision, steps=steps)
    auto_class = _auto_class(model)
    backbone = own_backbone(model, None, auto_class=auto_class, head_modules=head_modules)
    request = resolve(backbone, method, budget, target_modules=target_modules, settings=settings, precision=precision)
    context = CellContext(request.modules, request.budget, steps, seed, backbone.parameters)
    made = METHODS[method](request.config, context)
    if made.plan().trains_head_only or not made.budgeted or made.parent() is not None:
        raise BadRequestError(f"method {method} trains no adapter of its own: attach takes the methods that do")
    return Attached(backbone, made, chosen, request, loss or _default_loss(model, auto_class), auto_class)


class Attached(nn.Module):
    """A model with a method attached, and what a loop needs beside it.

    In training mode a call returns the loss, summed over the method's lanes; in eval mode it returns the output of the
    model as it would be deployed now.
    """

    accepts_loss_kwargs = False
    """For transformers' `Trainer`: the loss is already a mean over the batch."""

    def __init__(
        self,
        backbone: Backbone,
        method: Method[Any],
        training: TrainingSettings,
        request: Request,
        loss: Loss | None,
        auto_class: str,
    ) -> None:
        super().__init__()
        seed, steps = method.context.seed, method.context.total_steps
        self._backbone, self._method, self._loss, self._auto_class = backbone, method, loss, auto_class
        self._loan = Borrowed(backbone, request.precision)
        initialise_head(backbone.model, backbone.head_modules, derive_seed(seed, "head"))
        self._adapted = method.adapt(backbone.model, backbone.head_modules)
        try:
            self._loop = OutsideLoop(method, training, total_steps=steps, seed=seed, device=request.device, loss=loss)
        except BadRequestError:
            self._adapted.detach()
            self._loan.give_back()
            raise
        self._loop.start()
        self.backbone = backbone.model
        self.config = self.backbone.config
        self.device = request.device
        """Where the model must stay."""
        self.optimizer = AttachedOptimizer(self._loop, request.device)
        """Clips, steps and schedules every component by itself, and grows and publishes where it is time."""
        self.scheduler = OwnSchedule(self.optimizer)
        """For loops that want one; the optimizer sets the learning rates."""
        self.__dict__["forward"] = _with_signature(self, self.backbone)

    @property
    def optimizers(self) -> tuple[AttachedOptimizer, OwnSchedule]:
        """What `Trainer` takes as `optimizers`."""
        return self.optimizer, self.scheduler

    @cached_property
    def callback(self) -> AttachedCallback:
        """A callback for `Trainer` that rejects arguments under which it would train something else."""
        from adapad_ray.api.trainer_callback import AttachedCallback

        return AttachedCallback(self)

    def forward(self, labels: Tensor | None = None, *, fused_lm_head: bool = False, **inputs: Tensor) -> ModelOutput:
        """The output for a batch, as the model itself takes it; `labels` are needed in training mode.

        Args:
            fused_lm_head: as TRL's `SFTTrainer` asks for it (`token_outputs`).
        """
        if not self.training:
            if fused_lm_head and labels is not None:
                return token_outputs.of_logits(self._evaluate(inputs, None).logits, labels)
            return self._evaluate(inputs, labels)
        if labels is None:
            raise BadRequestError("the batch has no labels: training mode needs them; call eval() to predict")
        loss = self._loop.loss_of(Batch(inputs, labels, _size(inputs)))
        return token_outputs.of_training(loss, labels) if fused_lm_head else ModelOutput(loss=loss)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "forward":  # TRL would replace it by one that knows no lanes
            super().__setattr__(name, value)

    @property
    def generation_config(self) -> Any:
        """The model's own; TRL sets its padding token."""
        return self.backbone.generation_config

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Rejects what `Trainer` calls where its arguments ask for checkpointing, as TRL's do by default.

        Raises:
            BadRequestError: always.
        """
        raise BadRequestError(
            "gradient_checkpointing (activation_checkpointing) of the trainer's arguments is on: set it to False, and "
            "pass gradient_checkpointing=True to attach instead"
        )

    activation_checkpointing_enable = gradient_checkpointing_enable

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Leaves the model's tags as they are: TRL would add its name."""

    def train(self, mode: bool = True) -> Attached:
        """Sets the mode of this module; the frozen model stays in eval mode, without its own dropout."""
        self.training = mode
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps that the adapter was attached for."""
        return self._loop.total_steps

    @property
    def steps_done(self) -> int:
        """Optimizer steps taken."""
        return self._loop.step

    @property
    def losses(self) -> list[float]:
        """Training loss per optimizer step, summed over the lanes, up to the last finished round."""
        return list(self._loop.record.losses)

    @property
    def parameters_deployed(self) -> int:
        """Adapter parameters that a deployment would have now, task head apart."""
        return self._adapted.deployed_parameters(self._deployable(None).lane)

    @property
    def ranks(self) -> dict[str, int]:
        """Module → rank at present; modules of rank 0 are left out."""
        return deployed_adapter(self._adapted, self._deployable(None).lane).ranks

    def save(self, to: str | Path, *, prefix: int | None = None) -> Path:
        """Writes the adapter in the PEFT format, with the head, to the folder `to`.

        Args:
            prefix: the smaller model with at most this many components per module.

        Raises:
            BadRequestError: steps are missing, there is no such prefix or no component, or `to` is not empty.
        """
        if self.steps_done < self.steps:
            raise BadRequestError(f"{self.steps_done} of {self.steps} steps are done: finish the training, then save")
        lane = self._deployable(prefix).lane
        adapter = deployed_adapter(self._adapted, lane)
        if not adapter.factors:
            raise BadRequestError("no module has a component: there is no adapter to save")
        to = Path(to)
        require_empty(to)
        about = provenance(adapter, self._adapted, lane, self._backbone) | {
            "point": "final" if prefix is None else f"prefix-{prefix}",
            "method": self._method.name,
            "auto_class": self._auto_class,
            "labels": _class_names(self.config),
        }
        return save_peft(adapter, to, base_model=self._backbone.name, provenance=about)

    def detach(self) -> nn.Module:
        """Gives the model back as it was before `attach`; this object cannot be used any more."""
        self._adapted.detach()
        self._loan.give_back()
        return self.backbone

    def _deployable(self, prefix: int | None) -> Deployable:
        found = {deployable.prefix: deployable for deployable in self._method.deployables()}
        if prefix not in found:
            prefixes = ", ".join(str(name) for name in found if name is not None) or "none"
            raise BadRequestError(f"there is no prefix {prefix}: the prefixes are {prefixes}")
        return found[prefix]

    def _evaluate(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> ModelOutput:
        self._adapted.use(self._deployable(None).lane)
        with_labels = {} if labels is None or self._loss is not None else {"labels": labels}
        with torch.inference_mode():  # in which mixed products are in fp32
            output = self.backbone(**inputs, **with_labels)
        plain = type(output)(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in output.items()})
        if labels is not None and self._loss is not None:
            plain["loss"] = self._loss(plain, labels).mean()
            plain.move_to_end("loss", last=False)  # `Trainer` takes what comes after the loss for the predictions
        return plain


class AttachedOptimizer(torch.optim.Optimizer):
    """The optimizer of an attached method, as loops know optimizers.

    The components, their Adam states and their rates are inside the method's loop; the one parameter group here shows
    the current learning rate.
    """

    def __init__(self, loop: OutsideLoop, device: str) -> None:
        self._loop = loop
        anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        super().__init__([anchor], {"lr": loop.settings.learning_rate})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One optimizer step of every lane.

        Raises:
            DivergedError: a loss, gradient or parameter is not finite; found when its round ends.
            RuntimeError: all steps are done, or no loss has been computed since the last one.
        """
        if closure is not None:
            raise ValueError("closures are not supported: call backward yourself")
        loop = self._loop
        first, steps = loop.method.phase(loop.step)
        rate = loop.optimizer.scale * loop.settings.learning_rate * loop.settings.schedule(loop.step - first, steps)
        loop.take_step()
        self.param_groups[0]["lr"] = rate

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients."""
        self._loop.optimizer.clear_gradients()


class OwnSchedule(torch.optim.lr_scheduler.LRScheduler):
    """A scheduler that leaves the learning rates to the optimizer."""

    def get_lr(self) -> list[float | Tensor]:
        """The rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]


def _with_signature(attached: Attached, model: nn.Module) -> Callable[..., ModelOutput]:
    """`Attached.forward` with the signature of the model: `Trainer` drops columns that the signature does not name."""

    def forward(*args: Any, **inputs: Any) -> ModelOutput:
        return Attached.forward(attached, *args, **inputs)

    forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
    return forward


def _auto_class(model: nn.Module) -> str:
    """The auto class of a model that can be attached to."""
    if isinstance(model, MeanPooledClassifier):
        return SEQUENCES
    kind = type(model).__name__
    for ends in ("SequenceClassification", "TokenClassification", "CausalLM"):
        if kind.endswith(f"For{ends}"):
            return f"AutoModelFor{ends}"
    if kind.endswith("LMHeadModel"):
        return CAUSAL
    raise BadRequestError(
        f"model is a {kind}: attach takes classifiers of sequences or tokens, and causal language models"
    )


def _default_loss(model: nn.Module, auto_class: str) -> Loss | None:
    config: Any = model.config
    if auto_class != SEQUENCES or getattr(config, "problem_type", None) == "multi_label_classification":
        return None
    return squared_error if config.num_labels == 1 else cross_entropy


def _size(inputs: Mapping[str, Tensor]) -> tuple[int, int]:
    """Tokens of a batch without and with padding."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        return int(mask.sum()), mask.numel()
    count = next(iter(inputs.values())).shape[:2].numel()
    return count, count


def _class_names(config: Any) -> list[str]:
    return [config.id2label[index] for index in range(config.num_labels)] if config.num_labels > 1 else []
