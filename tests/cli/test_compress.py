"""`adapad compress`: what it prints and writes, and which requests it rejects."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapad_ray.cli import app
from tests.adapters.peft_adapters import save_adapter


def compress(*arguments: object) -> tuple[int, str]:
    """The exit code and the output of the command."""
    result = CliRunner().invoke(app, ["compress", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_command_prints_a_table_and_writes_adapter_and_report(tmp_path):
    adapter = save_adapter("every linear layer", tmp_path / "peft")
    code, output = compress(adapter.folder, "--to", tmp_path / "out", "--budget", "20 ranks")
    assert code == 0, output
    for words in ("attention.self.query", "intermediate.dense", "energy kept", "of the budget left"):
        assert words in output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    files = {"adapter_config.json", "adapter_model.safetensors", "compression.json", "adapad.json", "README.md"}
    assert names == files
    code, output = compress(adapter.folder, "--to", tmp_path / "out", "--keep-ratio", 1)
    assert code == 2 and "is not an empty folder" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "exactly one of --keep-ratio, --keep-energy and --budget"),
        (["--keep-ratio", 0.5, "--budget", 100], "exactly one of"),
        (["--keep-ratio", 1.5], "keep ratio 1.5 must be above 0 and at most 1"),
        (["--keep-energy", 0], "keep energy 0.0 must be above 0"),
        (["--budget", "many"], "budget 'many' is not understood"),
        (["--budget", "1%"], "a share of a backbone"),
        (["--budget", "31"], "budget 31 is below the smallest component (32)"),
        (["--budget", "127", "--cut", "uniform"], "budget 127 is below one component on each of 4 modules (128)"),
        (["--keep-ratio", 0.5, "--cut", "best"], "cut 'best' is unknown: use global, local, uniform"),
    ],
    ids=str,
)
def test_a_bad_request_is_one_line_and_creates_no_folder(tmp_path, options, message):
    adapter = save_adapter("plain", tmp_path / "peft")
    code, output = compress(adapter.folder, "--to", tmp_path / "out", *options)
    assert code == 2
    assert message in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_is_rejected_with_a_reason_and_creates_no_folder(tmp_path):
    adapter = save_adapter("plain", tmp_path / "peft")
    weights = adapter.folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    stored = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not mapped from the file
    nan = {name: torch.full_like(tensor, torch.nan) for name, tensor in stored.items()}
    half = {name: tensor for name, tensor in stored.items() if "0.attention.self.query.lora_A" not in name}
    for damage, words in (
        (lambda: weights.write_bytes(whole[:-100]), "is damaged or not a safetensors file"),
        (lambda: save_file(nan, weights), "not finite"),
        (lambda: save_file(half, weights), "has lora_B but no lora_A"),
        (lambda: weights.rename(weights.with_name("adapter_model.bin")), "pickled weights"),
        (lambda: (adapter.folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ):
        damage()
        code, output = compress(adapter.folder, "--to", tmp_path / "out", "--keep-ratio", 0.5)
        assert (code, output.count("\n")) == (2, 1), (words, output)
        assert words in output
        assert not (tmp_path / "out").exists()
