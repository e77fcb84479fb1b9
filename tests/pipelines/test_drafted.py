"""Drafts, verified in one pass: greedy text is equal token by token, whatever drafts it; passes are counted."""

import pytest
import torch
from tiny import model, picture, words

from mot_gen.backbone.width_and_experts import chosen
from mot_gen.errors import InputError
from mot_gen.pipelines.engine import Stream
from mot_gen.pipelines.engine.drafted import DraftedText, EarlyLayers, NarrowModel, write_drafted

PROMPTS = [[words(3), picture(2, 2)], [words(6, 1)], [picture(1, 3, 2), words(2, 3)]]
ENDS = {49}
MOST, AHEAD = 24, 3


def stream_of(built):
    return Stream(built, PROMPTS, room=MOST + AHEAD + 1)


def allowed_of(built):
    """Words alone."""
    return torch.arange(built.vocabulary.size) < 50


@torch.inference_mode()
def one_by_one(built):
    """Greedy decoding as the engine does it, a token a pass."""
    stream, written = stream_of(built), [[] for _ in PROMPTS]
    alive = torch.ones(len(PROMPTS), dtype=torch.bool)
    while alive.any():
        logits = built.head(stream.hidden).masked_fill(~allowed_of(built), float("-inf"))
        token = logits.argmax(-1)
        for row in alive.nonzero().flatten().tolist():
            written[row].append(int(token[row]))
        stream.append(token, alive)
        alive = alive & torch.tensor([len(ids) < MOST and ids[-1] not in ENDS for ids in written])
    return written


def drafted(built, drafts, **options):
    stream = stream_of(built)
    return write_drafted(stream, drafts(stream), MOST, ENDS, allowed_of(built), **({"ahead": AHEAD} | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "dense"},
        {"mixer": [{"kind": "kda", "bidirectional": "two_pass"}, "attention"]},
        {"mixer": ["linear", "attention"]},
        {"depth": {"kind": "token_skip", "share": 0.5}},
        {"residual": "dual"},
    ],
    ids=str,
)
def test_early_layers_draft_what_the_model_would_write(options):
    built = model(backbone={"layers": 3, **options})
    want = one_by_one(built)
    for layers in (1, 2):
        got = drafted(built, lambda stream, layers=layers: EarlyLayers(stream, layers))
        assert got.ids == want


def test_a_narrower_model_drafts_what_the_whole_one_would_write():
    built = model(backbone={"feed_forward": "nested"})
    want = one_by_one(built)
    for width in (8, {"text": 40, "image": 16}):
        assert drafted(built, lambda stream, width=width: NarrowModel(stream, width)).ids == want
    with chosen(built.backbone, width=8):
        assert one_by_one(built) != want  # it is another model


def test_drafts_that_are_right_save_passes():
    """A stack whose later layers write nothing is what its first layer says."""
    built = model(backbone={"layers": 3})
    with torch.no_grad():
        for block in built.backbone.blocks[1:]:
            block.out.weight.zero_()
            block.ffn.down.weight.zero_()
    got = drafted(built, lambda stream: EarlyLayers(stream, 1))
    assert got.ids == one_by_one(built)
    longest = max(map(len, got.ids))
    assert got.passes == -(-longest // (AHEAD + 1)) and got.tokens_a_pass > 1
    assert DraftedText([[1, 2], [3]], 2).tokens_a_pass == 0.75


def test_what_cannot_be_drafted_is_refused():
    built = model()
    with pytest.raises(InputError, match="layers: must be from 1 to 1, below those of the model, got 2"):
        EarlyLayers(stream_of(built), 2)
    with pytest.raises(InputError, match="no nested feed-forward"):
        NarrowModel(stream_of(built), 8)
    with pytest.raises(InputError, match="ahead: must be a positive integer"):
        drafted(built, lambda stream: EarlyLayers(stream, 1), ahead=0)
