"""Mixers and biases of the relatives of Mixture-of-Transformers: each reduces exactly to what it generalises, and
agrees with an independent form of its formula. In double precision; norms and rotations stay in single."""

import pytest
import torch
import torch.nn.functional as F
from reductions import CLOSE, LAYOUT, TEXTS, both
from tiny import MODALITIES, picture, words
from tiny_backbones import build, inputs, set_to

from mot_gen.backbone.mixers import combiner
from mot_gen.backbone.mixers.stick_breaking import break_sticks
from mot_gen.backbone.recurrent import delta_rule
from mot_gen.packing import pack


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
    backbone = build("mot", layers=1, mixer="linear", feed_forward="none").double()
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
