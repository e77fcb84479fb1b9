"""Parts of a block: each reduces exactly to the usual block, they are read by name and by pattern, one is one file."""

import math
import sys
from pathlib import Path

import pytest
import torch
from tiny import MODALITIES, mixed, picture, words
from tiny_backbones import build, inputs, set_to

from mot_gen.backbone import load, parts
from mot_gen.backbone.attention import Places
from mot_gen.backbone.depths import token_skip
from mot_gen.backbone.named_parts import ROLES
from mot_gen.backbone.reaches.window import Reach
from mot_gen.backbone.routing import Routing
from mot_gen.errors import InputError
from mot_gen.packing import pack

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
LAYOUT = pack(mixed(4), MODALITIES, 48).layout


def with_weights_of(other, **options):
    """The backbone of these options, with the parameters of another that it shares by name."""
    made = build("mot", **options)
    made.load_state_dict(other.state_dict(), strict=False)
    return made


@torch.no_grad()
def test_a_window_as_long_as_a_row_is_full_attention():
    usual, x = build("mot"), inputs(*LAYOUT.shape)
    wide = with_weights_of(usual, reach={"kind": "window", "size": LAYOUT.shape[1]})
    assert torch.equal(wide(x, LAYOUT), usual(x, LAYOUT)) and wide.flops(LAYOUT) == usual.flops(LAYOUT)
    narrow = with_weights_of(usual, reach={"kind": "window", "size": 3})
    assert not torch.allclose(narrow(x, LAYOUT), usual(x, LAYOUT), atol=1e-3)


def test_what_a_window_sees():
    """Three tokens back, and of a picture larger than the window all."""
    layout = pack([[words(4), picture(2, 3), words(4)]], MODALITIES, 20).layout
    places = Places.of(layout, torch.tensor([m.bidirectional for m in MODALITIES]))
    seen = Reach(3).sees(places[:, :, None], places[:, None])[0]
    first = int((layout.modality[0] == 1).nonzero()[0])
    assert seen[3].nonzero().flatten().tolist() == [1, 2, 3]
    assert seen[first].nonzero().flatten().tolist() == [first - 2, first - 1, *range(first, first + 6)]
    assert seen[first + 7].nonzero().flatten().tolist() == [first + 5, first + 6, first + 7]


@torch.no_grad()
def test_heads_that_are_all_chosen_alike_are_plain_attention():
    usual, x = build("mot"), inputs(*LAYOUT.shape)
    for shared in (0, 1, 3):
        choice = {"kind": "routed", "shared": shared, "top_k": 4 - shared}
        routed = set_to(with_weights_of(usual, head_choice=choice), 0.0, "head_router")
        torch.testing.assert_close(routed(x, LAYOUT), usual(x, LAYOUT), **CLOSE)


@torch.no_grad()
def test_a_head_that_is_not_chosen_adds_nothing():
    backbone, x = build("mot", layers=1, head_choice={"kind": "routed", "shared": 1, "top_k": 1}), inputs(*LAYOUT.shape)
    block = backbone.blocks[0]
    plan = backbone.plan(LAYOUT)
    flat = plan.routing.sort(x.flatten(0, 1))
    weights = block.parts.head_choice.weigh(block, flat, torch.ones(len(flat), 4 * 8), plan).unflatten(1, (4, 8))
    assert ((weights != 0).all(2).sum(1) == 2).all() and (weights[:, 0] != 0).all()
    a = 2 * block.head_router(flat, plan.routing)[:, 4:].softmax(-1)
    torch.testing.assert_close(weights[:, 0, 0], a[:, 0])  # one shared head: its own softmax is 1
    torch.testing.assert_close(weights[:, 1:, 0].sum(1), a[:, 1])  # one chosen head


def test_routed_heads_are_balanced_by_a_loss_that_they_learn_from():
    backbone = build("mot", head_choice={"kind": "routed", "top_k": 2}).train()
    backbone(inputs(*LAYOUT.shape), LAYOUT)
    loss = backbone.auxiliary_loss()
    loss.backward()
    assert loss > 0 and all(block.head_router.weight.grad.any() for block in backbone.blocks)
    assert backbone.auxiliary_loss() == 0.0  # told once


@torch.no_grad()
def test_a_polynomial_of_one_linear_term_is_relu():
    usual = build("mot", feed_forward="plain", activation="relu")
    poly = with_weights_of(usual, feed_forward="plain", activation="poly_relu")
    set_to(set_to(poly, 0.0, ".learned."), 1.0, ".learned.linear")
    x = inputs(*LAYOUT.shape)
    torch.testing.assert_close(poly(x, LAYOUT), usual(x, LAYOUT), **CLOSE)


@torch.no_grad()
def test_poly_norm_is_its_formula():
    x = inputs(5)
    routing = Routing(None, None, torch.tensor([5], dtype=torch.int32), [5], 0)
    unit = build("dense", feed_forward="plain", activation="poly_norm").blocks[0].ffn.learned
    terms = [power / power.square().mean(-1, keepdim=True).sqrt() for power in (x**3, x**2, x)]
    factors = (unit.cubic, unit.square, unit.linear)
    want = sum(factor * term for factor, term in zip(factors, terms)) + unit.constant
    torch.testing.assert_close(unit(x, routing), want, **CLOSE)


@torch.no_grad()
def test_tokens_that_all_stay_are_the_usual_layer():
    usual, x = build("mot"), inputs(*LAYOUT.shape)
    skipping = with_weights_of(usual, depth={"kind": "token_skip", "share": 1.0})
    set_to(skipping, 0.0, ".skip.")
    assert torch.equal(skipping(x, LAYOUT), usual(x, LAYOUT))


@torch.no_grad()
def test_a_dropped_token_is_weighed_and_seen_by_none():
    backbone, x = build("mot", layers=1, depth={"kind": "token_skip", "share": 0.5}), inputs(*LAYOUT.shape)
    batch, block, plan = backbone.batch(LAYOUT), backbone.blocks[0], backbone.plan(LAYOUT)
    weight = 1 + 0.2 * torch.tanh(plan.routing.unsort(block.skip(plan.routing.sort(x.flatten(0, 1)), plan.routing)))
    kept = token_skip._kept(batch, weight.view(LAYOUT.shape), 0.5)
    dropped = ~kept
    for span in LAYOUT.span[LAYOUT.modality == 1].unique():
        own = (LAYOUT.span == span) & (LAYOUT.modality == 1)
        for row in own.any(1).nonzero().flatten():
            held = weight.view(LAYOUT.shape)[row][own[row]]
            assert int(kept[row][own[row]].sum()) == round(len(held) / 2)
            assert held[kept[row][own[row]]].min() >= held[dropped[row][own[row]]].max()
    assert kept[LAYOUT.modality != 1].all()
    left = plan.routing.unsort(block(plan.routing.sort(x.flatten(0, 1)), plan)).view(x.shape)
    torch.testing.assert_close(left[dropped], (weight.view(*LAYOUT.shape, 1) * x)[dropped], **CLOSE)
    # A small change of a dropped token, which leaves it dropped, is felt by no other.
    moved = torch.where(dropped[..., None], x * 1.0001, x)
    after = plan.routing.unsort(block(plan.routing.sort(moved.flatten(0, 1)), plan)).view(x.shape)
    torch.testing.assert_close(after[kept], left[kept], **CLOSE)


def test_shares_fall_with_depth_as_in_the_paper():
    """cos(pi l / (L - 1)) / 2 + 0.5, all above 0.85, and at least 0.15."""
    backbone = build("mot", layers=7, depth="token_skip")
    shares = [block.parts.depth.kept_share(block) for block in backbone.blocks]
    want = [math.cos(math.pi * layer / 6) / 2 + 0.5 for layer in range(7)]
    assert shares[:2] == [1.0, 1.0] and shares[-2:] == [0.15, 0.15]
    assert shares[2:5] == pytest.approx(want[2:5])


def test_layers_take_parts_in_turn():
    backbone = build("mot", layers=5, mixer=[{"kind": "mamba", "bidirectional": "causal"}, "attention"])
    assert ["qkv" in dict(block.named_children()) for block in backbone.blocks] == [False, True, False, True, False]
    kinds = [type(block.parts.reach).__module__ for block in build("mot", reach=["full", "window"], layers=3).blocks]
    assert [kind.rpartition(".")[2] for kind in kinds] == ["full", "window", "full"]


def test_a_layer_may_have_other_options_than_the_flat_ones():
    backbone = build("mot", mixer=["attention", {"kind": "attention", "kv_heads": 1}])
    assert [block.qkv.weight.shape[1] for block in backbone.blocks] == [(4 + 8) * 8, (4 + 2) * 8]


PART = '''
"""Each token is mixed with the mean of what it sees: attention whose scores are all equal."""

from dataclasses import dataclass

import torch

from mot_gen.backbone.attention import attend
from mot_gen.backbone.mixers import attention


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """strength: of the mean."""

    strength: float = 1.0

    def forward(self, block, x, plan, cache):
        mask, width = plan.made[block.sight], block.head_dim
        heads = [block.heads, block.kv_heads, block.kv_heads]
        qkv = plan.routing.unsort(block.qkv(x, plan.routing)).view(plan.rows, -1, sum(heads), width)
        q, k, v = qkv.transpose(1, 2).split_with_sizes(heads, 1)
        if cache is not None:
            k, v = cache.write(k, v, mask.shape[-1])
        mixed = attend(torch.zeros_like(q), k, v, mask).transpose(1, 2).reshape(x.shape[0], -1)
        return self.strength * block.out(plan.routing.sort(mixed), plan.routing)
'''

BIAS = '''
"""Scores fall with distance (ALiBi, arXiv 2108.12409)."""

from mot_gen.backbone import parts
from mot_gen.backbone.named_parts import ROLES


class Bias(parts.Bias):
    """It has no options."""

    def scores(self, block, query, key):
        slope = 2.0 ** (-8 * (query.index.new_zeros(block.heads).float().add(1).cumsum(0)) / block.heads)
        distance = (query.index[:, :, None] - key.index[:, None]).abs()
        return -slope[:, None, None] * distance[:, None]
'''


@torch.no_grad()
def test_a_part_of_your_own_is_one_file(tmp_path, monkeypatch):
    """A mixer and a bias in a package of one's own, named by dotted path; packed as alone, and cached as at once."""
    package = tmp_path / "own_parts"
    package.mkdir()
    for name, text in (("__init__", ""), ("averaging", PART), ("falling", BIAS)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    named = {"mixer": [{"kind": "own_parts.averaging", "strength": 0.5}, "attention"], "bias": "own_parts.falling"}
    backbone, x = build("mot", **named), inputs(*LAYOUT.shape)
    whole, cache = backbone(x, LAYOUT), backbone.init_cache(*LAYOUT.shape)
    torch.testing.assert_close(backbone(x, LAYOUT, cache), whole, **CLOSE)
    assert not torch.allclose(whole, build("mot")(x, LAYOUT), atol=1e-3)
    with pytest.raises(InputError, match=r"backbone.mixer.strngth is not known.*did you mean 'strength'"):
        load("mot", {"dim": 32, "layers": 1, "heads": 4, "mixer": {"kind": "own_parts.averaging", "strngth": 1.0}})
    for name in list(sys.modules):
        if name.startswith("own_parts"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"mixer": "attenton"}, "backbone.mixer: 'attenton' is not known.*did you mean 'attention'"),
        ({"mixer": []}, "backbone.mixer: an empty list"),
        ({"mixer": {"size": 3}}, "backbone.mixer: should be a kind"),
        ({"mixer": "mot_gen.errors"}, "backbone.mixer: module mot_gen.errors has no Mixer"),
        ({"reach": {"kind": "window", "size": 0}}, "backbone.reach.size: must be a positive integer, got 0"),
        ({"reach": {"kind": "window", "size": "far"}}, "backbone.reach.size should be a valid integer, got 'far'"),
        ({"reach": {"kind": "window", "length": 3}}, "backbone.reach.length is not known"),
        ({"head_choice": {"kind": "routed", "top_k": 5}}, "backbone.head_choice.top_k: must be from 1 to 4"),
        ({"head_choice": {"kind": "routed", "shared": 4}}, "backbone.head_choice.shared: must be from 0 to 3"),
        ({"depth": {"kind": "token_skip", "share": 0.0}}, "backbone.depth.share: must be above 0"),
        ({"mixer": {"kind": "attention", "kv_heads": 3}}, "backbone.mixer.kv_heads: 3 must divide"),
        ({"mixer": ["mamba", "attention"]}, "backbone.mixer.bidirectional: Mamba reads one way"),
        ({"feed_forward": {"kind": "experts", "experts": {"txt": 2}}}, "backbone.feed_forward.experts: 'txt'"),
        ({"widths": {"image": 16}, "activation": "poly_norm"}, "poly_norm has no norm for towers of different widths"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(options, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mot", **options)


@pytest.mark.parametrize("role", ROLES)
def test_no_file_of_a_part_is_long(role):
    folder = Path(parts.__file__).parent / ROLES[role].package.rpartition(".")[2]
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in folder.glob("*.py")}
    assert max(lengths.values()) <= 120, lengths
