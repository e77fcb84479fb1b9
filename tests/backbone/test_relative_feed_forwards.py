"""Feed-forwards of the relatives of Mixture-of-Transformers: each reduces exactly to what it generalises, and
agrees with an independent form of its formula. In double precision; norms and rotations stay in single."""

import pytest
import torch
import torch.nn.functional as F
from reductions import CLOSE, LAYOUT, both
from tiny_backbones import build, inputs, set_to

from mot_gen.backbone.feed_forwards.continued_fraction import fraction
from mot_gen.backbone.routing import is_adapter


@torch.no_grad()
def test_a_nested_feed_forward_at_its_full_width_is_the_usual_one():
    usual, nested = build("mot"), build("mot", feed_forward="nested")
    nested.load_state_dict(usual.state_dict())
    x = inputs(*LAYOUT.shape)
    assert torch.equal(nested(x, LAYOUT), usual(x, LAYOUT))
    assert nested.flops(LAYOUT) == usual.flops(LAYOUT)


def test_a_nested_feed_forward_draws_a_width_while_it_learns():
    nested = build("mot", feed_forward={"kind": "nested", "divisors": [2]}).train()
    nested(inputs(*LAYOUT.shape), LAYOUT).square().mean().backward()
    grad = nested.blocks[0].ffn.down.weight.grad
    half = grad.shape[2] // 2
    assert grad[..., :half].any() and not grad[..., half:].any()


@torch.no_grad()
def test_all_slices_of_weight_one_are_the_whole_feed_forward():
    usual = build("mot")
    slices = build("mot", feed_forward={"kind": "slices", "slices": 4, "used": 4, "weight": "one"})
    for own, other in zip(usual.blocks, slices.blocks):
        gate, up = own.ffn.gate_up.weight.chunk(2, 1)
        cut = torch.stack([gate.unflatten(1, (4, -1)), up.unflatten(1, (4, -1))], 2)  # (towers, 4, 2, F / 4, D)
        other.ffn.feed_forward.gate_up.weight.copy_(cut.flatten(0, 1).flatten(1, 2))
        down = own.ffn.down.weight.unflatten(2, (4, -1)).movedim(2, 1)
        other.ffn.feed_forward.down.weight.copy_(down.flatten(0, 1))
    torch.testing.assert_close(*both(usual, slices), **CLOSE)
    assert slices.flops(LAYOUT) - usual.flops(LAYOUT) == 2 * 2 * 4 * 32 * LAYOUT.modality.numel()  # the routers'


@torch.no_grad()
def test_all_hidden_groups_alike_are_the_plain_feed_forward():
    groups = build("mot", feed_forward={"kind": "hidden_groups", "groups": 4, "shared": 1, "chosen": 3})
    set_to(groups, 0.0, "group_router")
    for block in groups.blocks:
        block.ffn.fusion.copy_(torch.eye(block.ffn.fusion.shape[-1]).expand_as(block.ffn.fusion))
    torch.testing.assert_close(*both(build("mot", feed_forward="plain"), groups), **CLOSE)


def test_a_continued_fraction_and_its_gradient():
    steps = [(1 + torch.rand(5, dtype=torch.double)).requires_grad_() for _ in range(4)]
    a, b, c, d = steps
    torch.testing.assert_close(fraction(steps, 0.01), 1 / (a + 1 / (b + 1 / (c + 1 / d))))
    assert torch.autograd.gradcheck(lambda *given: fraction(given, 0.01), steps)
    assert fraction([torch.zeros(3)], 0.01).tolist() == pytest.approx([100.0] * 3)


@torch.no_grad()
def test_ladders_without_sums_are_a_linear_layer():
    backbone = set_to(build("mot", layers=1, feed_forward="continued_fraction"), 0.0, ".sums")
    unit, plan, x = backbone.blocks[0].ffn, backbone.plan(LAYOUT), inputs(LAYOUT.modality.numel())
    assert torch.equal(unit(x, plan.routing), unit.linear(x, plan.routing))


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"feed_forward": "adapted"},
        {"feed_forward": {"kind": "adapted", "adapter": "routed", "unit": "plain"}},
        {"feed_forward": {"kind": "domains", "domains": ["books", "letters"]}},
        {"feed_forward": {"kind": "domains", "domains": ["books", "letters"], "unit": "plain", "use": "books"}},
        {"mixer": "adapted"},
    ],
    ids=str,
)
def test_adapters_that_write_nothing_yet_leave_a_model_as_it_is(options):
    """To the bit; and their names are those that `training.init` leaves to chance and `training.learns` lets learn."""
    unit = options.get("feed_forward", {})
    usual = build("mot", feed_forward=unit.get("unit", "gated") if isinstance(unit, dict) else "gated")
    written = [f".adapter.{name}b" for name in ("", "books.", "letters.")]
    adapted = set_to(build("mot", **options), 0.0, *written)
    added = {name for name, _ in adapted.named_parameters()} - {name for name, _ in usual.named_parameters()}
    assert added and all(is_adapter(name) for name in added)
    adapted.load_state_dict(usual.state_dict(), strict=False)
    x = inputs(*LAYOUT.shape)
    assert torch.equal(adapted(x, LAYOUT), usual(x, LAYOUT))
    set_to(adapted, 0.1, *written)
    assert not torch.allclose(adapted(x, LAYOUT), usual(x, LAYOUT), atol=1e-3)


@torch.no_grad()
def test_domains_are_their_formula():
    """By the gate of each token, and of the one that is in use; the gate at first weighs all alike."""
    options = {"kind": "domains", "domains": ["books", "letters"]}
    both = build("mot", untied=[], feed_forward=options).double()
    block, plan = both.blocks[0], both.plan(LAYOUT)
    side, x = block.ffn_side.adapter, inputs(1, LAYOUT.modality.numel()).double()[0]
    gate, up = block.ffn.gate_up(x, plan.routing).chunk(2, 1)
    hidden = F.silu(gate) * up
    found = [F.silu(hidden @ side[name].a[0].t()) @ side[name].b[0].t() for name in ("books", "letters")]
    own = F.silu(F.silu(x @ side["gate"].first[0].t()) @ side["gate"].second[0].t()) @ side["gate"].b[0].t()
    share = own.softmax(1)
    want = block.ffn.down(hidden, plan.routing) + share[:, 1:2] * found[0] + share[:, 2:] * found[1]
    torch.testing.assert_close(block.parts.feed_forward.forward(block, x, plan), want, **CLOSE)
    side["gate"].b.zero_()
    torch.testing.assert_close(side["gate"](x, plan.routing), torch.full((2, len(x), 1), 1 / 3, dtype=x.dtype))
    one = build("mot", untied=[], feed_forward=options | {"use": "letters"}).double()
    one.load_state_dict(both.state_dict(), strict=False)
    got = one.blocks[0].parts.feed_forward.forward(one.blocks[0], x, plan)
    torch.testing.assert_close(got, block.ffn.down(hidden, plan.routing) + found[1], **CLOSE)
