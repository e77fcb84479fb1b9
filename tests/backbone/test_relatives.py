"""The relatives of Mixture-of-Transformers as parts of a block: each reduces exactly to what it generalises, and agrees
with an independent form of its formula. In double precision; norms and rotations stay in single."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_backbone_contract import build, inputs
from test_parts import set_to
from tiny import MODALITIES, SPEECH, TEXT, mixed, picture, words

from mot_gen import backbone as backbones
from mot_gen.backbone.experts.pools import Pool, State, make_pools
from mot_gen.backbone.experts.router_losses import mutual_information, roughness
from mot_gen.backbone.feed_forwards.continued_fraction import fraction
from mot_gen.backbone.mixers import combiner
from mot_gen.backbone.mixers.stick_breaking import break_sticks
from mot_gen.backbone.recurrent import delta_rule
from mot_gen.backbone.routing import Routing, is_adapter
from mot_gen.backbone.transformer import Backbone
from mot_gen.errors import InputError
from mot_gen.packing import pack

CLOSE = {"atol": 1e-6, "rtol": 1e-6}
LAYOUT = pack(mixed(4), MODALITIES, 48).layout
TEXTS = pack([[words(9)], [words(5)]], MODALITIES, 24).layout


def double(backbone):
    return backbone.double()


def both(usual, other, layout=LAYOUT):
    """What two backbones make of the same tokens, the second with the parameters of the first that it shares by name
    and shape."""
    shapes = {name: p.shape for name, p in other.named_parameters()}
    shared = {name: p for name, p in usual.state_dict().items() if shapes.get(name) == p.shape}
    other.load_state_dict(shared, strict=False)
    x = inputs(*layout.shape).double()
    return double(usual)(x, layout), double(other)(x, layout)


# ---------------------------------------------------------------- mixers and biases


@torch.no_grad()
def test_one_wide_gaussian_of_strength_one_is_plain_attention():
    usual, gaussian = build("mot"), build("mot", bias={"kind": "gaussian", "gaussians": 1})
    set_to(set_to(gaussian, 1.0, "strengths"), 1e9, "deviations")
    torch.testing.assert_close(*both(usual, gaussian), **CLOSE)
    set_to(gaussian, 0.5, "deviations")
    want, got = both(usual, gaussian)
    assert not torch.allclose(want, got, atol=1e-3)
    want, got = both(usual, gaussian, TEXTS)  # text has no grid
    torch.testing.assert_close(got, want, **CLOSE)


@torch.no_grad()
def test_a_pool_of_one_is_no_mixer():
    """A block is then its feed-forward alone, bit for bit."""
    x = inputs(*LAYOUT.shape)
    pool = build("mot", layers=2, mixer=[{"kind": "pool", "size": 1, "last": 1}, "attention"])
    block, plan = pool.blocks[0], pool.plan(LAYOUT)
    flat = plan.routing.sort(x.flatten(0, 1))
    assert torch.equal(block(flat, plan), block.feed(flat, plan))


@torch.no_grad()
def test_a_pool_on_a_grid_is_the_published_one():
    """avg_pool2d that does not count its border, less the token itself; text reads the last tokens of its document."""
    layout = pack([[words(3), picture(4, 5), words(2)]], MODALITIES, 32).layout
    backbone = build("mot", mixer=[{"kind": "pool", "size": 3, "last": 2}, "attention"])
    block, plan, x = backbone.blocks[0], backbone.plan(layout), inputs(*layout.shape)
    y = plan.routing.unsort(block.parts.mixer.forward(block, plan.routing.sort(x.flatten(0, 1)), plan, None))
    own = layout.modality[0] == 1
    grid = x[0, own].t().view(1, 32, 4, 5)
    want = F.avg_pool2d(grid, 3, 1, 1, count_include_pad=False) - grid
    torch.testing.assert_close(y[own], want[0].flatten(1).t())
    torch.testing.assert_close(y[0], torch.zeros(32))
    torch.testing.assert_close(y[2], (x[0, 1] + x[0, 2]) / 2 - x[0, 2])


def test_broken_sticks_are_their_product():
    torch.manual_seed(0)
    scores, seen = torch.randn(1, 2, 6, 6, dtype=torch.double), torch.ones(6, 6).tril().bool()[None, None]
    z, found = scores.sigmoid(), break_sticks(scores, seen)
    want = torch.zeros_like(z)
    for i in range(6):
        for j in range(i + 1):
            want[..., i, j] = z[..., i, j] * (1 - z[..., i, j + 1 : i + 1]).prod(-1)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(found.diagonal(dim1=2, dim2=3), z.diagonal(dim1=2, dim2=3))  # the newest key
    left = torch.stack([(1 - z[..., i, : i + 1]).prod(-1) for i in range(6)], -1)
    torch.testing.assert_close(found.sum(-1), 1 - left)


@torch.no_grad()
def test_a_module_alone_is_attention_of_one_head():
    usual = build("mot", mixer={"kind": "attention", "heads": 1, "head_dim": 8, "qk_norm": False})
    one = {"kind": "modules", "number": 1, "kept": 1, "scores": "softmax", "head_dim": 8}
    modules = build("mot", mixer=one)
    for own, other in zip(usual.blocks, modules.blocks):
        other.queries.weight.copy_(own.qkv.weight[:, :8])
        other.kv.weight.copy_(own.qkv.weight[:, 8:])
        other.outs.weight.copy_(own.out.weight)
    torch.testing.assert_close(*both(usual, modules), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["kronecker", "independent"])
def test_mixed_heads_are_attention_by_the_full_matrix(mixing):
    """Made of W x I, or of blocks; 4 heads of 8 channels."""
    usual, mixed_ = build("mot"), build("mot", mixer={"kind": "mixed_heads", "mixing": mixing})

    def full(weight):
        maps = [torch.kron(w, torch.eye(8)) if mixing == "kronecker" else torch.block_diag(*w) for w in weight]
        return torch.cat(maps)

    for own, other in zip(usual.blocks, mixed_.blocks):
        for name in ("qkv", "out"):
            weights = getattr(other, name).weight
            getattr(own, name).weight.copy_(torch.stack([full(weight) for weight in weights]))
    torch.testing.assert_close(*both(usual, mixed_), **CLOSE)
    saved = 4 * 32 * (32 - {"kronecker": 4, "independent": 8}[mixing]) * 2 * 2 * LAYOUT.modality.numel()
    assert usual.flops(LAYOUT) - mixed_.flops(LAYOUT) == saved


@torch.no_grad()
def test_heads_that_every_token_keeps_are_plain_attention():
    selected = set_to(build("mot", mixer={"kind": "selected", "kept": 4}), 0.0, "head_router")
    torch.testing.assert_close(*both(build("mot"), selected), **CLOSE)


@torch.no_grad()
def test_a_head_sees_only_tokens_that_kept_it():
    backbone = build("mot", layers=1, mixer={"kind": "selected", "kept": 1})
    block, plan, x = backbone.blocks[0], backbone.plan(TEXTS), inputs(*TEXTS.shape)
    normed = block.attention_norm(plan.routing.sort(x.flatten(0, 1)), plan.routing)
    _, bits = block.parts.mixer._choose(block.head_router(normed, plan.routing))
    chosen = plan.routing.unsort(bits).view(*TEXTS.shape, 4).argmax(-1)
    changed = x.clone()
    changed[0, 1, ::2] *= 1.001  # which leaves its choice as it is
    backbone.double()
    moved = (backbone(changed.double(), TEXTS) != backbone(x.double(), TEXTS)).any(-1)[0]
    document = TEXTS.document[0] == TEXTS.document[0, 1]
    reached = document & (chosen[0] == chosen[0, 1]) & (torch.arange(TEXTS.shape[1]) > 1)
    reached[1] = True
    assert torch.equal(moved, reached)


@torch.no_grad()
@pytest.mark.parametrize("segment, layout", [(1, TEXTS), (24, TEXTS)], ids=["one token", "all tokens"])
def test_segments_of_one_token_or_of_all_are_full_attention(segment, layout):
    combined = build("mot", mixer={"kind": "combiner", "segment": segment})
    torch.testing.assert_close(*both(build("mot"), combined, layout), **CLOSE)


def test_segments_are_pictures_and_runs_between_them():
    layout = pack([[words(4), picture(1, 3), words(2)], [words(2)]], MODALITIES, 24).layout
    places = build("dense").batch(layout).places[1]
    first = combiner.segments(places, 3)[0]
    assert (layout.modality[0] == 1).nonzero().flatten().tolist() == [6, 7, 8]  # the picture
    assert first[:10].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert (first.diff() >= 0).all() and first[layout.document[0] == 0].max() < first[layout.document[0] == 1].min()


@torch.no_grad()
def test_a_summary_is_its_formula():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.double) for _ in range(3))
    keys, values = combiner.with_summaries(q, k, v, torch.tensor([[0, 0, 0, 1, 1]]), 2)
    top_q, top_k = q[:, :, :3].amax(2), k[:, :, :3].amax(2)
    weights = torch.softmax((top_q[:, :, None] @ k[:, :, :3].transpose(2, 3)) / 2, -1)
    torch.testing.assert_close(keys[:, :, 5], top_k)
    torch.testing.assert_close(values[:, :, 5:6], weights @ v[:, :, :3])


@torch.no_grad()
def test_linear_attention_is_its_sums():
    backbone = double(build("mot", layers=1, mixer="linear", feed_forward="none"))
    block, x = backbone.blocks[0], inputs(*LAYOUT.shape).double()
    plan = backbone.plan(LAYOUT)
    flat = plan.routing.sort(x.flatten(0, 1))
    y = plan.routing.unsort(block.parts.mixer.forward(block, flat, plan, None)).view(x.shape)
    qkv = plan.routing.unsort(block.qkv(flat, plan.routing)).view(*LAYOUT.shape, 3, 4, 8)
    seen = plan.made["seen in the pass"][:, 0]
    maps = block.features

    def mapped(t, at):
        product = torch.einsum("bshk,hjk->bshj", t, maps[at])
        return torch.softmax(torch.cat([product, -product], -1), -1)

    q, k, v = mapped(qkv[:, :, 0], 0), mapped(qkv[:, :, 1], 1), qkv[:, :, 2]
    weights = torch.einsum("bqhf,bkhf->bhqk", q, k) * seen[:, None]
    want = torch.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdim=True), v).flatten(2)
    want = plan.routing.unsort(block.out(plan.routing.sort(want.flatten(0, 1)), plan.routing)).view(x.shape)
    torch.testing.assert_close(y, want, **CLOSE)


def test_the_delta_rule_in_chunks_is_the_rule_step_by_step():
    """Forward and backward, over documents that begin anywhere and decays that leave nothing."""
    torch.manual_seed(0)
    q, k, v, g = (torch.randn(2, 3, 37, 8, dtype=torch.double) for _ in range(4))
    given = [q, F.normalize(k, dim=-1), v, -20 * g.square(), torch.rand(2, 3, 37, dtype=torch.double)]
    start, state = torch.rand(2, 37) < 0.15, torch.randn(2, 3, 8, 8, dtype=torch.double)
    found = []
    for rule in (delta_rule.delta_rule, delta_rule.by_steps):
        leaves = [t.clone().requires_grad_() for t in given]
        out, last = rule(*leaves, start, state)
        (out.square().sum() + last.square().sum()).backward()
        found.append([out.detach(), last.detach(), *(t.grad for t in leaves)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


def test_what_was_written_by_orthonormal_keys_is_recalled_exactly():
    keys = torch.eye(8, dtype=torch.double)[None, None]
    values = torch.randn(1, 1, 8, 8, dtype=torch.double)
    start, state = torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1, 1, 8, 8, dtype=torch.double)
    _, written = delta_rule.delta_rule(keys, keys, values, 0 * values, torch.ones(1, 1, 8).double(), start, state)
    torch.testing.assert_close(keys @ written, values)


# ---------------------------------------------------------------- feed-forwards


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


# ---------------------------------------------------------------- routers


def logits_of(score):
    return torch.tensor(score).log()


def pool_of(n, modality=None, **state):
    none = torch.full((n, 2), -1)
    modality = torch.zeros(n, dtype=torch.long) if modality is None else modality
    return Pool(None, torch.arange(n), torch.ones(n, dtype=torch.bool), modality, none, 0.01, State(**state))


@torch.no_grad()
def test_equal_experts_behind_a_hot_gate_are_one_feed_forward():
    """Every expert runs, by weights that sum to 1; and with the coldest gate one expert runs alone."""
    hot = {"kind": "gumbel", "hottest": 1e6, "threshold": 0.0}
    usual, many = build("mot"), build("mot", experts=3, router=hot).train()
    for own, other in zip(usual.blocks, many.blocks):
        other.ffn.feed_forward.gate_up.weight.copy_(own.ffn.gate_up.weight.repeat_interleave(3, 0))
        other.ffn.feed_forward.down.weight.copy_(own.ffn.down.weight.repeat_interleave(3, 0))
        other.ffn.progress = 0.0
    torch.testing.assert_close(*both(usual, many), **CLOSE)
    router = many.blocks[0].ffn.choose
    cold = replace(router, coldest=1e-3, threshold=0.001)
    alone = cold.choose(torch.randn(50, 3), pool_of(50, learns=True, progress=1.0))
    assert sum(alone.counts) == pytest.approx(50, abs=2)
    assert sum(router.choose(torch.randn(50, 3), pool_of(50)).counts) == 50
    assert router.temperature(0.0) == 1e6 and router.temperature(1.0) == pytest.approx(0.3)


def test_a_random_router_draws_by_document_and_settles_afterwards():
    router = build("mot", experts=4, router="random").blocks[1].ffn.choose
    pool = pool_of(12, learns=True, number=5)
    pool.group = torch.arange(12) // 3
    torch.manual_seed(0)
    drawn = {tuple(router.choose(torch.zeros(12, 4), pool).counts.tolist()) for _ in range(20)}
    assert len(drawn) > 3 and all(count % 3 == 0 for counts in drawn for count in counts)
    assert router.choose(torch.zeros(12, 4), pool_of(12, number=5)).counts.tolist() == [0, 12, 0, 0]


def test_mutual_information_is_that_of_the_counts():
    modality = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert mutual_information(apart, pool_of(4, modality)).item() == pytest.approx(-math.log(2))
    assert mutual_information(torch.full((4, 2), 0.5), pool_of(4, modality)).item() == pytest.approx(0.0, abs=1e-7)


def test_roughness_is_the_divergence_between_neighbours():
    layout = pack([[words(2), picture(2, 2)]], MODALITIES, 12).layout
    tokens = layout.modality.numel()
    routing = Routing(None, None, torch.tensor([tokens], dtype=torch.int32), [tokens], 0)
    pool = make_pools(layout, routing, [tokens], [2], False, on_grid=True).each([0.0], State())[0]
    a, b, c, d = (layout.modality[0] == 1).nonzero().flatten().tolist()
    assert {(i, j) for i, row in enumerate(pool.beside.tolist()) for j in row if j >= 0} == {
        (a, b),
        (c, d),
        (a, c),
        (b, d),
    }
    logits = torch.zeros(tokens, 2)
    assert roughness(logits, pool).item() == 0.0
    logits[a] = logits_of([0.8, 0.2])
    want = 2 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)) / 4
    assert roughness(logits, pool).item() == pytest.approx(want, rel=1e-5)


def test_router_losses_are_learned_from():
    router = {"kind": "token_choice", "information_weight": 0.1, "smooth_weight": 0.1}
    plain, more = (build("moe4x", router=given).train() for given in ("token_choice", router))
    losses = []
    for backbone in (plain, more):
        backbone(inputs(*LAYOUT.shape), LAYOUT)
        losses.append(backbone.auxiliary_loss())
    losses[1].backward()
    assert not torch.allclose(losses[0], losses[1]) and more.blocks[0].ffn.router.grad.any()


# ---------------------------------------------------------------- depth and residual


@torch.no_grad()
def test_groups_whose_blocks_all_run_are_the_usual_stack():
    usual, blocks = build("mot"), build("mot", depth={"kind": "blocks", "group": 2, "run": 2})
    blocks.load_state_dict(usual.state_dict(), strict=False)
    x = inputs(*LAYOUT.shape)
    assert torch.equal(blocks(x, LAYOUT), usual(x, LAYOUT))


def test_a_picture_passes_through_one_window_of_blocks_and_its_router_learns():
    backbone = build("mot", layers=3, depth={"kind": "blocks", "group": 3, "run": 1})
    x = inputs(*LAYOUT.shape).requires_grad_()
    plan = backbone.plan(LAYOUT)
    backbone(x, plan).square().mean().backward()
    window, weight = plan.made["windows of 0"]
    pictures = LAYOUT.modality == 1
    assert (window[pictures] >= 0).all() and (window[~pictures] == -1).all()
    torch.testing.assert_close(weight.detach(), torch.ones_like(weight))
    assert backbone.blocks[0].choice.weight.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
def test_two_streams_that_are_read_as_their_sum_are_one(frozen):
    dual = build("mot", residual={"kind": "dual", "frozen_tokens": frozen})
    torch.testing.assert_close(*both(build("mot"), dual), **CLOSE)


@torch.no_grad()
def test_a_sublayer_may_read_one_stream_alone():
    dual = build("mot", layers=1, residual={"kind": "dual", "feed_forward": "token"})
    want, got = both(build("mot", layers=1), dual)
    torch.testing.assert_close(got, want, **CLOSE)  # in the first layer the context is still zero
    dual = build("mot", layers=2, residual={"kind": "dual", "feed_forward": "token"})
    want, got = both(build("mot", layers=2), dual)
    assert not torch.allclose(want, got, atol=1e-3)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"mixer": "pool"}, "backbone.mixer.kind: pool alone never lets a picture see its caption"),
        (
            {"mixer": ["pool", "attention"], "depth": {"kind": "blocks", "group": 2}},
            "backbone.mixer.kind: with depth=blocks a picture may pass through pooled layers alone",
        ),
        ({"mixer": [{"kind": "pool", "size": 2}, "attention"]}, "backbone.mixer.size: must be odd"),
        ({"mixer": {"kind": "selected", "kept": 5}}, "backbone.mixer.kept: must be from 1 to the heads, 4, got 5"),
        ({"mixer": "selected", "head_choice": "routed"}, "backbone.mixer.kind: selected chooses heads itself"),
        ({"mixer": "stick_breaking", "bias": "gaussian"}, "backbone.mixer.kind: stick_breaking weighs keys by their"),
        (
            {"mixer": {"kind": "mixed_heads", "mixing": "kroneker"}},
            "mixer.mixing: 'kroneker' is not known",
        ),
        ({"mixer": "mixed_heads", "kv_heads": 2}, "backbone.mixer.kind: mixed_heads reads the width as heads; drop"),
        ({"mixer": {"kind": "combiner", "segment": 0}}, "backbone.mixer.segment: must be a positive integer"),
        ({"mixer": "combiner", "reach": "window"}, "backbone.mixer.kind: combiner says itself what a query sees"),
        ({"mixer": {"kind": "modules", "kept": 9}}, "backbone.mixer.kept: must be from 1 to the number of modules, 4"),
        ({"mixer": "kda"}, "backbone.mixer.bidirectional: KDA reads one way and tokens of 'image' see later ones"),
        ({"feed_forward": {"kind": "nested", "divisors": [0]}}, "feed_forward.divisors: must be from 1"),
        ({"feed_forward": "nested", "experts": 2}, "backbone.feed_forward.kind: nested is no expert"),
        ({"feed_forward": "nested", "activation": "poly_norm"}, "nested needs a function of each channel alone"),
        ({"feed_forward": {"kind": "slices", "slices": 5}}, "backbone.feed_forward.slices: 5 must divide the width"),
        ({"feed_forward": {"kind": "hidden_groups", "groups": 7}}, "feed_forward.groups: 7 must divide the width"),
        ({"feed_forward": {"kind": "continued_fraction", "least": 0.0}}, "feed_forward.least: must be above 0"),
        ({"feed_forward": {"kind": "adapted", "adapter": "domain"}}, "feed_forward.adapter: 'domain' is not known"),
        ({"feed_forward": {"kind": "adapted", "chosen": 9}}, "feed_forward.chosen: must be from 1 to choices, 4"),
        ({"feed_forward": {"kind": "adapted", "unit": "nested"}}, "feed_forward.unit: takes gated or plain"),
        ({"feed_forward": "domains"}, "feed_forward.domains: must name at least one, and each once, got"),
        ({"feed_forward": {"kind": "domains", "domains": ["gate"]}}, "feed_forward.domains: 'gate' cannot name param"),
        (
            {"feed_forward": {"kind": "domains", "domains": ["books"], "use": "book"}},
            "feed_forward.use: 'book' is not among the domains; did you mean 'books'",
        ),
        ({"depth": {"kind": "blocks", "group": 3}}, "backbone.depth.group: 3 must divide backbone.layers, 2"),
        ({"depth": {"kind": "blocks", "group": 2, "run": 3}}, "backbone.depth.run: must be from 1 to the layers"),
        (
            {"mixer": "linear", "head_choice": "routed"},
            "backbone.head_choice: no mixer here reads it",
        ),
        ({"mixer": ["pool", "linear"], "reach": "window"}, "backbone.reach: no mixer here reads it"),
        ({"residual": {"kind": "dual", "mixer": "context"}}, "backbone.residual.mixer: the context begins at zero"),
        ({"residual": "dual", "depth": "token_skip"}, "backbone.residual.kind: dual is for all layers and tokens"),
        ({"experts": 2, "router": {"kind": "gumbel", "coldest": 9.0}}, "backbone.router.coldest: must be above 0"),
        ({"experts": 2, "router": {"kind": "token_choice", "weight": "none"}}, "router.weight: 'none' is not known"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(options, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mot", **options)


@pytest.mark.parametrize("options", [{"depth": "token_skip"}, {"depth": {"kind": "blocks", "group": 2}},
                                     {"bias": "gaussian"}], ids=str)  # fmt: skip
def test_what_is_for_pictures_that_are_there_as_a_whole_is_refused_without_them(options):
    """A choice among tokens that come one by one would see later ones."""
    _, config = backbones.load("mot", {"dim": 32, "layers": 2, "heads": 4, "multiple_of": 32, **options})
    with pytest.raises(InputError, match="is for bidirectional spans, which no modality here has; drop it"):
        Backbone(config, [TEXT, SPEECH])
