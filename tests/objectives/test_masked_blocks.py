"""Masked tokens in blocks: how spans are packed, what is masked and seen, writing block by block, refusals."""

import pytest
import torch
from tiny import TEXT, generator, model, speech, words

from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.packing import document_length, pack, unpack
from mot_gen.pipelines.engine.blocks import OpenBlock, write_blocks
from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.sequence import PADDING, Modality, Span, Vocabulary
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.training.build import outline_model

B = 4
UNITS = Modality("speech", vocab_size=20, objective="masked", block_size=B)
BLOCK_TEXT = Modality("text", vocab_size=50, objective="masked", block_size=B)


def net(*modalities, **options):
    masked = {m.name: {"block": B, "schedule": "linear", **options} for m in modalities if m.block_size}
    return model(list(modalities), objectives=masked)


def test_a_span_is_filled_up_to_whole_blocks():
    for n, slots in ((1, 4), (3, 4), (4, 8), (5, 8)):
        assert UNITS.slots(n) == slots and document_length([speech(n)], [TEXT, UNITS]) == slots + 4
    network = net(TEXT, UNITS)
    sample = [words(3), speech(5)]
    batch = pack([sample], network.modalities, 20)
    own = batch.layout.modality[0] == 1
    end = network.vocabulary.end["speech"]
    assert own.sum() == 8 and (batch.ids[0, own] == end).tolist() == [False] * 5 + [True] * 3
    blocks = batch.layout.block[0, own]
    assert len(set(blocks[:4].tolist())) == len(set(blocks[4:].tolist())) == 1 and blocks[4] == blocks[0] + 1
    (again,) = unpack(batch, network.modalities)
    assert all(torch.equal(a.values, b.values) and a.modality == b.modality for a, b in zip(again, sample))


def test_text_comes_in_blocks_too():
    network = net(BLOCK_TEXT)
    sample = [words(6)]
    batch = pack([sample], network.modalities, 12)
    assert document_length(sample, network.modalities) == 10
    own = batch.layout.block[0] != PADDING
    assert own.sum() == 8 and torch.equal(batch.target_slots, own.nonzero().flatten())
    assert (batch.ids[0, own] == network.vocabulary.document_end).sum() == 2
    assert torch.equal(unpack(batch, network.modalities)[0][0].values, sample[0].values)


def test_one_block_of_a_span_is_masked_at_a_time():
    """All of a masked span's masks lie in one block, each block has its turn, and what fills it up is learned too."""
    network = net(TEXT, UNITS)
    batch = pack([[words(2, i), speech(9, i)] for i in range(200)], network.modalities, 64)
    noisy, targets = network.corrupt(batch, generator(0), tokens=True)
    hidden = noisy.ids == network.vocabulary.mask["speech"]
    place = {}
    for row, span in {(r, s) for r, s in zip(hidden.nonzero()[:, 0].tolist(), batch.layout.span[hidden].tolist())}:
        whole = (batch.layout.span[row] == span) & (batch.layout.modality[row] == 1)
        blocks = batch.layout.block[row][whole]
        masked = batch.layout.block[row][whole & hidden[row]].unique()
        assert len(blocks.unique()) == 3 and len(masked) == 1
        place.setdefault(int(masked - blocks.min()), []).append(row)
    assert sorted(place) == [0, 1, 2] and min(map(len, place.values())) > 30
    counted = network.loss_masks(noisy)["speech"].bool()
    assert counted.sum() == 200 * B  # linear: all tokens of the block, by the bound's weights
    assert (noisy.target_ids[counted] == network.vocabulary.end["speech"]).any()
    losses = network.losses(noisy, network(noisy), targets)["speech"][counted]
    shown = ~hidden.flatten()[noisy.target_slots[counted]]
    assert not losses[shown].any() and (losses[~shown] > 0).all()


def test_a_token_sees_its_block_and_earlier_ones():
    network = net(TEXT, UNITS)
    said = []
    for place in (None, 1, 5):
        span = speech(7)
        if place is not None:
            span.values[place] = (span.values[place] + 5) % 20
        batch = pack([[words(2), span]], network.modalities, 20)
        with torch.no_grad():
            said.append(network.backbone(network.embed(batch)[0], batch.layout)[0, batch.layout.modality[0] == 1])
    early, late = ((other != said[0]).any(1).tolist() for other in said[1:])
    assert early == [True] * 8 and late == [False] * 4 + [True] * 4


@torch.no_grad()
@pytest.mark.parametrize("modalities", [(TEXT, UNITS), (BLOCK_TEXT,)], ids=["units", "text"])
def test_a_pass_over_the_cache_is_the_whole_sequences(modalities):
    """The logits of a partly masked second block: by the stream, and by one forward pass over everything."""
    network, name = net(*modalities), modalities[-1].name
    size = network.modalities[-1].vocab_size
    prompt = [words(5)] if name == "speech" else []
    span = Span(name, torch.randint(size, (7,), generator=generator(3)))
    filled = torch.cat([span.values, torch.tensor([size])])
    stream = Stream(network, [prompt], 20, opens=["speech" if name == "speech" else None])
    alive = torch.tensor([True])
    first = OpenBlock(stream, name, [(1, B)], alive)
    first(torch.full((1, B), -1))  # a tentative pass, which leaves nothing behind
    first.keep(filled[None, :B])
    hidden = torch.tensor([True, False, True, False])
    by_cache = OpenBlock(stream, name, [(1, B)], alive)(torch.where(hidden, -1, filled[B:])[None])[0]
    batch = pack([[*prompt, span]], network.modalities, 24)
    own = ((batch.layout.block[0] != PADDING) & (batch.layout.modality[0] == len(modalities) - 1)).nonzero().flatten()
    own = own[-2 * B :][B:]
    batch.ids[0, own[hidden]] = network.vocabulary.mask[name]
    start, end = network.vocabulary.range(name)
    whole = network.head(network.backbone(network.embed(batch)[0], batch.layout))[0, own]
    torch.testing.assert_close(by_cache[:, :-1], whole[:, start:end], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_cache[:, -1], whole[:, network.vocabulary.fill[name]], atol=1e-5, rtol=1e-4)


def written(network, prompts, seeds, guidance=1.0, **options):
    how = Guidance(guidance)
    rows = [[span] for span in prompts] + [[] for _ in prompts] * (len(how.branches) - 1)
    stream = Stream(network, rows, 12, opens=["speech"] * len(rows))
    drawing = Drawing(None, 2, how, [generator(seed) for seed in seeds])
    with torch.no_grad():
        return write_blocks(stream, "speech", drawing, TextSampling(12, 1.0, **options))


def test_what_is_written_does_not_depend_on_the_batch():
    network = net(TEXT, UNITS)
    both = written(network, [words(2), words(5, 1)], [1, 2], guidance=2.0)
    alone = written(network, [words(5, 1)], [2], guidance=2.0)
    assert torch.equal(both[1], alone[0]) and all(len(each) <= 12 and (each < 20).all() for each in both)


def test_a_span_ends_where_a_block_is_filled_up():
    network = net(TEXT, UNITS)
    fill = network.vocabulary.fill["speech"]
    with torch.no_grad():
        network.head.weight[fill] = 0.0
        long = written(network, [words(2)], [1])[0]
        network.head.weight[fill] = 3 * network.head.weight[network.vocabulary.range("speech")[0]].abs() + 1
    told = []
    stream = Stream(network, [[words(2)]], 12, opens=["speech"])
    with torch.no_grad():
        ids = write_blocks(stream, "speech", Drawing(None, 4), TextSampling(12), lambda *each: told.append(each))[0]
    assert len(long) <= 12 and [each[2] for each in told] == ids.tolist()
    assert len(ids) < 12 or (ids < 20).all()


def test_text_is_generated_in_blocks():
    text = TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270)
    network = model(
        [Modality("text", vocab_size=text.vocab_size, objective="masked", block_size=B)],
        objectives={"text": {"block": B}},
        context=64,
    )
    pipe = TextGenerationPipeline(network, text)
    options = {"max_new_tokens": 8, "do_sample": True}
    both = pipe(["seven", "a nine"], generator=[generator(0), generator(1)], **options).texts
    assert pipe("a nine", generator=[generator(1)], **options).texts[0] == both[1]


def test_recipes_say_how_long_a_block_is():
    text = type("T", (), {"modality": TEXT})()
    units = type("S", (), {"modality": Modality("speech", vocab_size=20)})()
    recipe = load_recipe("chameleon-speech", ["objectives.speech={kind: masked, block: 16}"])
    del recipe.tokenizers["image"], recipe.objectives["image"]
    built = outline_model(recipe, {"text": text, "speech": units}).modalities[1]
    assert built.block_size == 16 and built.whole and not built.bidirectional
    whole = load_recipe("chameleon-speech", ["objectives.speech={kind: masked}"])
    with pytest.raises(InputError, match=r"needs spans of a known size; give next_token, or say objectives.speech.bl"):
        outline_model(whole, {"text": text, "speech": units})


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: load("masked", {"block": -1}), "masked.block must be a whole number of at least 0, got -1"),
        (lambda: Modality("x", channels=3, block_size=4), "block_size needs discrete tokens"),
        (
            lambda: Modality("x", vocab_size=3, block_size=4, bidirectional=True),
            "block_size needs bidirectional False, not bidirectional True",
        ),
        (
            lambda: Modality("x", vocab_size=3, block_size=4, scales=[1, 2]),
            r"block_size needs scales \(\), not scales",
        ),
        (lambda: model([TEXT, UNITS]), "block_size must be masked.block, 0"),
        (
            lambda: Vocabulary([Modality("text", vocab_size=5, bidirectional=True)]),
            "one by one, or in blocks: bidirect",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()
