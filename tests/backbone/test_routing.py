"""Routing: grouped_linear and the untied norm against loops over the towers, forward and backward; permutations."""

import pytest
import torch
import torch.nn.functional as F
from towers_by_loop import MIXES, by_loop, random

from mot_gen.backbone.gates import Gated
from mot_gen.backbone.grouped_products import _ProductsOneByOne
from mot_gen.backbone.named_parts import read_part
from mot_gen.backbone.rms_norm import UntiedRMSNorm, _RMSNorm, _RMSNormOfHeads
from mot_gen.backbone.routing import UntiedLinear, grouped_linear, permute_rows, route, store_for_decoding


def gradients(output, inputs, upstream):
    return torch.autograd.grad((output * upstream).sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_grouped_linear_is_a_loop_over_tokens(mix, dtype):
    tower = torch.tensor(mix)
    routing = route(tower, 3)
    x = random(len(mix), 8, dtype=dtype).requires_grad_()
    weight = random(3, 12, 8, seed=1, dtype=dtype).requires_grad_()
    upstream = random(len(mix), 12, seed=2, dtype=dtype)
    got = routing.unsort(grouped_linear(routing.sort(x), weight, routing))
    want = by_loop(x, weight, tower)
    torch.testing.assert_close(got, want)
    for a, b in zip(gradients(got, [x, weight], upstream), gradients(want, [x, weight], upstream)):
        torch.testing.assert_close(a, b)


def test_an_absent_tower_gets_zero_gradients_not_missing_ones():
    for mix in ([2, 1, 1, 2, 1], [1, 1, 1]):
        routing, layer = route(torch.tensor(mix), 3), UntiedLinear(4, 4, 3)
        torch.nn.init.normal_(layer.weight)
        layer(routing.sort(random(len(mix), 4)), routing).square().sum().backward()
        assert not layer.weight.grad[0].any() and layer.weight.grad[1].any()


def test_one_matrix_is_an_ordinary_product():
    x, weight = random(7, 8), random(1, 12, 8, seed=1)
    routing = route(torch.tensor([0, 2, 1, 1, 0, 2, 2]), 3)
    assert torch.equal(grouped_linear(x, weight, routing), F.linear(x, weight[0]))


def test_a_tower_alone_is_not_sorted():
    routing = route(torch.ones(6, dtype=torch.long), 3)
    x = random(6, 8)
    assert routing.only == 1 and routing.order is None
    assert routing.sort(x) is x and routing.unsort(x) is x
    assert routing.counts == [0, 6, 0] and routing.ends.tolist() == [0, 6, 6]


def test_routing_sorts_stably_and_knows_its_inverse():
    tower = torch.tensor(MIXES["all towers"])
    routing = route(tower, 3)
    assert routing.order.tolist() == sorted(range(len(tower)), key=lambda i: (tower[i], i))
    assert routing.counts == [4, 3, 4] and routing.ends.tolist() == [4, 7, 11]
    x = random(len(tower), 2, 3)
    assert torch.equal(routing.unsort(routing.sort(x)), x)


def test_the_gradient_of_a_permutation_is_its_inverse():
    routing = route(torch.tensor(MIXES["all towers"]), 3)
    x = random(11, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: permute_rows(x, routing.order, routing.inverse), x)


@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0])
def test_the_norm_of_one_tower_without_gradients_is_rms_norm(size):
    norm = UntiedRMSNorm(16, 2, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x = size * torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = norm(x, route(torch.ones(5, dtype=torch.long), 2))
        torch.testing.assert_close(found, F.rms_norm(x, (16,), norm.weight[1], 1e-5))


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("shape", [(16,), (4, 16)], ids=["width", "heads"])
def test_the_untied_norm_is_rms_norm_of_each_tower(mix, shape):
    tower = torch.tensor(mix)
    routing = route(tower, 3)
    norm = UntiedRMSNorm(16, 3, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(random(3, 16, seed=1))
    x = random(len(mix), *shape).requires_grad_()
    upstream = random(len(mix), *shape, seed=2)
    got = routing.unsort(norm(routing.sort(x), routing))
    want = torch.stack([F.rms_norm(row, (16,), norm.weight[t], 1e-3) for row, t in zip(x, tower.tolist())])
    torch.testing.assert_close(got, want)
    for a, b in zip(gradients(got, [x, norm.weight], upstream), gradients(want, [x, norm.weight], upstream)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("eager", [True, False], ids=["eager on a CPU", "on a GPU or compiled"])
def test_the_norm_of_heads_is_the_same_in_sequence_order(mix, eager, monkeypatch):
    monkeypatch.setattr("mot_gen.backbone.rms_norm._is_eager_on_cpu", lambda x: eager)
    routing, norm = route(torch.tensor(mix), 3), UntiedRMSNorm(16, 3, eps=1e-3)
    norm.weight.data = random(3, 16, seed=1)
    x, upstream = random(len(mix), 4, 16).requires_grad_(), random(len(mix), 4, 16, seed=2)
    for found in (norm.in_sequence(x, routing), routing.unsort(norm(routing.sort(x), routing))):
        want = torch.stack([F.rms_norm(row, (16,), norm.weight[t], 1e-3) for row, t in zip(x, mix)])
        torch.testing.assert_close(found, want)
        for a, b in zip(gradients(found, [x, norm.weight], upstream), gradients(want, [x, norm.weight], upstream)):
            torch.testing.assert_close(a, b)


def test_products_tower_by_tower_have_their_gradients():
    x, weight = double(5, 4), double(3, 6, 4)
    assert torch.autograd.gradcheck(lambda x, w: _ProductsOneByOne.apply(x, w, [3, 0, 2]), (x, weight))


def test_counts_that_the_host_knows_change_nothing():
    tower = torch.tensor(MIXES["all towers"])
    for known, counted in zip(vars(route(tower, 3, [4, 3, 4])).values(), vars(route(tower, 3)).values()):
        assert torch.equal(known, counted) if isinstance(known, torch.Tensor) else known == counted


def test_the_norm_works_in_fp32_whatever_it_is_given():
    norm, routing = UntiedRMSNorm(64, 1), route(torch.zeros(5, dtype=torch.long), 1)
    x = 300 * random(5, 64)  # squares overflow fp16
    half = norm(x.half(), routing)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), F.rms_norm(x, (64,), eps=1e-5), atol=3e-3, rtol=3e-3)


def double(*shape):
    return random(*shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_a_gated_unit_has_its_gradient(name):
    gate_up, activation = double(5, 8), read_part("activation", name, {}, "backbone.activation")
    gate, up = gate_up.chunk(2, -1)
    plain = {"silu": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh")}[name]
    torch.testing.assert_close(Gated.apply(gate_up, activation, None), plain(gate) * up)
    assert torch.autograd.gradcheck(lambda x: Gated.apply(x, activation, None), gate_up)


@pytest.mark.parametrize("towers", [[0, 1, 0, 2, 2], [1, 1, 1]])
def test_each_tower_adds_its_own_bias(towers):
    tower = torch.tensor(towers)
    routing, layer = route(tower, 3), UntiedLinear(4, 6, 3, bias=True)
    layer.weight.data, layer.bias.data = random(3, 6, 4), random(3, 6, seed=1)
    x = random(len(towers), 4, seed=2)
    want = torch.stack([F.linear(one, layer.weight[t], layer.bias[t]) for one, t in zip(x, tower)])
    torch.testing.assert_close(routing.unsort(layer(routing.sort(x), routing)), want)


def test_the_norm_has_its_gradient():
    for towers, counts in ((3, [3, 0, 2]), (1, None)):
        assert torch.autograd.gradcheck(
            lambda x, w, c=counts: _RMSNorm.apply(x, w, 1e-5, c), (double(5, 6), double(towers, 6))
        )
    tower = torch.tensor([1, 0, 2, 2, 0])
    members = (tower == torch.arange(3)[:, None]).double()
    assert torch.autograd.gradcheck(
        lambda x, w: _RMSNormOfHeads.apply(x, w, 1e-5, tower, members), (double(5, 2, 6), double(3, 6))
    )


def test_a_broadcast_gradient_is_taken():
    """sum() sends a gradient of stride 0, which grouped_mm refuses."""
    routing = route(torch.tensor([0, 1, 0, 1]), 2)
    x, weight = random(4, 8).requires_grad_(), random(2, 8, 8, seed=1).requires_grad_()
    grouped_linear(routing.sort(x), weight, routing).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(1)[torch.tensor([0, 1, 0, 1])])


def test_autocast_casts_the_grouped_product():
    routing = route(torch.tensor([0, 1, 0, 1, 1]), 2)
    x, weight = random(5, 16), random(2, 8, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        low = grouped_linear(routing.sort(x), weight, routing)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), grouped_linear(routing.sort(x), weight, routing), atol=0.1, rtol=0.05)


@torch.no_grad()
def test_stored_for_decoding_a_projection_is_the_same():
    """Whatever the towers of the tokens; only what widens is stored anew, and it saves as before."""
    torch.manual_seed(0)
    wide, narrow = UntiedLinear(16, 48, 2), UntiedLinear(48, 16, 2)
    for layer in (wide, narrow):
        layer.weight.normal_()
    x, saved = torch.randn(9, 16), wide.weight.clone()
    routings = [route(torch.tensor(towers), 2) for towers in ([0, 1, 0, 0, 1, 1, 0, 1, 1], [1] * 9, [0] * 9)]
    before = [wide(x, routing) for routing in routings]
    store_for_decoding(torch.nn.ModuleList([wide, narrow]))
    assert not wide.weight.is_contiguous() and narrow.weight.is_contiguous() and torch.equal(wide.weight, saved)
    for routing, want in zip(routings, before):
        torch.testing.assert_close(wide(x, routing), want)


@torch.no_grad()
def test_the_norm_is_the_same_without_gradients():
    norm, x = UntiedRMSNorm(16, 2), torch.randn(5, 16)
    norm.weight.normal_()
    for towers in ([0] * 5, [1] * 5, [0, 0, 1, 1, 1]):
        routing = route(torch.tensor(towers), 2)
        with torch.enable_grad():
            want = norm(x, routing).detach()
        torch.testing.assert_close(norm(x, routing), want)
