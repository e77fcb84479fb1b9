"""Experts: one is the dense model; choices by brute force; losses by their formulas; counts of parameters and FLOPs."""

import pytest
import torch
import torch.nn.functional as F
from tiny import MODALITIES, generator, mixed, words
from tiny_backbones import build, documents_of, inputs

from mot_gen.backbone import load
from mot_gen.backbone.experts.moe import MixtureOfExperts
from mot_gen.backbone.experts.pools import make_pools
from mot_gen.backbone.routers import expert_choice, token_choice
from mot_gen.backbone.routing import Routing
from mot_gen.errors import InputError
from mot_gen.packing import pack
from mot_gen.sequence import PADDING, Modality

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
TOKEN_CHOICE = {"router": "token_choice", "top_k": 2}


def packed(count=4, length=48):
    return pack(mixed(count), MODALITIES, length).layout


class Scale(torch.nn.Module):
    """Experts that multiply by 1, 2, 3, ...: an independent stand-in for the feed-forward."""

    def forward(self, x, routing: Routing):
        factor = torch.arange(1.0, len(routing.counts) + 1).repeat_interleave(torch.tensor(routing.counts))
        return x * factor[:, None]


def layer(router=None, experts=4):
    built = MixtureOfExperts(8, [experts], Scale(), router or expert_choice.Router(), [0.5])
    torch.nn.init.normal_(built.router, generator=generator(1))
    return built


def tokens_choose(top_k=1, z_weight=0.25):
    return token_choice.Router(top_k, z_weight)


def one_pool(layout, experts=4, expert_choice=True):
    tokens = layout.modality.numel()
    routing = Routing(None, None, torch.tensor([tokens], dtype=torch.int32), [tokens], 0)
    return make_pools(layout, routing, [tokens], [experts], expert_choice)


@torch.no_grad()
def test_expert_choice_is_its_definition():
    layout, moe = packed(), layer()
    x = torch.randn(layout.modality.numel(), 8, generator=generator(2))
    score, want = F.softmax(x @ moe.router.T, -1), torch.zeros_like(x)
    row = torch.arange(len(layout.document))[:, None].expand(layout.shape)
    keys = torch.stack([row, layout.document], -1).flatten(0, 1)
    for key in keys.unique(dim=0):
        members = (keys == key).all(-1).nonzero().flatten()
        for expert in range(4):
            taken = members[score[members, expert].topk(max(1, round(len(members) / 4))).indices]
            want[taken] += score[taken, expert, None] * (expert + 1) * x[taken]
    torch.testing.assert_close(moe(x, one_pool(layout)), want, **CLOSE)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@torch.no_grad()
def test_token_choice_drops_nothing(top_k):
    layout, moe = packed(), layer(tokens_choose(top_k))
    x = torch.randn(layout.modality.numel(), 8, generator=generator(2))
    x += 3 * moe.router[0]  # nearly all tokens want the first expert
    score = F.softmax(x @ moe.router.T, -1)
    best = score.topk(top_k, -1)
    want = (best.values * (best.indices + 1)).sum(-1, keepdim=True) * x
    torch.testing.assert_close(moe(x, one_pool(layout, expert_choice=False)), want, **CLOSE)


def test_losses_are_their_formulas_over_what_is_no_padding():
    layout, moe = packed(), layer(tokens_choose())
    x = torch.randn(layout.modality.numel(), 8, generator=generator(2))
    moe(x, one_pool(layout, expert_choice=False))
    logits = x[layout.document.flatten() != PADDING] @ moe.router.T
    score = logits.softmax(-1)
    share = torch.bincount(score.argmax(-1), minlength=4) / len(score)
    balance, z = 4 * (share * score.mean(0)).sum(), logits.exp().sum(-1).log().square().mean()
    found = moe.auxiliary_loss()
    torch.testing.assert_close(found, 0.5 * balance + 0.25 * z)
    found.backward()
    assert moe.router.grad.abs().sum() > 0
    assert moe.auxiliary_loss() == 0.0  # told once


def test_descent_on_the_balance_loss_balances_the_load():
    layout, moe = packed(), layer(tokens_choose())
    moe.choose, moe.balance_weights = tokens_choose(z_weight=0.0), [1.0]
    real = layout.document.flatten() != PADDING
    x = torch.randn(layout.modality.numel(), 8, generator=generator(2)) + moe.router[0].detach()
    busiest = []
    for _ in range(200):
        moe(x, one_pool(layout, expert_choice=False))
        share = torch.bincount((x @ moe.router.T).argmax(-1)[real], minlength=4) / real.sum()
        busiest.append(share.max().item())
        moe.auxiliary_loss().backward()
        with torch.no_grad():
            moe.router -= 0.3 * moe.router.grad
            moe.router.grad = None
    assert busiest[0] > 0.8 and sum(busiest[-20:]) / 20 < 0.4  # of 0.25 at best


@torch.no_grad()
def test_experts_that_are_alike_are_one():
    """top_k = E weighs each by its score, and scores sum to one."""
    dense, moe = build("dense"), build("moe4x", router="token_choice", top_k=4)
    for name, parameter in moe.named_parameters():
        if not name.endswith("router"):
            parameter.copy_(dense.get_parameter(name.replace("ffn.feed_forward", "ffn")).expand_as(parameter))
    layout = packed()
    x = inputs(*layout.shape)
    torch.testing.assert_close(moe(x, layout), dense(x, layout), **CLOSE)


@torch.no_grad()
def test_one_expert_is_the_dense_feed_forward():
    dense = build("dense").blocks[0].ffn
    layout = packed()
    x = torch.randn(layout.modality.numel(), 32, generator=generator(3))
    pools = one_pool(layout, experts=1)
    for router in (expert_choice.Router(), tokens_choose()):
        moe = MixtureOfExperts(32, [1], dense, router, [0.0])
        torch.nn.init.normal_(moe.router)
        torch.testing.assert_close(moe(x, pools), dense(x, Routing(None, None, None, [len(x)], 0)), **CLOSE)


@pytest.mark.parametrize("kind", ["moe4x", "hybrid"])
@torch.no_grad()
def test_only_expert_choice_sees_what_is_later_and_says_so(kind):
    layout = documents_of([words(30)])
    x, other = inputs(*layout.shape), inputs(*layout.shape, seed=1)
    late = torch.arange(layout.shape[1]) >= 16
    for options, causal in (({}, False), (TOKEN_CHOICE, True)):
        backbone = build(kind, **options)
        before, after = backbone(x, layout), backbone(torch.where(late[:, None], other, x), layout)
        assert backbone.causal is causal
        assert torch.allclose(after[:, ~late], before[:, ~late], atol=1e-4) is causal


@torch.no_grad()
def test_over_a_cache_the_router_is_the_best_expert_alone():
    """The rule of generation: expert choice with the weights of a top-1 token choice gives the latter's output."""
    chooses, chosen = build("moe4x"), build("moe4x", router="token_choice", top_k=1)
    chosen.load_state_dict(chooses.state_dict())
    layout = documents_of(mixed(3)[2])
    x = inputs(*layout.shape)
    got = chooses(x, layout, chooses.init_cache(*layout.shape))
    torch.testing.assert_close(got, chosen(x, layout), **CLOSE)


def test_the_hybrids_experts_belong_to_text():
    backbone = build("hybrid")
    owners = backbone.untied_parameters()
    assert owners["blocks.0.ffn.feed_forward.down.weight"] == [0, 0, 0, 0, 1, 2]
    assert owners["blocks.0.qkv.weight"] == [0, 1, 2]
    assert backbone.active_parameters() - build("mot").active_parameters() == 2 * 4 * 32  # the routers


def test_symbiotic_groups_route_among_their_own_and_share_one():
    """A token of a group depends on its own experts and on the shared one; every group has its own balance weight."""
    backbone = build("symbiotic", layers=1, balance_weight={"text": 1.0, "image": 0.0}, z_weight=0.0)
    owners = backbone.untied_parameters()
    assert owners["blocks.0.ffn.router"] == [0] * 4 + [1] * 4 + [2] * 4
    assert not any("shared" in name or "qkv" in name for name in owners)
    backbone(inputs(*packed().shape), packed())
    backbone.auxiliary_loss().backward()
    grad = backbone.blocks[0].ffn.router.grad
    assert grad[:4].any() and not grad[4:].any()


@torch.no_grad()
def test_the_shared_expert_is_added_to_the_routed_ones():
    layout, routed = packed(), layer(tokens_choose())
    both = MixtureOfExperts(8, [4], Scale(), routed.choose, [0.5], shared=Scale())
    both.router.copy_(routed.router)
    x = torch.randn(layout.modality.numel(), 8, generator=generator(2))
    pools = one_pool(layout, expert_choice=False)
    torch.testing.assert_close(both(x, pools), routed(x, pools) + x)


def test_shared_experts_learn_in_bf16():
    """Under autocast, as training in bf16 has it: near what fp32 gives, with a gradient for every parameter."""
    backbone, layout = build("symbiotic").train(), packed()
    x = inputs(*layout.shape)
    with torch.autocast("cpu", torch.bfloat16):
        learned = backbone(x, layout)
    assert learned.dtype == torch.float32
    learned.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    with torch.no_grad():
        assert (learned - backbone(x, layout)).norm() / learned.norm() < 0.05


def test_total_parameters_at_443m():
    """arXiv 2411.04996: MoE-4x has 1065M, two embeddings of 65,536 among them."""
    chameleon = [Modality("text", vocab_size=65_536 - 4 - 8192), Modality("image", vocab_size=8192)]
    with torch.device("meta"):
        module, config = load("moe4x", {"size": "443M"})
        backbone = module.Backbone(config, chameleon)
    total = sum(p.numel() for p in backbone.parameters()) + 2 * 65_536 * config.dim
    assert total / 1e6 == pytest.approx(1065, abs=1.5)


@pytest.mark.parametrize(
    "kind, options, complaint",
    [
        ("moe4x", {"router": "hash"}, "backbone.router: 'hash'"),
        ("moe4x", {"experts": 0}, "backbone.experts: all needs at least 1, got 0"),
        ("hybrid", {"experts": {"txt": 4}}, "backbone.experts: 'txt'.*did you mean 'text'"),
        ("mot", {"shared_experts": 1}, "backbone.shared_experts: stand beside routed ones"),
        ("hybrid", {"balance_weight": {"txt": 1.0}}, "backbone.balance_weight: 'txt'.*did you mean 'text'"),
        ("moe4x", {"router": "token_choice", "top_k": 5}, "backbone.top_k: must be from 1 .* 4, got 5"),
    ],
)
def test_bad_options_name_their_field(kind, options, complaint):
    with pytest.raises(InputError, match=complaint):
        build(kind, **options)
