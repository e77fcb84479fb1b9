"""Packing: unpack inverts pack, rows are filled, targets follow the rule told anew, errors name sample and span."""

import random
import time
from collections import Counter
from itertools import chain, combinations, pairwise

import pytest
import torch
from tiny import IMAGE, MODALITIES, SPEECH, TEXT, mixed, picture, speech, words

from mot_gen.errors import InputError
from mot_gen.packing import best_fit_rows, document_length, pack, pack_prompts, pack_rows, plan_rows, unpack
from mot_gen.packing.rows import _fullest
from mot_gen.sequence import PADDING, Modality, Span, Vocabulary
from mot_gen.tokenizers.text import TextTokenizer

VOCABULARY = Vocabulary(MODALITIES)


def same_span(a: Span, b: Span) -> bool:
    return (a.modality, a.grid, a.learned) == (b.modality, b.grid, b.learned) and torch.equal(a.values, b.values)


@pytest.mark.parametrize("row_length", [26, 40, 100])
def test_unpack_inverts_pack(row_length):
    samples = [*mixed(9), [picture(2, 2, 5, learned=False), words(2, 1)], [words(1, 2, learned=False), speech(3)]]
    plan = plan_rows([document_length(s, MODALITIES) for s in samples], row_length)
    back = unpack(pack(samples, MODALITIES, row_length), MODALITIES)
    expected = [samples[i] for row in plan for i in row]
    assert len(back) == len(expected)
    for a, b in zip(back, expected):
        assert len(a) == len(b) and all(same_span(x, y) for x, y in zip(a, b))


def test_pack_again_gives_the_same_batch():
    first = pack_rows([mixed(3), mixed(2)], MODALITIES, 64)
    again = unpack(first, MODALITIES)
    second = pack_rows([again[:3], again[3:]], MODALITIES, 64)
    for name in ("ids", "learned", "target_slots", "target_ids"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.layout.counts == second.layout.counts
    assert all(map(torch.equal, first.layout.tensors(), second.layout.tensors()))


def test_adjacent_words_come_back_as_one_text():
    (back,) = unpack(pack([[words(2, 1), words(3, 2)]], MODALITIES, 16), MODALITIES)
    assert torch.cat([s.values for s in back]).tolist() == [*words(2, 1).values.tolist(), *words(3, 2).values.tolist()]


def test_a_document_is_laid_out_as_the_module_says():
    batch = pack([[words(3), picture(2, 2)]], MODALITIES, 12)
    v, ids = VOCABULARY, words(3).values.tolist()
    assert batch.ids[0].tolist() == [
        v.document_begin, *ids, v.begin["image"], 0, 0, 0, 0, v.end["image"], v.document_end, 0
    ]  # fmt: skip
    assert batch.layout.modality[0].tolist() == [0] * 5 + [1] * 4 + [0] * 3
    assert batch.layout.document[0].tolist() == [0] * 11 + [PADDING]
    assert batch.layout.position[0, :11, 0].tolist() == list(range(11))
    assert batch.layout.position[0, 5:9, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert batch.latents["image"].slots.tolist() == [5, 6, 7, 8]
    assert batch.fill == pytest.approx(11 / 12)


def test_grid_positions_give_a_picture_one_time():
    on_grid = Modality("image", channels=4, bidirectional=True, objective="flow", position="grid")
    batch = pack([[words(2), picture(2, 2), words(1)]], [TEXT, on_grid], 16)
    assert batch.layout.position[0, :11, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7]


def test_fill_is_the_share_of_slots_that_hold_a_token():
    samples = mixed(7)
    batch = pack(samples, MODALITIES, 30, rows=12)
    used = sum(document_length(s, MODALITIES) for s in samples)
    assert batch.layout.shape == (12, 30)
    assert batch.fill == pytest.approx(used / 360)


def test_a_caption_that_spells_a_special_token_stays_text():
    tokenizer = TextTokenizer.train(["a <|image|> and </image> <document>"] * 3, 300)
    modalities = [tokenizer.modality, IMAGE]
    vocabulary = Vocabulary(modalities)
    caption = "<|image|> <image> </image> <document> <|endoftext|> </s>"
    span = tokenizer.encode(caption)
    batch = pack([[span]], modalities, len(span) + 2)
    special = (batch.ids[0] >= tokenizer.modality.vocab_size).nonzero().flatten().tolist()
    assert special == [0, len(span) + 1]
    assert batch.ids[0, special].tolist() == [vocabulary.document_begin, vocabulary.document_end]
    assert tokenizer.decode(unpack(batch, modalities)[0][0]) == caption


def test_ids_of_all_modalities_are_apart():
    ids = torch.arange(VOCABULARY.size)
    modality = VOCABULARY.modality_of(ids)
    first, last = VOCABULARY.range("speech")
    assert modality.tolist() == [2 if first <= i < last else 0 for i in range(VOCABULARY.size)]
    assert VOCABULARY.size == 50 + 2 + 2 * 2 + 20
    specials = [
        VOCABULARY.document_begin,
        VOCABULARY.document_end,
        *VOCABULARY.begin.values(),
        *VOCABULARY.end.values(),
    ]
    assert sorted(specials) == list(range(50, 56))
    assert VOCABULARY.opened_by(VOCABULARY.begin["speech"]) == "speech"
    assert VOCABULARY.opened_by(VOCABULARY.end["speech"]) is None


def restated_targets(rows, row_length):
    """The rule told anew, token by token: (slot, id) pairs in order."""
    found = []
    for b, row in enumerate(rows):
        tokens = [token for d, sample in enumerate(row) for token in restated_document(sample, d)]
        for slot, (now, following) in enumerate(pairwise(tokens)):
            discrete = now[0] is not None and following[0] is not None
            if discrete and following[1] and now[2] == following[2]:
                found.append((b * row_length + slot, following[0]))
    return found


def restated_document(sample, document):
    """(id or None where continuous, learned, document) of every slot."""
    v = VOCABULARY
    yield v.document_begin, False, document
    for span in sample:
        if span.modality != "text":
            yield v.begin[span.modality], span.learned, document
        for value in span.values:
            token = None if span.modality == "image" else int(value) + v.offset[span.modality]
            yield token, span.learned, document
        if span.modality != "text":
            yield v.end[span.modality], span.learned and span.modality != "image", document
    yield v.document_end, sample[-1].learned, document


def test_targets_are_those_of_the_rule_told_anew():
    draw = random.Random(0)
    for _ in range(20):
        rows = [
            [
                [
                    draw.choice(
                        [
                            words(draw.randint(1, 4), draw.randint(0, 99), draw.random() < 0.7),
                            picture(1, draw.randint(1, 3), 0, draw.random() < 0.7),
                            speech(draw.randint(1, 3)),
                        ]
                    )
                    for _ in range(draw.randint(1, 4))
                ]
                for _ in range(draw.randint(0, 3))
            ]
            for _ in range(3)
        ]
        batch = pack_rows(rows, MODALITIES, 96)
        assert list(zip(batch.target_slots.tolist(), batch.target_ids.tolist())) == restated_targets(rows, 96)


def test_only_pictures_before_learned_text_lead():
    samples = [
        [picture(), words(2)],
        [words(2), picture()],
        [picture(), words(2, learned=False)],
        [picture(), picture(), speech(2)],
    ]
    leads = pack_rows([samples], MODALITIES, 100).latents["image"].leads
    assert leads.tolist() == [True, False, False, True, True]


def test_an_absent_modality_is_there_and_empty():
    latents = pack([[words(3)]], MODALITIES, 8).latents["image"]
    assert latents.values.shape == (0, 4) and latents.slots.shape == (0,) and latents.learned.shape == (0,)


WRONG = {
    "unknown modality": (Span("imagge", torch.zeros(2, 4)), "did you mean 'image'"),
    "empty span": (Span("text", torch.zeros(0, dtype=torch.long)), "is empty"),
    "id too large": (Span("text", torch.tensor([3, 50])), "id 50 is outside the vocabulary of 50"),
    "negative id": (Span("speech", torch.tensor([-1, 2])), "id -1 is outside"),
    "ids that are no integers": (Span("text", torch.rand(3)), "integer ids"),
    "ids in two dimensions": (Span("text", torch.zeros(2, 2, dtype=torch.long)), "integer ids"),
    "other channels": (Span("image", torch.zeros(4, 3)), r"\(n, 4\), got \(4, 3\)"),
    "NaN": (Span("image", torch.full((4, 4), float("nan"))), "NaN or infinity"),
    "infinity": (Span("image", torch.full((4, 4), float("inf"))), "NaN or infinity"),
    "a grid that does not hold it": (Span("image", torch.zeros(4, 4), (2, 3)), "grid of 2 x 3 does not hold 4"),
}


@pytest.mark.parametrize("span, complaint", WRONG.values(), ids=WRONG)
def test_a_bad_span_is_named(span, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        pack_rows([[[words(2)]], [[words(2), span]]], MODALITIES, 32)
    assert str(error.value).startswith("sample 1, span 1") and "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"^prompt 1, span 0"):
        pack_prompts([[words(2)], [span]], MODALITIES)


def test_bad_documents_are_named():
    with pytest.raises(InputError, match="sample 1: an empty document"):
        pack([[words(2)], []], MODALITIES, 32)
    with pytest.raises(InputError, match="sample 1: 32 tokens do not fit a row of 16"):
        pack([[words(2)], [words(30)]], MODALITIES, 16)
    with pytest.raises(InputError, match="sample 1: 12 tokens do not fit the 4 slots left"):
        pack_rows([[[words(10)], [words(10)]]], MODALITIES, 16)
    with pytest.raises(InputError, match="3 samples need 3 rows of 16, but rows is 2"):
        pack([[words(14)]] * 3, MODALITIES, 16, rows=2)


def test_bad_modalities_are_refused():
    for arguments, complaint in [
        ({"name": "x"}, "either vocab_size"),
        ({"name": "x", "vocab_size": 3, "channels": 3}, "either vocab_size"),
        ({"name": "x", "vocab_size": 0}, "vocab_size must be at least 1"),
        ({"name": "x", "channels": -2}, "channels must be at least 1"),
        ({"name": "x", "channels": 2, "position": "grit"}, "did you mean 'grid'"),
        ({"name": "x", "vocab_size": 2, "position": "grid"}, "one position each"),
    ]:
        with pytest.raises(InputError, match=complaint):
            Modality(**arguments)
    with pytest.raises(InputError, match="first modality must be discrete"):
        Vocabulary([IMAGE, TEXT])
    with pytest.raises(InputError, match="must differ"):
        Vocabulary([TEXT, SPEECH, SPEECH])


def test_prompts_end_open():
    batch, lengths = pack_prompts([[words(3)], [], [picture(1, 2)]], MODALITIES, ["image", "image", None])
    v = VOCABULARY
    assert lengths.tolist() == [5, 2, 5] and batch.layout.shape == (3, 5)
    assert batch.ids[0].tolist() == [v.document_begin, *words(3).values.tolist(), v.begin["image"]]
    assert batch.ids[1].tolist() == [v.document_begin, v.begin["image"], 0, 0, 0]
    assert batch.ids[2].tolist() == [v.document_begin, v.begin["image"], 0, 0, v.end["image"]]
    assert v.document_end not in batch.ids


def best_fit(lengths, row_length):
    """Best-fit-decreasing by looking at every row; the rooms that it leaves."""
    rooms = []
    for need in sorted(lengths, reverse=True):
        fitting = [r for r in rooms if r >= need]
        if fitting:
            rooms[rooms.index(min(fitting))] -= need
        else:
            rooms.append(row_length - need)
    return sorted(rooms)


def test_rows_are_best_fit():
    draw = random.Random(1)
    for row_length in (8, 30, 256):
        lengths = [draw.randint(1, row_length) for _ in range(150)]
        rows = best_fit_rows(lengths, row_length)
        assert sorted(i for row in rows for i in row) == list(range(150))
        assert sorted(row_length - sum(lengths[i] for i in row) for row in rows) == best_fit(lengths, row_length)
    assert best_fit_rows([], 8) == plan_rows([], 8) == []


def test_a_plan_has_every_document_once_and_no_more_rows_than_best_fit():
    draw = random.Random(3)
    for longest, row_length in ((9, 30), (30, 64), (64, 64), (100, 1000)):
        lengths = [draw.randint(1, longest) for _ in range(draw.randint(1, 200))]
        rows = plan_rows(lengths, row_length)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= row_length for row in rows)
        assert len(rows) <= len(best_fit_rows(lengths, row_length))


def test_the_fullest_row_is_that_of_all_subsets():
    draw = random.Random(4)
    for _ in range(60):
        lengths = [draw.randint(3, 30) for _ in range(draw.randint(1, 9))]
        room = draw.randint(1, 80)
        subsets = chain.from_iterable(combinations(lengths, n) for n in range(len(lengths) + 1))
        counts = {n: lengths.count(n) for n in sorted(set(lengths), reverse=True)}
        chosen = _fullest(counts, room)
        assert sum(chosen) == max(total for total in map(sum, subsets) if total <= room)
        assert not Counter(chosen) - Counter(lengths)


def test_planning_a_window_takes_no_time():
    draw = random.Random(2)
    lengths = [draw.randint(20, 400) for _ in range(4096)]
    seconds = []
    for _ in range(3):  # Python may collect garbage in one of them, which takes longer the more there is in memory
        started = time.process_time()
        rows = plan_rows(lengths, 4096)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.1
    assert sum(lengths) / (4096 * len(rows)) > 0.99


def test_a_span_without_a_grid_comes_back_without_one():
    """Of latents as of ids; a grid of one row stays a grid."""
    flat = Span("image", torch.randn(5, 4))
    row = Span("image", flat.values, (1, 5))
    (back,) = unpack(pack([[flat, words(2), row]], MODALITIES, 24), MODALITIES)
    assert [span.grid for span in back] == [None, None, (1, 5)]


def test_the_packer_counts_slots_and_tokens():
    batch = pack_rows([mixed(3), mixed(2)], MODALITIES, 64, slots=128)
    assert batch.layout.shape == (2, 128)
    assert batch.layout.counts == torch.bincount(batch.layout.modality.flatten(), minlength=3).tolist()
    assert batch.tokens == int((batch.layout.document != PADDING).sum())


def test_more_slots_than_tokens_change_nothing_but_the_padding():
    tight, padded = (pack_rows([mixed(3), mixed(2)], MODALITIES, 64, slots) for slots in (None, 128))
    assert torch.equal(tight.ids, padded.ids[:, :64])
    row, slot = padded.target_slots // 128, padded.target_slots % 128
    assert torch.equal(tight.target_slots, row * 64 + slot)
    assert torch.equal(tight.target_ids, padded.target_ids)
    for name, latents in tight.latents.items():
        assert torch.equal(latents.slots // 64 * 128 + latents.slots % 64, padded.latents[name].slots)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([], "samples: there are none to pack"),
        ([words(2)], "sample 0: must be a list of spans, got Span"),
        ([[words(2), "a cat"]], "sample 0, span 1: must be a Span, got str; a tokenizer's encode makes one"),
        ([[words(2)], [Span("text", [1, 2])]], "sample 1, span 0: values must be a tensor, got list"),
    ],
)
def test_what_is_no_sample_is_said_in_a_line(samples, says):
    with pytest.raises(InputError, match=says):
        pack(samples, MODALITIES, 40)
