"""`attach`: a method inside transformers' `Trainer`, and inside a plain loop."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
import transformers
from api_models import bert
from datasets import Dataset
from safetensors.torch import load_file

import adapad_ray as ar
from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.losses import squared_error
from adapad_ray.training.batches import Batches
from adapad_ray.training.settings import TrainingSettings

RANK_1 = 896
BUDGET = 2 * RANK_1
BATCH, STEPS = 16, 12


def train(model, tokenizer, frame, method, settings):
    """By `train`: 3 epochs of 64 examples, four batches each."""
    return ar.train(
        *(model, tokenizer, frame, method, BUDGET),
        settings=settings,
        epochs=3,
        batch_size=BATCH,
        max_train_examples=64,
        max_length=32,
        learning_rate=1e-2,
        threads=torch.get_num_threads(),  # as the loops that it is compared with
    )


def same_examples(trained) -> Dataset:
    """The examples that `train` has read, in its order."""
    split, settings = trained.data.splits["train"], TrainingSettings(**trained.result.identity.training)
    batches = Batches(split, settings, seed=trained.result.identity.seed, pad_token_id=0)
    rows = [row for step in range(STEPS) for row in batches.rows(step)]
    examples = [split.batch(np.array([row]), pad_token_id=0) for row in rows]
    return Dataset.from_list([{name: tensor[0].tolist() for name, tensor in example.items()} for example in examples])


def arguments(folder, **changes):
    """`Trainer` takes the examples in their order and leaves clipping to the optimizer."""
    settings = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 4,
    }
    return transformers.TrainingArguments(str(folder / "trainer"), **settings | changes)


def trainer(attached, args, tokenizer, examples, **options):
    collate = transformers.DataCollatorWithPadding(tokenizer)
    return transformers.Trainer(
        attached,
        args,
        train_dataset=examples,
        data_collator=collate,
        optimizers=attached.optimizers,
        callbacks=[attached.callback],
        **options,
    )


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("adapad", {}),
        ("adapad", {"initial_rank": 0, "growth_score": "reserve", "local_steps": 2, "dropout": 0.1}),
        ("adapad", {"joint_fraction": 0.3, "staleness": 1}),
        ("cp", {}),
        ("ard", {}),
        ("lora", {}),
    ],
)
def test_trainer_gives_the_adapter_of_train(method, settings, model, tokenizer, frame, tmp_path):
    """Also if it evaluates in between."""
    ours = train(model, tokenizer, frame, method, settings)
    attached = ar.attach(model, method, BUDGET, steps=STEPS, settings=settings, learning_rate=1e-2)
    examples, args = same_examples(ours), arguments(tmp_path, eval_strategy="steps", eval_steps=4)
    trainer(attached, args, tokenizer, examples, eval_dataset=examples.select(range(8))).train()
    theirs = load_file(attached.save(tmp_path / "adapter") / "adapter_model.safetensors")
    expected = load_file(ours.adapter / "adapter_model.safetensors")
    assert theirs.keys() == expected.keys() and attached.ranks == ours.ranks
    assert max(float((theirs[name] - expected[name]).abs().max()) for name in expected) <= 1e-5
    assert attached.losses == pytest.approx(ours.result.train_loss, abs=1e-5)


@pytest.mark.parametrize("method", ["increlora", "adalora", "dylora", "dora", "fim", "gora", "melora", "sequential"])
def test_a_plain_loop_gives_the_adapter_of_train(method, model, tokenizer, frame, tmp_path):
    ours = train(model, tokenizer, frame, method, {})
    attached = ar.attach(model, method, BUDGET, steps=STEPS, learning_rate=1e-2)
    loop(attached, tokenizer, same_examples(ours))
    theirs = load_file(attached.save(tmp_path / "adapter") / "adapter_model.safetensors")
    expected = load_file(ours.adapter / "adapter_model.safetensors")
    assert theirs.keys() == expected.keys() and all(theirs[name].equal(expected[name]) for name in theirs)


def loop(attached, tokenizer, examples, parts=1):
    """Trains as PyTorch's tutorials do; a batch may come in several equal parts whose gradients are added."""
    collate = transformers.DataCollatorWithPadding(tokenizer)
    attached.train()
    for start in range(0, BATCH * STEPS, BATCH):
        for part in range(parts):
            rows = range(start + part * BATCH // parts, start + (part + 1) * BATCH // parts)
            loss = attached(**collate([examples[row] for row in rows])).loss / parts
            loss.backward()
        attached.optimizer.step()
        attached.optimizer.zero_grad()


def test_gradients_of_several_batches_add_up(model, tokenizer, frame, tmp_path):
    """Sums in another order differ by rounding, which Adam's first steps enlarge."""
    ours = train(model, tokenizer, frame, "adapad", {})
    attached = ar.attach(model, "adapad", BUDGET, steps=STEPS, learning_rate=1e-2, precision="full")
    loop(attached, tokenizer, same_examples(ours), parts=2)
    once = attached.losses
    attached.detach()
    attached = ar.attach(model, "adapad", BUDGET, steps=STEPS, learning_rate=1e-2, precision="full")
    loop(attached, tokenizer, same_examples(ours))
    assert once == pytest.approx(attached.losses, abs=1e-3)


def test_evaluation_is_of_the_adapter_as_it_is_saved(model, tokenizer, frame, tmp_path):
    ours = train(model, tokenizer, frame, "adapad", {})
    attached = ar.attach(model, "adapad", BUDGET, steps=STEPS, learning_rate=1e-2)
    examples = same_examples(ours)
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=4)
    run = trainer(
        *(attached, args, tokenizer, examples),
        eval_dataset=examples.select(range(20)),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    run.train()
    logged = [entry for entry in run.state.log_history if "eval_accuracy" in entry]
    assert len(logged) == 3 and all(0 < entry["adapter_parameters"] <= BUDGET for entry in logged)
    batch = transformers.DataCollatorWithPadding(tokenizer)([examples[row] for row in range(5)])
    inside = attached.eval()(**batch).logits
    folder = attached.save(tmp_path / "adapter")
    bare = attached.detach()
    assert bare is model
    with torch.no_grad():
        outside = peft.PeftModel.from_pretrained(bare.eval(), folder)(**batch).logits
    assert inside == pytest.approx(outside.numpy(), abs=1e-5)


def test_detach_gives_the_model_back_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = ar.attach(model, "adapad", BUDGET, steps=4)
    assert any("copies" in name for name in model.state_dict())
    after = attached.detach().state_dict()
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_language_model_trains_on_its_own_loss(tmp_path):
    config = transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    attached = ar.attach(model, "adapad", "12 ranks", steps=30, learning_rate=5e-2)
    tokens = torch.arange(2, 14).repeat(4, 1)
    before = attached.eval()(input_ids=tokens, labels=tokens).loss
    attached.train()
    for _ in range(30):
        attached(input_ids=tokens, labels=tokens).loss.backward()
        attached.optimizer.step()
        attached.optimizer.zero_grad()
    folder = attached.save(tmp_path / "adapter")
    inside = attached.eval()(input_ids=tokens, labels=tokens)
    assert inside.loss < before - 0.3
    with torch.no_grad():
        outside = peft.PeftModel.from_pretrained(attached.detach(), folder)(input_ids=tokens).logits
    assert inside.logits == pytest.approx(outside.numpy(), abs=1e-4)


def test_a_head_with_one_output_trains_on_the_squared_error():
    attached = ar.attach(bert(1), "lora", RANK_1, steps=1, precision="full")
    tokens, labels = torch.arange(4, 10).repeat(3, 1), torch.tensor([0.0, 1.0, 2.0])
    loss = attached(input_ids=tokens, labels=labels).loss
    output = attached.eval()(input_ids=tokens)
    assert float(loss.detach()) == pytest.approx(float(squared_error(output, labels).mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 5}, "Trainer will take 5 steps, but the adapter was attached for 12: pass steps=5 to attach"),
        ({"max_grad_norm": 1.0}, "TrainingArguments.max_grad_norm is 1.0: set it to 0: lanes are clipped one by one"),
        ({"bf16": True}, "TrainingArguments.bf16 is True: set it to False: pass precision to attach"),
        ({"save_strategy": "epoch"}, "set it to 'no': Trainer's checkpoints lack the lanes"),
        ({"label_smoothing_factor": 0.1}, "TrainingArguments.label_smoothing_factor is 0.1: set it to 0"),
        ({"optimizers": (None, None)}, "Trainer has an optimizer of its own: pass optimizers=attached.optimizers"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_would_train_something_else_are_rejected(changes, message, model, tokenizer, frame, tmp_path):
    examples = Dataset.from_list([{"input_ids": [2, 4, 5, 3], "labels": 0}] * (BATCH * STEPS))
    attached = ar.attach(model, "lora", RANK_1, steps=STEPS)
    own = {name: changes.pop(name) for name in ("optimizers",) if name in changes}
    run = transformers.Trainer(
        attached,
        arguments(tmp_path, **changes),
        train_dataset=examples,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[attached.callback],
        **{"optimizers": attached.optimizers, **own},
    )
    with pytest.raises(BadRequestError) as error:
        run.train()
    assert message in str(error.value)
    assert attached.steps_done == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "para"}, "method para trains no adapter of its own"),
        ({"method": "head_only", "budget": None}, "method head_only trains no adapter of its own"),
        ({"batch_size": 8}, "training.batch_size is decided by your loop: leave it out"),
        ({"steps": 0}, "steps is 0: input should be greater than or equal to 1"),
        ({"budget": 10}, "budget 10 is below"),
        ({"settings": {"dropout": 0.1}, "gradient_checkpointing": True}, "set one of them to its default"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_request_leaves_the_model_alone(changes, message, model):
    names = list(model.state_dict())
    with pytest.raises(BadRequestError, match=message):
        ar.attach(model, **{"method": "lora", "budget": RANK_1, "steps": 4} | changes)
    assert list(model.state_dict()) == names and all(p.requires_grad for p in model.parameters())


def test_a_model_of_another_kind_is_rejected_by_its_name():
    with pytest.raises(BadRequestError, match="model is a BertForQuestionAnswering: attach takes classifiers of seq"):
        ar.attach(bert(2, "BertForQuestionAnswering"), "lora", RANK_1, steps=4)


def test_an_unfinished_training_is_not_saved_and_too_many_steps_are_an_error(model, tmp_path):
    attached = ar.attach(model, "lora", RANK_1, steps=1)
    with pytest.raises(BadRequestError, match="0 of 1 steps are done"):
        attached.save(tmp_path / "adapter")
    with pytest.raises(RuntimeError, match="there is no loss to step on"):
        attached.optimizer.step()
    batch = {"input_ids": torch.arange(4, 10).repeat(2, 1), "labels": torch.tensor([0, 1])}
    with pytest.raises(BadRequestError, match="the batch has no labels"):
        attached(input_ids=batch["input_ids"])
    attached(**batch).loss.backward()
    attached.optimizer.step()
    with pytest.raises(RuntimeError, match="attached for 1 steps, and all are done"):
        attached.optimizer.step()


def test_the_adapter_of_a_model_without_a_name_predicts_on_the_object(model, tokenizer, frame, tmp_path):
    attached = ar.attach(model, "lora", BUDGET, steps=1)
    texts = frame["review"][:4].tolist()
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    attached(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    attached.optimizer.step()
    expected = attached.eval()(**batch).logits.argmax(dim=1)
    folder = attached.save(tmp_path / "mine")
    with pytest.raises(BadRequestError, match="pass the folder that its save"):
        ar.predict(attached, texts)
    with pytest.raises(
        BadRequestError, match="name 'BertForSequenceClassification': pass the object as model= and its"
    ):
        ar.predict(folder, texts)
    names = attached.detach().config.id2label
    assert ar.predict(folder, texts, model=model, tokenizer=tokenizer) == [names[i] for i in expected.tolist()]
