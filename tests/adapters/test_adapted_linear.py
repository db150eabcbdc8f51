"""The adapted layer computes what an explicit autograd computation with detached predecessors computes."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.families import PlainBlock
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import ModuleShape

SHAPE = ModuleShape("m", 7, 5)
SCALE = 1.7


@pytest.fixture(params=[lambda: nn.Linear(7, 5), lambda: Conv1D(5, 7)], ids=["Linear", "Conv1D"])
def layer(request) -> AdaptedLinear:
    """Three active blocks of sizes 1, 2, 1 and a reserve, live values apart from the published ones, in fp64."""
    generator = torch.Generator().manual_seed(0)
    base = request.param().double().requires_grad_(False)
    layer = AdaptedLinear(base, SHAPE, SCALE).double()
    for size in (1, 2, 1):
        layer.blocks.append(PlainBlock(SHAPE, size, generator))
    layer.reserve = PlainBlock(SHAPE, 1, generator)
    layer.double()
    for block in (*layer.active(), layer.reserve):
        nn.init.normal_(block.b, generator=generator)
        block.publish()
        with torch.no_grad():
            block.a += torch.randn(block.a.shape, generator=generator, dtype=torch.float64)
            block.b += torch.randn(block.b.shape, generator=generator, dtype=torch.float64)
    return layer


def reference(layer, x, frozen, live):
    """Plain autograd: published predecessors are constants, `live` blocks learn."""
    y = layer.base(x)
    for block in frozen:
        y = y + SCALE * (x @ block.published_a.detach().T) @ block.published_b.detach()
    for block in live:
        y = y + SCALE * (x @ block.a.T) @ block.b
    return y


def gradients(layer, x, y, weights):
    for p in layer.parameters():
        p.grad = None
    x.grad = None
    (y * weights).sum().backward()
    params = [p for block in (*layer.active(), layer.reserve) for p in block.parameters()]
    return [x.grad.clone(), *(None if p.grad is None else p.grad.clone() for p in params)]


@pytest.mark.parametrize(
    "lane",
    [
        Lane.deflation(1),
        Lane.deflation(2),
        Lane.deflation(3),
        Lane.deflation(5),
        Lane.reserves(3),
        Lane.joint(3),
        Lane.prefix(2),
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", [(), (4,)], ids=["2d", "3d"])
def test_a_lane_equals_autograd_with_detached_predecessors(layer, lane, tokens):
    x = torch.randn(6, *tokens, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, *tokens, 5, dtype=torch.float64)
    blocks = layer.active()
    live = [blocks[k - 1] for k in lane.live if k <= 3] + ([layer.reserve] if lane.reserve else [])
    expected_y = reference(layer, x, blocks[: lane.frozen], live)
    expected = gradients(layer, x, expected_y, weights)
    layer.use(lane)
    y = layer(x)
    torch.testing.assert_close(y, expected_y)
    for got, want in zip(gradients(layer, x, y, weights), expected, strict=True):
        assert (got is None or not got.any()) if want is None else torch.allclose(got, want)


def test_predecessors_act_through_their_published_values_and_get_no_gradient(layer):
    layer.use(Lane.deflation(3))
    x = torch.randn(2, 7, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.blocks[0].a += 1.0
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0)
    layer(x).sum().backward()
    assert layer.blocks[0].a.grad is None
    assert layer.blocks[2].a.grad is not None


def test_successors_and_the_reserve_do_not_act_in_a_component_lane(layer):
    layer.use(Lane.deflation(2))
    x = torch.randn(2, 7, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.blocks[2].b += 1.0
        layer.blocks[2].published_b += 1.0
        layer.reserve.b += 1.0
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0)
    layer.reserve = None
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0)


def test_dropout_learns_from_what_it_kept(layer):
    layer.dropout = 0.5
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 5, dtype=torch.float64)
    layer.use(Lane.joint(3), torch.Generator().manual_seed(5))
    y = layer(x)
    kept = (torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) >= 0.5).double() / 0.5
    expected_y = layer.base(x)
    for block in layer.active():
        expected_y = expected_y + SCALE * ((x * kept) @ block.a.T) @ block.b
    torch.testing.assert_close(y, expected_y)
    expected = gradients(layer, x, expected_y, weights)
    layer.use(Lane.joint(3), torch.Generator().manual_seed(5))
    for got, want in zip(gradients(layer, x, layer(x), weights), expected, strict=True):
        if want is not None:
            torch.testing.assert_close(got, want)


def test_untouched_blocks_change_nothing():
    base = nn.Linear(7, 5).requires_grad_(False)
    layer = AdaptedLinear(base, SHAPE, SCALE)
    layer.blocks.append(PlainBlock(SHAPE, 3, torch.Generator().manual_seed(1)))
    layer.use(Lane.joint(1))
    x = torch.randn(4, 7)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=0)


@pytest.mark.parametrize("lane", [Lane.prefix(0), Lane.prefix(1), Lane.prefix(3), Lane.joint(3)], ids=str)
def test_what_does_not_change_is_brought_together_once(layer, lane, monkeypatch):
    x = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer.use(lane)
    expected = layer(x)
    layer.constants = {}
    assert torch.equal(layer(x), expected)
    monkeypatch.setattr(torch, "cat", lambda tensors: pytest.fail("brought together again"))
    assert torch.equal(layer(x), expected)
