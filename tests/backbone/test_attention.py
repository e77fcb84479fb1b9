"""Attention: one mask rule in three forms, SDPA against FlexAttention, rotary positions, the key and value cache."""

import pytest
import torch
from tiny import MODALITIES, generator, mixed, picture, words

from mot_gen.backbone.attention import (
    EMPTY,
    Places,
    attend,
    block_mask,
    dense_mask,
)
from mot_gen.backbone.cache import Cache, KeyValueCache
from mot_gen.backbone.rotary import rotary, rotary_frequencies, rotate
from mot_gen.packing import pack, pack_rows
from mot_gen.sequence import PADDING, Layout

BIDIRECTIONAL = torch.tensor([m.bidirectional for m in MODALITIES])


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def places_of(batch):
    return Places.of(batch.layout, BIDIRECTIONAL)


def brute_force(layout):
    """(B, S, S) bool: the rule of Transfusion's Figure 4, token by token; padding sees earlier padding and itself."""
    rows, length = layout.shape
    visible = torch.zeros(rows, length, length, dtype=torch.bool)
    for b in range(rows):
        for q in range(length):
            for k in range(length):
                if layout.document[b, q] != layout.document[b, k]:
                    continue
                in_image = layout.modality[b, q] == 1 and layout.document[b, q] != PADDING
                visible[b, q, k] = k <= q or (in_image and layout.span[b, q] == layout.span[b, k])
    return visible


def test_the_dense_mask_is_the_rule():
    batch = pack_rows([mixed(4)[:2], mixed(4)[2:], []], MODALITIES, 40)
    mask = dense_mask(places_of(batch), places_of(batch))
    assert mask.shape == (3, 1, 40, 40) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, float("-inf")}
    assert torch.equal(mask[:, 0] == 0, brute_force(batch.layout))


def test_what_a_picture_sees():
    """Every token of a picture reaches all of it and all before it, nothing behind it."""
    batch = pack([[words(2), picture(2, 2), words(2)]], MODALITIES, 12)
    visible = dense_mask(places_of(batch), places_of(batch))[0, 0] == 0
    for q in range(4, 8):
        assert visible[q].nonzero().flatten().tolist() == list(range(8))
    assert visible[3].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_and_sdpa_agree():
    batch = pack(mixed(12), MODALITIES, 128)
    places = places_of(batch)
    shape = (batch.layout.shape[0], 4, 128, 16)
    q, k, v = random(*shape), random(shape[0], 2, 128, 16, seed=1), random(shape[0], 2, 128, 16, seed=2)
    dense = attend(q, k, v, dense_mask(places, places))
    blocks = block_mask(places)
    torch.testing.assert_close(attend(q, k, v, blocks), dense, atol=1e-5, rtol=1e-4)
    assert torch.equal(blocks.mask_mod(*grid(batch.layout.shape)), brute_force(batch.layout)[:, None])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_bf16_attention_is_near_fp32_and_so_are_its_gradients(kv_heads):
    """On a CPU what learns in bf16 goes by products, not by SDPA."""
    batch = pack(mixed(4), MODALITIES, 40)
    rows = batch.layout.shape[0]
    places = places_of(batch)
    mask = dense_mask(places, places)
    inputs = [random(rows, heads, 40, 16, seed=s) for s, heads in enumerate((4, kv_heads, kv_heads))]
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.clone().to(dtype).detach().requires_grad_() for x in inputs]
        out = attend(*given, mask)
        out.square().sum().backward()
        found[dtype] = [out, *(x.grad for x in given)]
        with torch.no_grad():
            torch.testing.assert_close(attend(*given, mask), out, atol=0.02, rtol=0.02)
    for one, other in zip(*found.values()):
        assert (one - other).norm() / one.norm() < 0.01


def grid(shape):
    rows, length = shape
    b, q, k = torch.arange(rows), torch.arange(length), torch.arange(length)
    return b[:, None, None, None], torch.zeros(1, 1, 1, 1, dtype=torch.long), q[:, None], k


def test_attention_is_a_softmax_over_what_is_visible():
    batch = pack(mixed(4), MODALITIES, 40)
    rows = batch.layout.shape[0]
    q, k, v = (random(rows, 2, 40, 8, seed=s) for s in range(3))
    visible = brute_force(batch.layout)[:, None]
    scores = (q @ k.mT / 8**0.5).masked_fill(~visible, float("-inf"))
    places = places_of(batch)
    torch.testing.assert_close(
        attend(q, k, v, dense_mask(places, places)), scores.softmax(-1) @ v, atol=1e-5, rtol=1e-4
    )


def test_rotation_keeps_norms_and_knows_only_distances():
    q, k = random(1, 3, 8), random(1, 3, 8, seed=1)

    def turned(x, time):
        return rotate(x, rotary(torch.tensor([time]), rotary_frequencies(8, 10_000.0)))

    torch.testing.assert_close(turned(q, 37).norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(turned(q, 0), q)
    scores = [(turned(q, m) * turned(k, n)).sum(-1) for m, n in ((5, 2), (105, 102), (3, 0))]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[2], scores[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose((turned(q, 5) * turned(k, 3)).sum(-1), scores[0])


def test_rotation_turns_neighbouring_pairs_by_time_over_theta():
    """RoFormer, eq. 34: pair i of position m turns by m * theta^(-2 i / d)."""
    x, m, theta, d = random(1, 1, 6), 11, 500.0, 6
    angle = m * theta ** (-torch.arange(0, d, 2) / d)
    even, odd = x[..., 0::2], x[..., 1::2]
    want = torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)
    torch.testing.assert_close(rotate(x, rotary(torch.tensor([m]), rotary_frequencies(d, theta))), want)


def text_layout(rows, n, document=0, start=0):
    zeros = torch.zeros(rows, n, dtype=torch.long)
    position = torch.stack([zeros + torch.arange(start, start + n), zeros, zeros], -1)
    return Layout(zeros, zeros + document, zeros, position)


def one_layer(rows, length):
    """A cache of one layer, of one head of width 4."""
    return Cache([KeyValueCache(*torch.zeros(2, rows, 1, length, 4))], rows, length)


def test_a_cache_is_tentative_until_it_advances():
    cache = one_layer(2, 8)
    first = random(2, 1, 3, 4)
    cache.place(text_layout(2, 3), BIDIRECTIONAL)
    cache.layers[0].write(first, first, 3)
    assert cache.lengths.tolist() == [0, 0]
    second = random(2, 1, 2, 4, seed=1)
    _, keys = cache.place(text_layout(2, 2), BIDIRECTIONAL)
    k, _ = cache.layers[0].write(second, second, 2)
    assert torch.equal(k, second) and keys.document.shape == (2, 2)


def test_rows_of_a_cache_may_differ_in_length():
    cache = one_layer(3, 8)
    first = random(3, 1, 4, 4)
    cache.place(text_layout(3, 4), BIDIRECTIONAL)
    cache.layers[0].write(first, first, 4)
    cache.advance(torch.tensor([4, 2, 0]))
    assert cache.lengths.tolist() == [4, 2, 0] and not cache.even
    query, keys = cache.place(text_layout(3, 1), BIDIRECTIONAL)
    new = random(3, 1, 1, 4, seed=1)
    k, _ = cache.layers[0].write(new, new, 5)
    assert query.index.flatten().tolist() == [4, 2, 0]
    for row, kept in enumerate([4, 2, 0]):
        assert torch.equal(k[row, :, :kept], first[row, :, :kept])
        assert torch.equal(k[row, :, kept], new[row, :, 0])
        visible = (dense_mask(query, keys)[row, 0, 0] == 0).nonzero().flatten().tolist()
        assert visible == list(range(kept + 1))


def test_slots_never_written_are_seen_by_none():
    cache = one_layer(1, 6)
    padding = text_layout(1, 2, document=PADDING)
    query, _ = cache.place(padding, BIDIRECTIONAL)
    assert (cache.places.document[0, 2:] == EMPTY).all()
    assert not (dense_mask(query, cache.places)[..., 2:] == 0).any()


def test_a_full_cache_says_so():
    cache = one_layer(1, 4)
    with pytest.raises(ValueError, match="holds 4 tokens, and 5 are needed"):
        cache.place(text_layout(1, 5), BIDIRECTIONAL)
