"""CP adapters at the paper's budgets (2606.00428), and AdaPaD over CP components."""

import json
from itertools import pairwise

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.methods.adapad import Adapad, AdapadConfig
from adapad_ray.methods.cp import CpConfig, CpMethod
from adapad_ray.methods.plan import CellContext
from adapad_ray.models.target_modules import target_modules
from adapad_ray.testing import MethodCase, tiny_backbone

CP_GRID = {1: 9_264, 2: 18_528, 4: 37_056, 8: 74_112, 16: 148_224, 21: 194_544, 28: 259_392, 36: 333_504, 43: 398_352,
           64: 592_896, 85: 787_440, 128: 1_185_792, 171: 1_584_144}  # fmt: skip
LORA_GRID = {1: 196_608, 2: 393_216, 3: 589_824, 4: 786_432, 6: 1_179_648, 8: 1_572_864}
ONE_EACH = 316
"""Parameters of one CP component on each of the 12 modules of the tiny backbone."""


@pytest.fixture(scope="module")
def opt():
    """q and v of all 24 layers of OPT-1.3B, from its configuration alone."""
    config = transformers.OPTConfig(
        hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32, word_embed_proj_dim=2048
    )
    with torch.device("meta"):
        model = transformers.OPTForSequenceClassification(config)
    return target_modules(model, ["q_proj", "v_proj"])


def plan(method, modules, budget, **config):
    cls = METHODS[method]
    return cls(cls.Config(**config), CellContext(modules, budget, 100, 0)).plan()


@pytest.mark.parametrize(("method", "grid"), [("cp", CP_GRID), ("lora", LORA_GRID)])
def test_the_grids_of_the_paper_come_out_of_opts_configuration(opt, method, grid):
    assert len(opt) == 48
    for components, parameters in grid.items():
        for budget in (parameters, parameters + grid[1] - 1):
            planned = plan(method, opt, budget)
            assert planned.parameters == parameters
            assert set(planned.ranks.values()) == {components}
    with pytest.raises(BudgetTooSmallError):
        plan(method, opt, grid[1] - 1)


def test_flops_are_those_of_the_factored_form(opt):
    assert plan("cp", opt, CP_GRID[21]).acting_parameters == 21 * LORA_GRID[1]


def test_a_fixed_number_of_components_is_kept(opt):
    assert plan("cp", opt, 10**6, components=21).parameters == CP_GRID[21]
    with pytest.raises(
        BudgetTooSmallError, match=r"budget 9,264 is below 2 CP components on each of 48 modules \(18,528\)"
    ):
        plan("cp", opt, 9_264, components=2)


def test_the_split_of_a_module_is_its_users_choice(opt):
    """16 x 128 on the output side of v: 16 + 128 + 32 + 64 + 1 parameters."""
    planned = plan("cp", opt, 10**6, components=1, splits={"v_proj": [16, 128, 32, 64]})
    assert planned.parameters == 24 * (193 + 241)
    with pytest.raises(BadRequestError, match="no adapted module"):
        plan("cp", opt, 10**6, splits={"k_proj": [16, 128, 32, 64]})


@pytest.mark.parametrize("split", [[2, 3, 4], [32, 64, 32, 0], [32, 64, 32, 64.5]])
def test_a_split_has_four_sizes(split):
    with pytest.raises(ValueError, match="splits"):
        CpConfig(splits={"q_proj": split})


# AdaPaD over CP components


def cp_cell(budget, **config):
    trainer = MethodCase("adapad", budget, {"family": "cp", **config}).trainer()
    trainer.start()
    trainer.run()
    return trainer


def test_one_cp_component_on_each_tiny_module_costs_316():
    shapes = target_modules(tiny_backbone().model, "all-linear")
    assert sum(CpMethod(CpConfig(), CellContext(shapes, 10**4, 1, 0)).family.cost(m) for m in shapes) == ONE_EACH


def test_growth_spends_the_budget_in_steps_of_a_cp_component():
    trainer = cp_cell(3 * ONE_EACH + 30, local_steps=2)
    method = trainer.method
    costs = set(method.costs.values())
    assert costs == {25, 29} and max(trainer.adapted.ranks.values()) >= 3
    assert trainer.adapted.active_parameters() == method.ledger.spent > 3 * ONE_EACH
    steps = [b.spent - a.spent for a, b in pairwise(trainer.record.growth)]
    assert set(steps) <= costs


def test_budgets_far_below_one_lora_rank_are_reached():
    trainer = cp_cell(100, initial_rank=0, local_steps=2)
    assert 0 < trainer.adapted.active_parameters() <= 100


def test_the_default_r_max_follows_the_mean_number_of_components():
    shapes = target_modules(tiny_backbone().model, "all-linear")
    assert Adapad(AdapadConfig(family="cp"), CellContext(shapes, 4 * ONE_EACH, 15, 0)).r_max == 5


def test_lanes_read_vectors_whatever_the_family_is():
    trainer = cp_cell(2 * ONE_EACH, initial_rank=2, local_steps=5)
    adapted = trainer.adapted
    for k in (1, 2):
        assert len(adapted.live_values(k)) == sum(m.component_cost for m in trainer.method.context.modules)


def test_every_prefix_is_archived_at_its_own_size(tmp_path):
    result = MethodCase("adapad", 3 * ONE_EACH, {"family": "cp", "local_steps": 2}).run(tmp_path)
    assert len(result.points) > 2
    for point in result.points:
        folder = tmp_path / point.adapter
        archive = load_file(folder / "cp.safetensors")
        said = json.loads((folder / "adapad.json").read_text())
        assert said["family"] == "cp" and said["parameters"] == point.parameters < said["lora_parameters"]
        assert sum(t.numel() for t in archive.values()) == point.parameters
        model = peft.PeftModel.from_pretrained(tiny_backbone().model, folder)
        for name, rank in point.ranks.items():
            modes = [archive[f"{name}.{mode}"] for mode in ("out_1", "out_2", "in_1", "in_2")]
            assert modes[0].shape[0] == rank
            update = torch.einsum("n,np,nq,nr,ns->pqrs", archive[f"{name}.scale"], *modes)
            layer = model.base_model.model.get_submodule(name)
            expected = layer.get_delta_weight("default")
            torch.testing.assert_close(update.reshape(expected.shape), expected)


def test_deflation_finds_the_terms_of_an_orthogonally_decomposable_tensor():
    """Y = Σ λ_k (u_k ⊗ v_k)(w_k ⊗ z_k)ᵀ X with orthonormal modes and rows of X: component k is the k-th largest term.

    Unlike matrices, tensors have flat places at 0 where a component can stay; this start is not near one.
    """
    draw = torch.Generator().manual_seed(1)
    p, q, r, s, spectrum = 3, 4, 3, 4, (1.0, 0.6, 0.3)

    def orthonormal(rows, columns):
        return torch.linalg.qr(torch.randn(rows, columns, generator=draw, dtype=torch.float64))[0].T

    u, v, w, z = (orthonormal(n, 3) for n in (p, q, r, s))  # [3, n] each
    x = orthonormal(40, r * s).T  # [40, d_in]
    terms = [
        c * torch.outer(torch.kron(u[k], v[k]), torch.kron(w[k], z[k])) for k, c in enumerate(spectrum)
    ]  # [d_out, d_in] each
    y = x @ sum(terms).T
    model = nn.Sequential(nn.Linear(r * s, p * q, bias=False)).double().requires_grad_(False)
    model[0].weight.zero_()
    shape = ModuleShape("0", r * s, p * q)
    context = CellContext((shape,), 3 * (p + q + r + s + 1), total_steps=10_000, seed=0)
    method = Adapad(AdapadConfig(initial_rank=3, local_steps=5, family="cp"), context)
    adapted = method.adapted = AdaptedModel(model, [shape], [], family=method.family)
    method.build(torch.Generator().manual_seed(1))
    layer = adapted.layers["0"].double()
    for step in range(1500):
        for lane in method.lanes(step):
            adapted.use(lane)
            parameters = adapted.parameters(lane)
            loss = 0.5 * (y - model(x)).square().sum()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data.sub_(0.5 * gradient)
        if (step + 1) % 5 == 0:
            adapted.publish(method.published(step + 1))
    for k, block in enumerate(layer.active()):
        a, b = block.published()
        assert float((b.T @ a - terms[k]).norm()) < 1e-6 * spectrum[k]
    assert adapted.deployed_parameters(Lane.prefix(3)) == context.budget


def test_the_scale_lets_lambda_move_as_far_as_the_entries_of_a_plain_b():
    """√d_out times the scale of a LoRA with as many parameters: rank 1 below one rank, rank 2 at two."""
    for budget, rank in ((ONE_EACH, 1), (1800, 1.76)):
        scales = MethodCase("cp", budget).make().scales()
        assert sorted(set(scales.values())) == pytest.approx([2 / rank * 32**0.5, 2 / rank * 8], rel=1e-2)
        assert MethodCase("adapad", budget, {"family": "cp"}).make().scales() == pytest.approx(scales, rel=0.2)
