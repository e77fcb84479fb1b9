"""The loading plan: nothing missing, nothing twice, the same after a stop, full rows, and broken samples named."""

import hashlib
import json
import logging
from itertools import chain, islice, pairwise

import numpy as np
import pytest
import torch
from text_as_bytes import Bytes

from mot_gen.data.loader import BatchPlan, Loader
from mot_gen.data.mixture import Mixture
from mot_gen.data.records import Document, Pair, Part
from mot_gen.data.spans import SpanCache
from mot_gen.datasets import digits
from mot_gen.errors import InputError
from mot_gen.packing import best_fit_rows, document_length, pack_rows, plan_rows
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer


def documents(n: int) -> list[Document]:
    """n documents of 1 to 40 bytes that all differ."""
    return [Document(f"s{i}", (Part("text", f"{i:04d}" + "x" * (i * 7 % 37)),)) for i in range(n)]


def loader(samples, rank=0, world=1, data=None, **training) -> Loader:
    options = {"row_length": 64, "rows": 3, "seed": 5} | training
    return Loader(samples, {"text": Bytes()}, data or Data(window=32), Training(**options), rank, world)


def number(sample) -> int:
    return int(bytes(sample[0].values[:4].tolist()))


def numbers(batches) -> list[int]:
    return [number(sample) for rows in batches for row in rows for sample in row]


def flat(batches) -> list:
    """Batches as plain lists, to be compared bit for bit."""
    return [[[[s.values.tolist() for s in sample] for sample in row] for row in rows] for rows in batches]


# ---------------------------------------------------------------- each sample once


def test_an_epoch_has_every_sample_once_in_another_order_than_the_next():
    stream = loader(documents(100))
    epochs = [numbers(stream.one_pass(epoch)) for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert epochs[0] != epochs[1] and epochs[0] != list(range(100))
    assert numbers(loader(documents(100), seed=6).one_pass()) != epochs[0]


def test_the_endless_stream_is_the_epochs_one_after_the_other():
    rows = [row for epoch in range(4) for batch in loader(documents(100)).one_pass(epoch) for row in batch]
    batches = list(islice(loader(documents(100)), len(rows) // 3))
    assert all(len(batch) == 3 for batch in batches)
    assert flat([[row for batch in batches for row in batch]]) == flat([rows[: len(rows) // 3 * 3]])


def test_the_stream_is_that_of_earlier_versions():
    """Runs that were begun before, when rows were best fits and states did not say so, go on as they would have."""
    stream = loader(documents(100))
    state = stream.state_dict()
    del state["packing"]
    stream.load_state_dict(state)
    batches = [[[span.values.tolist() for (span,) in row] for row in rows] for rows in islice(stream, 60)]
    assert hashlib.sha256(json.dumps(batches).encode()).hexdigest().startswith("0c631d1db653418f")


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_one_process(world):
    alone = flat(islice(loader(documents(50)), 4 * world))
    ranks = [flat(islice(loader(documents(50), rank, world), 4)) for rank in range(world)]
    assert [ranks[k % world][k // world] for k in range(4 * world)] == alone
    passes = [numbers(loader(documents(50), rank, world).one_pass()) for rank in range(world)]
    assert sorted(chain(*passes)) == list(range(50))


def test_rows_hold_what_they_can():
    stream = loader(documents(100))
    for batch in stream.one_pass():
        assert all(sum(document_length(s, stream.modalities) for s in row) <= 64 for row in batch)


# ---------------------------------------------------------------- stop and go on


@pytest.mark.parametrize("stop", [0, 1, 7, 23, 40])
def test_resume_continues_bit_for_bit(stop):
    samples = [Pair(f"p{i}", f"{i:04d}", (f"caption {i}", f"another {i}")) for i in range(60)]

    def made():
        tokenizers = {"text": Bytes(), "image": Bytes()}
        data = Data(window=16, caption_first=0.4, caption_dropout=0.3)
        return Loader(samples, tokenizers, data, Training(row_length=64, rows=2, seed=1))

    undisturbed = flat(islice(made(), 50))
    first = made()
    before = flat(islice(first, stop))
    state = json.loads(json.dumps(first.state_dict()))
    second = made()
    second.load_state_dict(state)
    assert before + flat(islice(second, 50 - stop)) == undisturbed


def test_going_on_with_another_number_of_ranks_loses_nothing():
    alone = numbers(islice(loader(documents(80)), 12))
    two = [loader(documents(80), rank, 2) for rank in range(2)]
    start = [flat(islice(stream, 3)) for stream in two]
    assert two[0].state_dict() == two[1].state_dict()
    three = [loader(documents(80), rank, 3) for rank in range(3)]
    for stream in three:
        stream.load_state_dict(two[0].state_dict())
    rest = chain(*(numbers(islice(stream, 2)) for stream in three))
    begun = [int(bytes(sample[0][:4])) for rank in start for rows in rank for row in rows for sample in row]
    assert sorted([*begun, *rest]) == sorted(alone)


def test_threads_that_work_ahead_change_nothing_and_move_no_position():
    inline, ahead = loader(documents(100)), loader(documents(100), workers=3)
    for _ in range(30):
        assert flat([next(inline)]) == flat([next(ahead)])
        assert inline.state_dict() == ahead.state_dict()
    ahead.close()


CHANGES = {
    "samples": {"samples": documents(41)},
    "training.row_length": {"row_length": 128},
    "training.seed": {"seed": 6},
    "data.window": {"data": Data(window=16)},
    "data.block": {"data": Data(window=32, block=4)},
    "data.caption_first": {"data": Data(window=32, caption_first=0.9)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_since_the_checkpoint_is_refused_by_name(name):
    state = loader(documents(40)).state_dict()
    options = {"samples": documents(40)} | CHANGES[name]
    with pytest.raises(InputError, match=f"data: {name} changed since the checkpoint.*data.accept_changed=true"):
        loader(**options).load_state_dict(state)


def test_accepted_changes_begin_the_epoch_anew():
    stream = loader(documents(40))
    while stream.plan.epoch < 2:
        next(stream)
    changed = loader(documents(41), data=Data(window=32, accept_changed=True))
    changed.load_state_dict(stream.state_dict())
    assert (changed.plan.epoch, changed.plan.start, changed.plan.consumed) == (2, 0, 0)
    assert flat([next(changed)[:1]]) == flat([next(changed.one_pass(2))[:1]])


# ---------------------------------------------------------------- what cannot be used


def with_broken(n: int, broken: set[int]) -> list[Document]:
    return [Document(f"s{i}", (Part("text", f"{i:04d}{' broken' * (i in broken)}"),)) for i in range(n)]


def test_broken_samples_are_skipped_counted_and_named(caplog):
    stream = loader(with_broken(20, {3, 11}), max_corrupt=2)
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            assert sorted(numbers(stream.one_pass(epoch))) == sorted(set(range(20)) - {3, 11})
    assert stream.skipped == {3: "s3: cannot be encoded", 11: "s11: cannot be encoded"}
    assert sorted(caplog.messages) == ["skipped s11: cannot be encoded", "skipped s3: cannot be encoded"]


def test_too_many_broken_samples_stop_the_training():
    with pytest.raises(InputError, match=r"unusable samples: 2, more than training\.max_corrupt=1; the last is s"):
        list(loader(with_broken(20, {3, 11}), max_corrupt=1).one_pass())
    with pytest.raises(InputError, match="none of the 3 samples can be used"):
        next(loader(with_broken(3, {0, 1, 2})))


def test_broken_media_are_named(tmp_path):
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    samples = [
        Pair("a", digits.to_image(np.zeros((8, 8)))),
        Pair("b", tmp_path / "b.png"),
        Pair("c", tmp_path / "no.png"),
    ]
    image = PatchImageTokenizer(image_size=8, color_channels=1)
    stream = Loader(samples, {"text": Bytes(), "image": image}, Data(), Training(rows=1))
    next(stream)
    assert stream.skipped.keys() == {1, 2}
    assert "b.png" in stream.skipped[1] and "no.png" in stream.skipped[2]


def test_a_sample_longer_than_a_row_is_skipped_with_the_remedy():
    stream = loader([*documents(5), Document("long", (Part("text", "y" * 63),))])
    assert sorted(numbers(stream.one_pass())) == list(range(5))
    assert stream.skipped == {5: "long: 65 tokens do not fit a row of 64; raise training.row_length"}


def test_a_part_without_tokenizer_is_no_broken_sample():
    with pytest.raises(InputError, match="s0: no tokenizer for 'depth'"):
        next(loader([Document("s0", (Part("depth", "d.png"),))]))


def test_a_set_without_samples_is_refused():
    with pytest.raises(InputError, match="no sample is left to train on"):
        loader([])


# ---------------------------------------------------------------- cache, loss flags, order of memory


def test_each_text_is_tokenised_once_while_there_is_room():
    stream = loader(documents(30))
    for epoch in range(3):
        list(stream.one_pass(epoch))
    assert len(stream.tokenizers["text"].asked) == 30
    stream = loader(documents(30), data=Data(window=32, cache_mb=0))
    for epoch in range(3):
        list(stream.one_pass(epoch))
    assert len(stream.tokenizers["text"].asked) == 90


def test_cache_stays_within_its_limit():
    span = Span("text", torch.zeros(64, dtype=torch.int64))
    cache = SpanCache(limit=3 * (512 + SpanCache.OVERHEAD) + 1)
    for key in [*range(5), *range(5)]:
        cache.keep(key, span)
    assert [cache.get(key) for key in range(5)] == [span, span, span, None, None] and cache.size <= cache.limit


def test_one_text_may_carry_loss_here_and_not_there():
    sample = Document("s", (Part("text", "same", False), Part("text", "same", True)))
    (((spans,),),) = loader([sample]).one_pass()
    assert [span.learned for span in spans] == [False, True]


def test_a_window_of_ten_million_samples_costs_a_window():
    plan = BatchPlan(Mixture([10_000_000]), window=4096, seed=0)
    window = [showing.index for showing in plan.showings((0, 4096 * 100))]
    assert len(set(window)) == 4096 and max(window) > 9_000_000
    assert plan.after((0, 9_998_336)) == (1, 0) and len(plan.showings((0, 9_998_336))) == 10_000_000 - 9_998_336


@pytest.mark.parametrize("count, block", [(100, 1), (100, 7), (96, 8), (5, 8), (23, 23)])
def test_blocks_of_neighbours_stay_together_and_nothing_is_lost(count, block):
    plan = BatchPlan(Mixture([count]), window=10, seed=1, block=block)
    for epoch in range(2):
        order = [s.index for start in range(0, count, 10) for s in plan.showings((epoch, start))]
        assert sorted(order) == list(range(count))
        together = sum(b == a + 1 and b % block > 0 for a, b in pairwise(order))
        assert together == count - -(-count // block)


# ---------------------------------------------------------------- the digits, as the quickstart loads them


def test_digits_become_full_rows():
    """Captions and images in the proportions that were asked for, in rows that waste less than 3%."""
    data, training = Data(caption_first=0.5, caption_dropout=0.1), Training(row_length=256, rows=8)
    train = digits.load(data).train
    text = TextTokenizer.train([caption for pair in train for caption in pair.captions], vocab_size=512)
    tokenizers = {"text": text, "image": PatchImageTokenizer(image_size=8, color_channels=1)}
    stream = Loader(train, tokenizers, data, training)
    batches = list(stream.one_pass())
    samples = [sample for batch in batches for row in batch for sample in row]
    kinds = [tuple(span.modality for span in sample) for sample in samples]
    packed = [pack_rows(batch, stream.modalities, training.row_length) for batch in batches]
    assert len(kinds) == len(train)
    assert kinds.count(("image",)) / len(kinds) == pytest.approx(0.1, abs=0.03)
    assert kinds.count(("text", "image")) / len(kinds) == pytest.approx(0.45, abs=0.05)
    rows = np.array([len(batch) for batch in batches])
    assert np.average([batch.fill for batch in packed], weights=rows) >= 0.97
    captions = {text.decode(span) for sample in samples for span in sample if span.modality == "text"}
    assert captions == {caption for digit in range(10) for caption in digits.captions_of(digit)}


@pytest.mark.parametrize("mean, deviation, row_length", [(13, 3, 256), (13, 3, 2048), (150, 60, 1024), (150, 60, 4096)])
def test_windows_of_captions_fill_their_rows(mean, deviation, row_length):
    """Lengths as of short captions (COCO: 10.5 words) and of dense ones (DOCCI: about 140), in tokens."""
    generator = np.random.default_rng(0)
    shape = (mean / deviation) ** 2
    lengths = 4 + np.ceil(generator.gamma(shape, mean / shape, 4096)).astype(int)
    rows = plan_rows(lengths.tolist(), row_length)
    assert lengths.sum() / (len(rows) * row_length) >= 0.97


@pytest.mark.parametrize("tokens, row_length", [(64, 1024), (256, 4096)])
def test_pictures_with_short_captions_fill_their_rows(tokens, row_length):
    """Documents of nearly one length, of which best fits would put the longest together."""
    lengths = tokens + 4 + np.ceil(np.random.default_rng(0).gamma(19, 13 / 19, 4096)).astype(int)
    rows = [len(plan(lengths.tolist(), row_length)) for plan in (best_fit_rows, plan_rows)]
    assert lengths.sum() / (rows[0] * row_length) < 0.97 < 0.98 < lengths.sum() / (rows[1] * row_length)
