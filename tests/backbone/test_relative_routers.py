"""Routers of the relatives of Mixture-of-Transformers: what they choose, and the losses that they add."""

import math
from dataclasses import replace

import pytest
import torch
from reductions import CLOSE, LAYOUT, both
from tiny import MODALITIES, picture, words
from tiny_backbones import build, inputs

from mot_gen.backbone.experts.pools import Pool, RouterState, make_pools
from mot_gen.backbone.experts.router_losses import mutual_information, roughness
from mot_gen.backbone.routing import Routing
from mot_gen.packing import pack


def logits_of(score):
    return torch.tensor(score).log()


def pool_of(n, modality=None, **state):
    none = torch.full((n, 2), -1)
    modality = torch.zeros(n, dtype=torch.long) if modality is None else modality
    return Pool(None, torch.arange(n), torch.ones(n, dtype=torch.bool), modality, none, 0.01, RouterState(**state))


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
    pool = make_pools(layout, routing, [tokens], [2], False, on_grid=True).each([0.0], RouterState())[0]
    a, b, c, d = (layout.modality[0] == 1).nonzero().flatten().tolist()
    neighbours = {(i, j) for i, row in enumerate(pool.beside.tolist()) for j in row if j >= 0}
    assert neighbours == {(a, b), (c, d), (a, c), (b, d)}
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
