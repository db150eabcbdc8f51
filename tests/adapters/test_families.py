"""CP components are rank-1 terms of a four-way tensor (2606.00428), and nothing else in the chain needs to know."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.cp import MODES, Cp, CpBlock, most_square
from adapad_ray.adapters.export import deployed_adapter, save_peft
from adapad_ray.adapters.families import PLAIN
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError

SHAPE = ModuleShape("layer.0.query", in_features=12, out_features=10)
SPLIT = (2, 5, 3, 4)


@pytest.fixture
def block() -> CpBlock:
    """Three components with λ = 0.5, −2, 3 and raw vectors of any length, in fp64."""
    block = CpBlock(SHAPE, 3, SPLIT, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        block.scale.copy_(torch.tensor([0.5, -2.0, 3.0]))
        for i, mode in enumerate(block.modes):
            mode *= i + 0.5
    return block


def dense(block) -> torch.Tensor:
    """ΔW `[d_out, d_in]` as the definition has it: a sum of outer products of four unit vectors, row-major."""
    u, v, w, z = (mode / mode.norm(dim=-1, keepdim=True) for mode in block.modes)
    return torch.einsum("n,np,nq,nr,ns->pqrs", block.scale, u, v, w, z).reshape(10, 12)


@pytest.mark.parametrize(
    ("d_out", "d_in", "components", "rank"),
    [(2048, 2048, 193, 4096), (768, 768, 113, 1536), (3072, 768, 169, 3840)],
)
def test_a_component_costs_what_the_paper_says(d_out, d_in, components, rank):
    shape = ModuleShape("m", d_in, d_out)
    assert Cp().cost(shape) == components
    assert PLAIN.cost(shape) == rank
    block = Cp().block(shape, 2, torch.Generator())
    assert sum(p.numel() for p in block.parameters()) == 2 * components


def test_by_default_a_side_is_split_as_squarely_as_it_can_be():
    assert Cp().split(ModuleShape("m", 2048, 2048)) == (32, 64, 32, 64)
    assert [most_square(n) for n in (768, 3072, 384, 1536, 7, 1)] == [
        (24, 32),
        (48, 64),
        (16, 24),
        (32, 48),
        (1, 7),
        (1, 1),
    ]


def test_the_vectors_make_the_tensor_of_the_definition(block):
    a, b = block.vectors()
    torch.testing.assert_close(b.T @ a, dense(block))
    assert torch.linalg.matrix_rank(b.T @ a) == 3


def test_the_layer_computes_what_the_dense_update_computes_and_its_gradients(block):
    layer = AdaptedLinear(nn.Linear(12, 10).double().requires_grad_(False), SHAPE, scaling=1.7)
    layer.blocks.append(block)
    layer.use(Lane.joint(1))
    x = torch.randn(6, 4, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, 4, 10, dtype=torch.float64)
    leaves = [x, block.scale, *block.modes]
    expected = layer.base(x) + 1.7 * x @ dense(block).T
    torch.testing.assert_close(layer(x), expected)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    got = torch.autograd.grad((layer(x) * weights).sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_at_the_start_only_the_scales_have_a_gradient():
    layer = AdaptedLinear(nn.Linear(12, 10).requires_grad_(False), SHAPE, scaling=1.0)
    layer.blocks.append(Cp().block(SHAPE, 3, torch.Generator().manual_seed(1)))
    layer.use(Lane.joint(1))
    x = torch.randn(4, 12)
    assert torch.equal(layer(x), layer.base(x))
    layer(x).square().sum().backward()
    assert layer.blocks[0].scale.grad.all()
    assert not any(mode.grad.any() for mode in layer.blocks[0].modes)


def test_the_length_of_a_raw_vector_does_not_matter(block):
    before = [v.clone() for v in block.vectors()]
    with torch.no_grad():
        block.modes[1].mul_(7.0)
        block.modes[2].mul_(1e-3)
    for a, b in zip(block.vectors(), before, strict=True):
        torch.testing.assert_close(a, b)


# Splits


def test_the_entry_that_names_a_module_most_closely_decides_its_split():
    family = Cp({"query": (5, 2, 4, 3), "layer.1.query": (10, 1, 6, 2)})
    assert family.split(ModuleShape("layer.0.query", 12, 10)) == (5, 2, 4, 3)
    assert family.split(ModuleShape("layer.1.query", 12, 10)) == (10, 1, 6, 2)
    assert family.split(ModuleShape("layer.1.prequery", 12, 10)) == (2, 5, 3, 4)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (
            {"query": (2, 5, 3, 5)},
            r"splits.query is \[2, 5, 3, 5\], which makes 10 × 15 where layer.0.query is 10 × 12",
        ),
        ({"key": (2, 5, 3, 4)}, "splits has an entry 'key' that applies to no adapted module"),
        ({"query": (2, 5, 3, 4), "layer.0.query": (2, 5, 3, 4)}, "splits has an entry 'query'"),
    ],
)
def test_splits_that_fit_nothing_are_refused(splits, words):
    with pytest.raises(BadRequestError, match=words):
        Cp(splits).check([SHAPE])


# Export


def test_the_archive_beside_the_lora_file_holds_the_same_update_in_its_own_number_of_parameters(tmp_path):
    model = nn.Module()
    model.a, model.b = nn.Linear(12, 10), nn.Linear(8, 6)
    shapes = [ModuleShape("a", 12, 10), ModuleShape("b", 8, 6)]
    adapted = AdaptedModel(model, shapes, [], scales={"a": 1.5, "b": 0.25}, family=Cp({"a": SPLIT}))
    generator = torch.Generator().manual_seed(0)
    for name, size in (("a", 2), ("a", 1), ("b", 1)):
        block = adapted.add_block(name, size, generator)
        nn.init.normal_(block.scale, generator=generator)
    adapted.publish()
    assert adapted.adapter_parameters() == adapted.active_parameters() == 3 * (2 + 5 + 3 + 4 + 1) + (2 + 3 + 2 + 4 + 1)
    assert adapted.deployed_parameters(Lane.prefix(1)) == 2 * 15 + 12
    assert adapted.acting_parameters(Lane.joint(2)) == 3 * 22 + 14, "computed as LoRA factors"
    for prefix, ranks in ((2, {"a": 3, "b": 1}), (1, {"a": 2, "b": 1})):
        adapter = deployed_adapter(adapted, Lane.prefix(prefix))
        assert adapter.ranks == ranks
        assert adapter.parameters == ranks["a"] * 15 + ranks["b"] * 12
        assert adapter.lora_parameters == ranks["a"] * 22 + ranks["b"] * 14
        save_peft(adapter, tmp_path, base_model="", provenance={})
        archive = load_file(tmp_path / "cp.safetensors")
        assert sum(t.numel() for t in archive.values()) == adapter.parameters
        for name, (a, b) in adapter.factors.items():
            modes = [archive[f"{name}.{mode}"] for mode in MODES]
            assert all(torch.allclose(mode.norm(dim=-1), torch.ones(ranks[name])) for mode in modes)
            update = torch.einsum("n,np,nq,nr,ns->pqrs", archive[f"{name}.scale"], *modes)
            torch.testing.assert_close(update.reshape(b.shape[0], a.shape[1]), b @ a)


def test_a_component_that_has_not_learnt_is_archived_with_scale_zero():
    block = Cp().block(SHAPE, 1, torch.Generator().manual_seed(0))
    archive = block.compact(*(v.detach() for v in block.vectors()))
    assert not archive["scale"].any()
    assert all(t.isfinite().all() for t in archive.values())
