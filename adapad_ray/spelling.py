"""What a misspelt or borrowed name probably means, for the hints in error messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SYNONYMS: Mapping[str, Sequence[str]] = {
    # transformers' TrainingArguments and its users
    "lr": ["learning_rate"],
    "num_train_epochs": ["epochs"],
    "per_device_train_batch_size": ["batch_size"],
    "train_batch_size": ["batch_size"],
    "bs": ["batch_size"],
    "per_device_eval_batch_size": ["evaluation_batch_size"],
    "eval_batch_size": ["evaluation_batch_size"],
    "max_seq_length": ["max_length"],
    "max_seq_len": ["max_length"],
    "model_max_length": ["max_length"],
    "block_size": ["max_length"],
    "sequence_length": ["max_length"],
    "cutoff_len": ["max_length"],
    "warmup_ratio": ["warmup_fraction"],
    "warmup": ["warmup_fraction"],
    "max_train_samples": ["max_train_examples"],
    "max_eval_samples": ["max_validation_examples"],
    "max_predict_samples": ["max_test_examples"],
    "clip": ["max_grad_norm"],
    "gradient_clipping": ["max_grad_norm"],
    "optim": ["optimizer"],
    "scheduler": ["lr_scheduler_type"],
    "lr_scheduler": ["lr_scheduler_type"],
    "wd": ["weight_decay"],
    "model_name_or_path": ["model"],
    "model_name": ["model"],
    "base_model": ["model"],
    "base_model_name_or_path": ["model"],
    "torch_dtype": ["dtype"],
    "dataset_name": ["dataset"],
    "dataset_config_name": ["subset"],
    "train_file": ["train"],
    "validation_file": ["validation"],
    "test_file": ["test"],
    "eval": ["validation"],
    "dev": ["validation"],
    "sentence1": ["text"],
    "sentence2": ["text_pair"],
    "target": ["label"],
    "class": ["label"],
    "output_dir": ["storage"],
    "report_to": ["tracking"],
    "mlflow": ["tracking"],
    "mlflow_tracking_uri": ["tracking"],
    "tracking_uri": ["tracking"],
    "run_name": ["name"],
    "experiment": ["name"],
    "seed": ["seeds"],
    "random_seed": ["seeds", "seed"],
    "budget": ["budgets"],
    "method": ["methods"],
    "num_gpus": ["gpus_per_worker"],
    "gpus": ["gpus_per_worker"],
    "num_cpus": ["cpus_per_worker"],
    "cpus": ["cpus_per_worker"],
    "num_workers": ["workers"],
    # PEFT's LoraConfig
    "r": ["rank"],
    "lora_r": ["rank"],
    "lora_rank": ["rank"],
    "alpha": ["lora_alpha"],
    "lora_dropout": ["dropout"],
    "use_rslora": ["rslora"],
    "modules": ["target_modules"],
    "init_r": ["initial_rank"],
    "target_r": ["rank"],
    "max_rank": ["r_max"],
    # ranges of other search libraries
    "n_trials": ["trials"],
    "num_samples": ["trials"],
    "search_space": ["space"],
    "loguniform": ["log"],
    "log_uniform": ["log"],
    "float": ["uniform", "float32"],
    "randint": ["int"],
    "integer": ["int"],
    "categorical": ["choice"],
    "values": ["choice"],
    "grid": ["choice"],
    # values
    "bf16": ["bfloat16", "precision"],
    "fp16": ["float16", "precision"],
    "half": ["float16"],
    "fp32": ["float32"],
    "double": ["float64"],
    "fp64": ["float64"],
    "fft": ["full"],
    "full_finetuning": ["full"],
    "linear_probe": ["head_only"],
}
"""What users of other libraries write → the names here; the first that is known where it was written counts."""


def meant(name: Any, known: Iterable[Any]) -> str | None:
    """Return the known name that `name` certainly means: itself in another notation, or a synonym; None if none."""
    written = _plain(name)
    by_plain = {_plain(k): str(k) for k in known}
    candidates = [written, *SYNONYMS.get(written, ())]
    return next((by_plain[c] for c in map(_plain, candidates) if c in by_plain), None)


def closest(name: Any, known: Iterable[Any]) -> str | None:
    """Return the name among `known` that `name` means or is most like, or None if none is similar."""
    names = [str(k) for k in known]
    certain = meant(name, names)
    if certain is not None:
        return certain
    by_plain = {_plain(k): k for k in names}
    words = {k: set(k.split("_")) for k in [_plain(name), *by_plain]}
    written = words[_plain(name)]
    partly = [k for k in by_plain if words[k] <= written or written <= words[k]]
    partly.sort(key=lambda k: len(words[k] ^ written))
    similar = difflib.get_close_matches(_plain(name), list(by_plain), n=3, cutoff=0.6)
    alike = difflib.get_close_matches(_plain(name), list(by_plain), n=3, cutoff=0.85)
    transposed = [k for k in similar if sorted(k) == sorted(_plain(name))]
    # As in `modle` for model, `epoch` for epochs, `text_column` for text, `knid` for kind.
    found = [*transposed, *alike, *partly, *similar]
    return by_plain[found[0]] if found else None


def nearest(name: Any, known: Iterable[Any], elsewhere: Mapping[str, str] | None = None) -> str:
    """Return the end of a message about an unknown name: `did you mean lora?`, or the list of known names.

    Args:
        name: what was written.
        known: the names that are valid in its place.
        elsewhere: names that are valid in other places → their full keys, such as `epochs` → `training.epochs`.
    """
    names = [str(k) for k in known]
    near = meant(name, names)
    if near is None and elsewhere and (place := meant(name, elsewhere)) is not None:
        near = elsewhere[place]
    near = near or closest(name, names)
    if near is None and elsewhere and (place := closest(name, elsewhere)) is not None:
        near = elsewhere[place]
    return f"did you mean {near}?" if near else f"known are {', '.join(sorted(names))}"


def _plain(name: Any) -> str:
    """`learningRate`, `learning-rate` and `Learning_Rate` as `learning_rate`."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", str(name)[:100])
    return re.sub(r"[\s-]+", "_", snake).lower()
