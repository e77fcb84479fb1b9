"""Spans in batches: bitwise the same whoever asks, read and tokenised only where they are needed."""

import io
import json
import tarfile
from itertools import chain, islice

import pytest
import torch
from text_as_bytes import Bytes

from mot_gen.data.loader import Loader
from mot_gen.data.records import Document, Pair, Part, TarShard
from mot_gen.data.spans import BATCH, BlankSpans, SpanMaker
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span


class Network:
    """Latents whose last bits depend on the size of the batch, as those of a network do; numbers of asked media."""

    modality, fingerprint, grid = Modality("image", channels=2, bidirectional=True, objective="flow"), "network", (2, 2)

    def __init__(self, broken=frozenset()):
        self.broken, self.asked, self.passes = broken, [], 0

    def encode_batch(self, raws) -> list[Span]:
        if not self.broken.isdisjoint(raws):
            raise InputError("cannot be decoded")
        self.asked += raws
        self.passes += 1
        rounding = len(raws) * 1e-7
        return [Span("image", torch.full((4, 2), int(raw) + rounding, dtype=torch.float64), (2, 2)) for raw in raws]


PAIRS = [Pair(f"p{i}", str(i).encode(), (f"caption {i}", f"{i}")) for i in range(90)]


def loader(
    samples=PAIRS, rank=0, world=1, broken=frozenset(), data=None, maker=SpanMaker, network=Network, **training
) -> Loader:
    options = {"row_length": 48, "rows": 2, "seed": 4} | training
    tokenizers = {"text": Bytes(), "image": network(broken)}
    return Loader(samples, tokenizers, data or Data(window=40), Training(**options), rank, world, maker)


def bits(batches) -> list:
    return [[[[s.values.tolist() for s in sample] for sample in row] for row in rows] for rows in batches]


def values_in(sample) -> list[float]:
    """Of a sample as `bits` gives it, one value of each image."""
    return [values[0][0] for values in sample if isinstance(values[0], list)]


def asked(stream) -> set[int]:
    return set(map(int, stream.tokenizers["image"].asked))


def images(batches) -> list[int]:
    return [
        int(span.values[0, 0])
        for rows in batches
        for row in rows
        for s in row
        for span in s
        if span.modality == "image"
    ]


def test_a_span_is_bitwise_the_same_on_any_rank_after_any_restart_with_any_cache():
    alone = bits(islice(loader(), 60))
    assert all(v != int(v) for rows in alone for row in rows for sample in row for v in values_in(sample))
    for options in ({"data": Data(window=40, cache_mb=0)}, {"workers": 2}):
        stream = loader(**options)
        assert bits(islice(stream, 60)) == alone
        stream.close()
    first, second = loader(), loader()
    list(islice(first, 7))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert bits(islice(second, 20)) == alone[7:27]
    ranks = [bits(islice(loader(rank=rank, world=3), 20)) for rank in range(3)]
    assert [ranks[k % 3][k // 3] for k in range(60)] == alone


def test_it_is_told_how_far_a_window_is_that_a_batch_waits_for():
    lines: list[str] = []
    stream, ahead = loader(), loader(workers=1)
    stream.tell(lines.append)
    next(stream)
    assert lines[-1] == "tokenising the data: 40 of 40" and "tokenising the data: 17 of 40" in lines
    next(ahead)  # its next window is made by a thread
    ahead.tell(lines.append)
    lines.clear()
    ahead._ahead.popitem()[1].result()
    ahead.close()
    assert not lines


def test_media_are_tokenised_in_batches_and_once():
    stream = loader()
    for epoch in range(2):
        list(stream.one_pass(epoch))
    network = stream.tokenizers["image"]
    assert asked(stream) == set(range(90)) and network.passes == sum(-(-n // BATCH) for n in (40, 40, 10))


@pytest.mark.parametrize("world", [2, 3])
def test_a_rank_tokenises_its_own_rows_alone(world):
    ranks = [loader(rank=rank, world=world) for rank in range(world)]
    own = [images(stream.one_pass()) for stream in ranks]
    assert all(asked(stream) == set(mine) for stream, mine in zip(ranks, own))
    assert sorted(chain(*own)) == list(range(90))


def test_a_rank_goes_on_to_tokenise_its_own_rows_when_the_window_ends_within_a_round():
    for rank in range(2):
        stream = loader(rank=rank, world=2, data=Data(window=40, cache_mb=0))
        begun = images(islice(stream, 5))
        state, stream = stream.state_dict(), loader(rank=rank, world=2)
        stream.load_state_dict(state)
        own = images(islice(stream, 30))
        assert set(own) <= asked(stream) and len(asked(stream) - set(own)) <= 20 and begun


def test_a_broken_medium_leaves_its_place_empty_and_all_else_as_it_was():
    whole = bits(loader().one_pass())
    broken = frozenset({b"3", b"44"})
    for world in (1, 2):
        streams = [loader(rank=rank, world=world, broken=broken) for rank in range(world)]
        passes = [iter(bits(stream.one_pass())) for stream in streams]
        found = [next(passes[k % world]) for k in range(len(whole))]
        for rows, full in zip(found, whole):
            for row, before in zip(rows, full):
                assert row == [sample for sample in before if not {3, 44} & set(map(int, values_in(sample)))]
        skipped = {index: reason for stream in streams for index, reason in stream.skipped.items()}
        assert skipped == {3: "p3: cannot be decoded", 44: "p44: cannot be decoded"}


def test_what_other_ranks_skipped_counts_towards_the_cap():
    stream = loader(broken=frozenset({b"3"}), max_corrupt=2)
    list(stream.one_pass())
    stream.leave_out({3: "p3: cannot be decoded", 8: "p8: cannot be read"})
    assert len(stream.skipped) == 2
    with pytest.raises(InputError, match=r"unusable samples: 3, more than training\.max_corrupt=2; the last is p9"):
        stream.leave_out({9: "p9: cannot be read"})


def test_a_row_all_of_whose_media_are_broken_is_empty():
    stream = loader([*PAIRS[:1], Document("t", (Part("text", "x" * 40),))], broken=frozenset({b"0"}))
    assert sorted(map(len, next(stream))) == [0, 1]


def test_media_in_shards_are_read_for_own_rows_alone(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for i in range(40):
            for suffix, content in (("png", str(i)), ("json", json.dumps({"caption": f"{i}"}))):
                info = tarfile.TarInfo(f"{i:03d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
    read, bytes_of = [], TarShard._bytes

    def counted(self, members, suffix):
        content = bytes_of(self, members, suffix)
        read.extend([int(content)] if suffix == "png" else [])
        return content

    monkeypatch.setattr(TarShard, "_bytes", counted)
    shard = TarShard(tmp_path / "d.tar")
    assert not read  # nor when the shard is opened
    own = images(loader(shard, rank=1, world=2).one_pass())
    assert sorted(read) == sorted(own) and 10 < len(own) < 30


class Ids(Network):
    """Ids in the place of latents."""

    modality = Modality("image", vocab_size=99)

    def encode_batch(self, raws) -> list[Span]:
        self.asked += raws
        return [Span("image", torch.full((4,), int(raw)), (2, 2)) for raw in raws]


def shape(span: Span) -> tuple:
    return span.modality, span.values.shape, span.values.is_floating_point(), span.grid, span.learned


@pytest.mark.parametrize("network", [Network, Ids])
def test_blank_spans_have_the_shapes_of_real_ones_and_read_no_picture(network):
    streams = [loader(maker=maker, network=network) for maker in (SpanMaker, BlankSpans)]
    real, blank = (
        [span for rows in islice(each, 30) for row in rows for sample in row for span in sample] for each in streams
    )
    assert list(map(shape, real)) == list(map(shape, blank))
    texts = zip(*([span.values for span in spans if span.modality == "text"] for spans in (real, blank)))
    assert all(torch.equal(*pair) for pair in texts)
    assert len(asked(streams[0])) > 30 and not asked(streams[1])
