"""A callback for transformers' `Trainer` with an attached model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapad_ray.errors import BadRequestError

if TYPE_CHECKING:
    from adapad_ray.api.attach import Attached


class AttachedCallback(TrainerCallback):  # type: ignore[misc]
    """Rejects arguments under which `Trainer` would train something else, and logs the adapter's size."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks arguments, optimizer and number of steps.

        Raises:
            BadRequestError: the first that does not fit.
        """
        attached = self._attached
        if getattr(kwargs.get("optimizer"), "optimizer", kwargs.get("optimizer")) is not attached.optimizer:
            raise BadRequestError("Trainer has an optimizer of its own: pass optimizers=attached.optimizers")
        if state.max_steps != attached.steps:
            raise BadRequestError(
                f"Trainer will take {state.max_steps:,} steps, but the adapter was attached for {attached.steps:,}: "
                f"pass steps={state.max_steps} to attach, or max_steps={attached.steps} to TrainingArguments"
            )
        if attached.steps_done:
            raise BadRequestError(f"the adapter has been trained for {attached.steps_done:,} steps: attach a new one")
        wrong = {
            "max_grad_norm": args.max_grad_norm and "0: lanes are clipped one by one; pass max_grad_norm to attach",
            "fp16": args.fp16 and "False: pass precision to attach",
            "bf16": args.bf16 and "False: pass precision to attach",
            "save_strategy": args.save_strategy != "no"
            and "'no': Trainer's checkpoints lack the lanes and their state",
            "label_smoothing_factor": args.label_smoothing_factor and "0: pass a loss to attach",
        }
        for name, remedy in wrong.items():
            if remedy:
                raise BadRequestError(f"TrainingArguments.{name} is {getattr(args, name)!r}: set it to {remedy}")
        device = next(attached.backbone.parameters()).device
        if str(device) != attached.device:
            raise BadRequestError(
                f"the model was attached on {attached.device}, but Trainer has moved it to {device}: move the model "
                "there before attach, or keep Trainer on the CPU with use_cpu=True"
            )
        if args.world_size > 1 or args.n_gpu > 1:
            raise BadRequestError("Trainer runs on several devices, but an attached method trains on one")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the number of adapter parameters, which `Trainer` has recorded without it."""
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry["adapter_parameters"] = self._attached.parameters_deployed
