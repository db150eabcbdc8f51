"""`attach` inside TRL's `SFTTrainer`: the adapter of a plain loop over the same batches."""

from __future__ import annotations

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file
from small_tasks import questions, write_models

import adapad_ray as ar
from adapad_ray.api import token_outputs
from adapad_ray.errors import BadRequestError

STEPS = 6


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))["decoder"]


def attached_to(decoder, method):
    model = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    return ar.attach(model, method, "28 ranks", steps=STEPS, learning_rate=1e-2)


def sft_trainer(attached, decoder, folder, **changes):
    trl = pytest.importorskip("trl")
    rows = questions(48, 0)
    rows = [
        {"prompt": f"{row['context']} {row['question']}", "completion": f" {row['answers']['text'][0]}"} for row in rows
    ]
    options = {"max_steps": STEPS, "per_device_train_batch_size": 8, "train_sampling_strategy": "sequential"}
    options |= {"max_grad_norm": 0, "save_strategy": "no", "bf16": False, "activation_checkpointing": False}
    options |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "max_length": 32, "logging_steps": 1}
    return trl.SFTTrainer(
        attached,
        trl.SFTConfig(str(folder / "trl"), **options | changes),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:8]),
        processing_class=transformers.AutoTokenizer.from_pretrained(decoder),
        optimizers=attached.optimizers,
        callbacks=[attached.callback],
    )


@pytest.mark.parametrize("method", ["adapad", "lora"])
def test_sft_trainer_gives_the_adapter_of_a_plain_loop(decoder, tmp_path, method):
    theirs = attached_to(decoder, method)
    trainer = sft_trainer(theirs, decoder, tmp_path)
    batches = list(trainer.get_train_dataloader())
    trainer.train()
    ours = attached_to(decoder, method)
    ours.train()
    for batch in batches:
        ours(**batch).loss.backward()
        ours.optimizer.step()
        ours.optimizer.zero_grad()
    assert theirs.losses == pytest.approx(ours.losses, abs=1e-5)
    found, expected = (
        load_file(attached.save(tmp_path / name) / "adapter_model.safetensors")
        for name, attached in (("theirs", theirs), ("ours", ours))
    )
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) <= 1e-5
    evaluated = trainer.evaluate()
    assert evaluated["eval_loss"] == pytest.approx(_loss(ours, trainer), abs=1e-5)
    assert 0 <= evaluated["eval_mean_token_accuracy"] <= 1 and evaluated["eval_entropy"] > 0


def _loss(attached, trainer):
    (batch,) = trainer.get_eval_dataloader()
    return float(attached.eval()(**batch).loss)


def test_arguments_that_are_on_by_default_in_trl_are_rejected_in_one_sentence(decoder, tmp_path):
    for changes, word in (({"activation_checkpointing": True}, "gradient_checkpointing"), ({"bf16": True}, "bf16")):
        trainer = sft_trainer(attached_to(decoder, "lora"), decoder, tmp_path, **changes)
        with pytest.raises(BadRequestError, match=f"{word}.* set it to False"):
            trainer.train()


def test_values_per_token_give_the_loss_of_the_logits():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[0, :3] = token_outputs.IGNORED
    output = token_outputs.of_logits(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert output.label_mask.sum() == 6 and output.log_probs[0, :2].abs().sum() == 0
    again = token_outputs.of_training(expected, labels)
    torch.testing.assert_close(-again.log_probs.sum() / again.label_mask.sum(), expected)
