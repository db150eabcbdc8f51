"""TensorBoard and Weights & Biases get the losses and validations of cells while they train, and no step twice."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tracking import writers
from adapad_ray.tracking.writers import check_writers, open_writers
from adapad_ray.training.cell.validation import Validation
from tests.tracking.helpers import folder_of
from tests.tracking.wandb_files import history

FIELDS = {"tensorboard": {"tensorboard": True, "wandb": None}, "wandb": {"tensorboard": False, "wandb": "mine"}}
NEEDS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def event_files(folder):
    """Name of a run's folder → metric → (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for place in (folder / "tensorboard").iterdir():
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        names = events.Tags()["scalars"]
        found[place.name] = {name: [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] for name in names}
    return found


class Package:
    """One of the two, and how to read what it has stored."""

    def __init__(self, name, folder):
        self.name, self.folder, self._read = name, folder, {"tensorboard": event_files, "wandb": history}[name]

    def open(self):
        (writer,) = open_writers(self.folder, "demo", **FIELDS[self.name])
        return writer

    @property
    def only_run(self):
        (run,) = self._read(self.folder).values()
        return run


@pytest.fixture(params=FIELDS)
def package(request, factory, monkeypatch):
    pytest.importorskip(NEEDS[request.param], exc_type=ImportError)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Package(request.param, factory.folder)


def progress(writer, result, step):
    """As a worker reports it, with two validations."""
    validations = [Validation(at, {"accuracy": at / 100, "loss": 1.0}) for at in (5, 10) if at <= step]
    data = {"step": step, "steps": 100, "loss": result.train_loss[step - 1] if step else None}
    writer.progress(result.id, result.identity, {**data, "validations": validations})


def test_loss_and_validations_are_there_while_the_cell_trains(package, factory):
    result, writer = factory.cell("lora/qv", 41_472, 0, 0.8), package.open()
    for step in (0, 6, 10):
        progress(writer, result, step)
    if package.name == "tensorboard":
        assert package.only_run["train_loss"] == [(5, result.train_loss[5]), (9, result.train_loss[9])]
    writer.close()
    assert package.only_run == {
        "train_loss": [(5, result.train_loss[5]), (9, result.train_loss[9])],
        "validation/accuracy": [(5, 0.05), (10, 0.1)],
        "validation/loss": [(5, 1.0), (10, 1.0)],
    }


def test_a_cell_that_the_next_launch_continues_has_no_step_twice_and_ends_with_its_scores(package, factory):
    result, first = factory.cell("lora/qv", 41_472, 0, 0.8), package.open()
    progress(first, result, 10)
    first.close()
    for _ in range(2):  # the second launch finds the cell finished
        again = package.open()
        progress(again, result, 6)
        progress(again, result, 12)
        again.finish(result, folder_of(factory, result))
        again.close()
    run = package.only_run
    assert [step for step, _ in run["train_loss"]] == [9, 11, *range(12, 100)]
    assert run["validation/accuracy"] == [(5, 0.05), (10, 0.1), (100, result.final.validation["accuracy"])]
    assert run["test/accuracy"] == [(100, result.final.test["accuracy"])]


def test_a_finished_cell_of_an_earlier_launch_is_sent_whole(package, factory):
    result, writer = factory.cell("head_only", None, 1, 0.7), package.open()
    writer.finish(result, folder_of(factory, result))
    writer.close()
    assert package.only_run["train_loss"] == list(enumerate(result.train_loss))
    assert package.name in "".join(package.open().how_to_look.values())


@pytest.mark.parametrize("name", FIELDS)
def test_a_package_that_is_missing_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr(writers, "find_spec", lambda package: None)
    with pytest.raises(BadRequestError, match=f"needs the package {name}, which is not installed"):
        check_writers(**FIELDS[name])


def test_nobody_logged_in_to_wandb_is_one_sentence(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()
    with pytest.raises(BadRequestError, match="nobody is logged in to Weights & Biases"):
        check_writers(**FIELDS["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    check_writers(**FIELDS["wandb"])
