"""Units with ranks of their own: gates in the forward pass, a ramp in the backward pass, heads side by side as LoRA."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adapad_ray.adapters.export import deployed_adapter, save_peft
from adapad_ray.adapters.gated import Gated
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import ModuleShape

QUERY = ModuleShape("query", in_features=6, out_features=8, heads=4)
OUTPUT = ModuleShape("output", in_features=8, out_features=6, heads=4, heads_read=True)
MLP = ModuleShape("mlp", in_features=6, out_features=5)


def family(**changes):
    return Gated(**{"per_head": True, "initial_rank": 2, "alpha_max": 2.0, "rate": 5.0, "ramp": 2.0, **changes})


def filled(shape, gated=None):
    """A block in fp64 in which every component has learnt something, all at the initial rank."""
    gated = gated or family()
    generator = torch.Generator().manual_seed(0)
    layout = gated.layout(shape)
    block = gated.block(shape, layout.units * layout.most, generator).double()
    nn.init.normal_(block.b, generator=generator)
    block.set_ranks([gated.initial_rank] * layout.units, 0.0)
    return block


def test_a_component_of_a_head_costs_one_side_and_a_slice():
    """768 × 768 with 12 heads: one component on each head costs 6.5 times a LoRA rank."""
    query = ModuleShape("query", 768, 768, heads=12)
    output = ModuleShape("output", 768, 768, heads=12, heads_read=True)
    for shape in (query, output):
        assert family().cost(shape) * 12 == 768 + 12 * 768 == 6.5 * shape.component_cost
        assert family(per_head=False).cost(shape) == shape.component_cost
    assert family().cost(MLP) == MLP.component_cost


@pytest.mark.parametrize(("shape", "side"), [(QUERY, "out"), (OUTPUT, "in")], ids=["query", "output"])
def test_a_component_reaches_the_slice_of_its_head_only(shape, side):
    block = filled(shape)
    block.set_ranks([1, 0, 2, 1], 0.0)
    a, b = block.vectors()
    update = (b.T @ a).detach()  # [d_out, d_in]
    slices = update.split(2, dim=0 if side == "out" else 1)
    assert [int(torch.linalg.matrix_rank(s)) for s in slices] == [1, 0, 2, 1]
    assert block.rank == 4


def test_gates_are_exact_whatever_alpha_is():
    block = filled(MLP)
    for alpha in (0.3, 1.0, 1.99):
        with torch.no_grad():
            block.theta.fill_(alpha / 5.0)
        _, b = block.vectors()
        assert torch.equal(b[:2], block.b[:2]) and not b[2:].any()


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.05, 1.3, 1.9])
@pytest.mark.parametrize("shift", [0.0, 0.35])
@pytest.mark.parametrize("ramp", [1.0, 2.0, 3.0])
def test_the_gradient_of_alpha_is_that_of_the_ramp(alpha, shift, ramp):
    """Against finite differences of a loss in which the gates themselves follow the ramp."""
    block = filled(MLP, family(ramp=ramp))
    block.set_ranks([2], shift)
    with torch.no_grad():
        block.theta.fill_(alpha / 5.0)
    draw = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(7, n, generator=draw, dtype=torch.float64) for n in (6, 5))
    a, b = block.vectors()
    (x @ a.T @ b * weights).sum().backward()

    @torch.no_grad()
    def soft_loss(value):
        requested = 2 * value - shift
        gates = [min(1.0, max(0.0, (requested - (j - 0.5)) / ramp + 0.5)) for j in (1, 2, 3, 4)]
        b = torch.tensor(gates, dtype=torch.float64).unsqueeze(1) * block.b
        return float((x @ block.a.T @ b * weights).sum())

    step = 1e-4
    expected = (soft_loss(alpha + step) - soft_loss(alpha - step)) / (2 * step)
    assert float(block.theta.grad) / 5.0 == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_on_the_widened_ramp_an_open_component_speaks_for_one_that_never_acted():
    """At α = 1.05 the requested rank is 2.1: the next component, the third, has b = 0 and no gradient."""
    signals = {}
    for ramp in (1.0, 2.0):
        block = filled(MLP, family(ramp=ramp))
        with torch.no_grad():
            block.b[2:] = 0
            block.theta.fill_(1.05 / 5.0)
        a, b = block.vectors()
        (a.sum() * b.sum()).backward()
        signals[ramp] = float(block.theta.grad)
    assert signals[1.0] == 0 and signals[2.0] != 0


def test_what_is_closed_gets_no_gradient():
    block = filled(QUERY)
    block.set_ranks([1, 2, 1, 4], 0.0)
    a, b = block.vectors()
    x = torch.randn(3, 6, dtype=torch.float64)
    (x @ a.T @ b).square().sum().backward()
    opened = block.gates.bool()
    for parameter in (block.a, block.b):
        assert not parameter.grad[~opened].any() and parameter.grad[opened].any(dim=1).all()


def test_the_archive_of_heads_holds_slices_where_the_lora_file_holds_zeros(tmp_path):
    model = nn.Module()
    model.query, model.output, model.mlp = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 5)
    gated = family()
    adapted = AdaptedModel(model, [QUERY, OUTPUT, MLP], [], scales={"query": 0.5}, family=gated)
    generator = torch.Generator().manual_seed(0)
    ranks = {"query": [1, 2, 1, 2], "output": [2, 1, 1, 1], "mlp": [3]}
    for shape in (QUERY, OUTPUT, MLP):
        layout = gated.layout(shape)
        block = adapted.add_block(shape.name, layout.units * layout.most, generator)
        nn.init.normal_(block.b, generator=generator)
        block.set_ranks(ranks[shape.name], 0.0)
    adapted.publish()
    parameters = 6 * (6 + 2) + 5 * (2 + 6) + 3 * (6 + 5)
    assert adapted.active_parameters() == parameters
    assert adapted.adapter_parameters() == 8 * (6 + 2) + 8 * (2 + 6) + 4 * (6 + 5) + 9, "all that may open, and α"
    adapter = deployed_adapter(adapted, Lane.prefix(1))
    assert adapter.ranks == {"query": 6, "output": 5, "mlp": 3}
    assert adapter.parameters == parameters
    assert adapter.lora_parameters == 6 * 14 + 5 * 14 + 3 * 11
    save_peft(adapter, tmp_path, base_model="", provenance={})
    archive = load_file(tmp_path / "per_head.safetensors")
    assert sum(t.numel() for t in archive.values()) == parameters
    heads = [archive[f"query.head_{h}.b"].T @ archive[f"query.head_{h}.a"] for h in range(4)]
    a, b = adapter.factors["query"]
    torch.testing.assert_close(torch.cat(heads), b @ a)
    heads = [archive[f"output.head_{h}.b"].T @ archive[f"output.head_{h}.a"] for h in range(4)]
    a, b = adapter.factors["output"]
    torch.testing.assert_close(torch.cat(heads, dim=1), b @ a)


def test_with_modules_as_units_the_lora_file_is_the_archive(tmp_path):
    model = nn.Module()
    model.query = nn.Linear(6, 8)
    adapted = AdaptedModel(model, [QUERY], [], family=family(per_head=False))
    adapted.add_block("query", 4, torch.Generator().manual_seed(0)).set_ranks([3], 0.0)
    adapted.publish()
    adapter = deployed_adapter(adapted, Lane.prefix(1))
    assert adapter.family == "plain" and adapter.compact == {} and adapter.parameters == 3 * 14
    save_peft(adapter, tmp_path, base_model="", provenance={})
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["adapter_model.safetensors"]
