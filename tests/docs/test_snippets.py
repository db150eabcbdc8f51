"""All code of the documentation runs: blocks of Python, YAML and TOML, and the commands.

Commands that need a cluster, a GPU or a server pass the real parser and the loader of sweep files instead. A block is
left out where `<!-- not run: why -->` stands above it. Sweeps train in this process, with a tiny model and few steps.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import typer
from in_process import in_process
from small_tasks import compute, spec_of, write_models, write_questions
from typer.testing import CliRunner, Result

from adapad_ray.cli import app
from adapad_ray.safe_yaml import read_yaml
from adapad_ray.sweep import run
from adapad_ray.sweep.export import AdapterChoice, export_adapter
from adapad_ray.sweep.spec_file import load_spec, parse_spec
from tests.docs.reader import Reader, loop_of
from tests.docs.snippets import REPOSITORY, Command, blocks, commands

NOT_RUN = 0
"""Blocks that are left out."""
OPTIONAL = {"trl"}
"""Packages that a block may need and a test environment may lack."""
COMMANDS = commands()
RUN = ("init", "plan", "sweep", "report", "export", "predict", "evaluate", "compress", "list")
"""Subcommands that need no cluster, and delete nothing outside of their folder."""
ELSEWHERE = re.compile(r"resources|://|/srv/|/mnt/")
"""In commands that need a GPU, a cluster or a server."""
PLACEHOLDER = re.compile(r"…|\||^\[|^[A-Z]+\]?$")
"""Words that stand for others, in commands that are only mentioned: `SPEC`, `[--yes]`, `methods|tasks`."""
PARSER = typer.main.get_command(app)


def runs(command: Command) -> bool:
    """Whether the command is run: it is whole, and nothing keeps it from running on any machine."""
    here = command.page == "README.md" or command.words[0] == "list"
    typed = command.whole or (len(command.words) > 1 and not any(map(PLACEHOLDER.search, command.words)))
    return here and typed and command.words[0] in RUN and not ELSEWHERE.search(command.text)


class Place(NamedTuple):
    """Where the README's commands run."""

    folder: Path
    """With the README's files and a finished quickstart."""
    small: list[str]
    """Overrides that make a sweep small."""
    table: pd.DataFrame
    """120 reviews of two classes, with the columns `review` and `stars`."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, reviews) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("readme")
    for name in ("sweeps", "benchmarks"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("*.py", "*.md"))
    table = pd.read_csv(reviews)
    table = table[table["stars"] != "so-so"][:120]
    table.to_csv(folder / "reviews.csv", index=False)
    packaged = table.rename(columns={"review": "text", "stars": "label"})
    packaged.to_csv(folder / "packaged.csv", index=False)
    packaged[["text"]].to_csv(folder / "texts.csv", index=False)
    for block in blocks("yaml"):
        content = read_yaml(block.text, str(block))
        if {"model", "task"} <= content.keys():  # a whole file, which commands name
            (folder / f"{content.get('name', 'mine')}.yaml").write_text(block.text)
    small = [f"model={tiny_model}", "pooling=mean", "budgets=[896, 1792]", "seeds=[0]", "tune.trials=1"]
    small += ["tune.budget=1792", "training={epochs: 1, max_length: 32, max_train_examples: 64}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run, "ray_executor", in_process)
        patch.setattr("adapad_ray.cost.throughput.LARGEST_MEASURED", 0)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        quickstart = ["task={train: packaged.csv}", "reference=false"]
        done = CliRunner().invoke(app, ["sweep", "sweeps/quickstart.yaml", *small, *quickstart])
        assert done.exit_code == 0, done.output
        yield Place(folder, small, table)


@pytest.fixture(scope="module")
def results(place) -> dict[Command, Result]:
    """What the commands that run print, in the order of the pages."""
    found = {}
    for command in filter(runs, COMMANDS):
        more = place.small if command.words[0] == "sweep" else []
        found[command] = CliRunner().invoke(app, [*command.words, *more], catch_exceptions=False)
    return found


@pytest.fixture(scope="module")
def readers(place, tmp_path_factory, tiny_model) -> Iterator[dict[str, Reader]]:
    """By page."""
    models = write_models(tmp_path_factory.mktemp("models"))
    changes = {"distilbert/distilbert-base-uncased": str(tiny_model), "minilm-l6": str(tiny_model)}
    changes["HuggingFaceTB/SmolLM2-135M"] = models["decoder"]
    with pytest.MonkeyPatch.context() as patch:
        found = {"README.md": Reader("README.md", place.folder, patch, {}, {})}
        for page in {block.page for block in blocks("python")} - found.keys():
            folder = tmp_path_factory.mktemp("page")
            shutil.copy(place.folder / "mlflow.db", folder)  # creating one takes seconds
            place.table.to_csv(folder / "reviews.csv", index=False)
            given = loop_of(tiny_model, place.table) if page == "docs/python.md" else {}
            found[page] = Reader(page, folder, patch, changes, given)
            if page == "docs/chat.md":
                export_chat(models, folder)
        yield found


def export_chat(models: dict[str, str], folder: Path) -> None:
    """Trains a small chat adapter and exports it to `my-adapter`, as the commands of its page do."""
    training = {"epochs": 0.1, "max_length": 48}
    spec = spec_of("chat", models, write_questions(folder), methods={"lora": {}}, training=training, reference=False)
    budget = compute(spec, folder / "sweep")["lora"].identity.budget
    export_adapter(folder / "sweep", folder / "my-adapter", AdapterChoice("lora", str(budget)))


@pytest.mark.parametrize("command", [command for command in COMMANDS if runs(command)], ids=str)
def test_a_command_runs(results, command):
    assert results[command].exit_code == 0, results[command].output


@pytest.mark.parametrize("command", [command for command in COMMANDS if not runs(command)], ids=str)
def test_a_command_that_is_not_run_has_a_subcommand_options_and_fields_that_exist(place, command):
    name, *words = command.words
    if name == "--help":
        return
    if not command.whole:
        given = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
        assert given <= options(name)
    elif "…" not in words:
        parsed = PARSER.commands[name].make_context(name, list(words)).params
        if "path" in parsed:
            load_spec(parsed["path"], parsed["overrides"] or [])


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.reason is None], ids=str)
def test_a_block_of_python_runs(readers, results, block):
    """Those of the README need what its commands have exported."""
    try:
        readers[block.page].type_until(block)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if block.reason is None], ids=str)
def test_a_block_of_yaml_is_a_sweep_or_a_part_of_one(block):
    whole = {"name": "x", "model": "minilm-l6", "task": "rotten-tomatoes", "methods": {"adapad": {}}}
    content = whole | {"budgets": [41472]} | read_yaml(block.text, str(block))
    assert content.keys() - parse_spec(content).model_fields_set == set()


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_block_of_toml_is_read(block):
    assert tomllib.loads(block.text)


def test_every_language_is_tested_and_blocks_that_are_left_out_are_counted():
    assert {block.language for block in blocks()} <= {"", "python", "yaml", "toml", "sh"}
    left_out = [f"{block}: {block.reason}" for block in blocks() if block.reason is not None]
    assert len(left_out) == NOT_RUN, left_out


def test_the_table_of_commands_has_every_command_and_only_options_that_exist():
    text = (REPOSITORY / "README.md").read_text()
    rows = re.findall(r"^\| `adapad (\w+)(.*)$", text, re.M)
    assert sorted(name for name, _ in rows) == sorted(PARSER.commands)
    for name, row in rows:
        assert set(re.findall(r"--[a-z-]+", row)) <= options(name), name


def test_targets_of_make_and_files_of_the_repository_exist():
    text = "".join(block.text for block in blocks("sh"))
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert set(re.findall(r"^make (\w+)", text, re.M)) <= set(targets)
    named = set(re.findall(r"(?<![\w/.-])(?:sweeps|cluster|dashboards|tests|benchmarks)/[\w./-]+\w", text))
    assert [name for name in sorted(named) if not list(REPOSITORY.glob(f"{name}*"))] == []


def test_the_command_of_the_kubernetes_job_is_one():
    text = (REPOSITORY / "cluster" / "rayjob.yaml").read_text()
    (entrypoint,) = re.findall(r"entrypoint: >-\n((?:    .*\n)+?)  \w", text)
    name, path, *overrides = entrypoint.split()[1:]
    assert (name, path) == ("sweep", "/mnt/adapad/sweep.yaml")
    load_spec(REPOSITORY / "sweeps" / "quickstart.yaml", overrides)


def test_a_command_with_an_unknown_option_would_be_found():
    with pytest.raises(Exception, match="No such option: --recomended"):
        PARSER.commands["export"].make_context("export", ["runs/quickstart", "--recomended", "--to", "out"])


def options(subcommand: str) -> set[str]:
    return {option for parameter in PARSER.commands[subcommand].params for option in parameter.opts}
