"""Depths and residuals of the relatives of Mixture-of-Transformers: each reduces exactly to the usual stack."""

import pytest
import torch
from reductions import CLOSE, LAYOUT, both
from tiny_backbones import build, inputs


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
