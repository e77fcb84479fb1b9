"""Weights of sources: how often each sample is shown, the same after a stop, and what is refused."""

import json
from collections import Counter
from itertools import chain, islice

import pytest
import torch
from text_as_bytes import Bytes

from mot_gen.data.loader import Loader
from mot_gen.data.mixture import Mixture
from mot_gen.datasets.records import load
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data, Training
from mot_gen.sequence import Modality, Span


@pytest.mark.parametrize("weights", [(1, 1), (2, 0.5), (1.3, 3.7), (0.1, 1)])
def test_no_sample_is_ever_more_than_once_ahead_of_another(weights):
    sizes = [13, 40]
    mixture = Mixture(sizes, [round(w * n) for w, n in zip(weights, sizes)], seed=3)
    shown, showings = Counter(), set()
    for epoch in range(8):
        found = mixture.showings(epoch, range(len(mixture)))
        assert showings.isdisjoint(found) and len(set(found)) == len(found)
        showings.update(found)
        shown.update(showing.index for showing in found)
        for first, size, weight in ((0, 13, weights[0]), (13, 40, weights[1])):
            times = [shown[index] for index in range(first, first + size)]
            assert max(times) - min(times) <= 1 and sum(times) == (epoch + 1) * round(weight * size)


def test_the_weight_one_is_every_sample_once_with_the_epoch_as_its_turn():
    assert Mixture([3, 2]).showings(4, range(5)) == [(index, 4) for index in range(5)]


def test_half_a_pass_is_another_half_every_other_time():
    mixture = Mixture([100], [50], seed=1)
    halves = [{s.index for s in mixture.showings(epoch, range(50))} for epoch in range(4)]
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(100))
    assert halves[0] != halves[2] and halves[0] != set(range(50))


# ---------------------------------------------------------------- as a recipe says it


def data(folder, weights, **options) -> Data:
    given = []
    for number, (weight, count) in enumerate(zip(weights, (20, 30))):
        path = folder / f"{number}.jsonl"
        lines = [{"id": f"{number}-{i}", "image": f"{i:02d}{number}", "caption": "c"} for i in range(count)]
        path.write_text("\n".join(map(json.dumps, lines)))
        given.append({"path": str(path), "weight": weight})
    return Data(records=given, held_out=0, window=16, **options)


def loader(data, rank=0, world=1) -> Loader:
    class Names(Bytes):
        """A picture as the bytes of its file's name."""

        modality = Modality("image", vocab_size=256)

        def encode(self, path):
            return Span("image", torch.tensor(list(path.name.encode())))

    samples = load(data).train
    tokenizers = {"text": Bytes(), "image": Names()}
    return Loader(samples, tokenizers, data, Training(row_length=24, rows=2, seed=2), rank, world)


def shown(batches) -> list[str]:
    names = (span.values for rows in batches for row in rows for s in row for span in s if span.modality == "image")
    return [bytes(name.tolist()).decode() for name in names]


def test_an_epoch_has_each_source_as_often_as_its_weight_says(tmp_path):
    stream = loader(data(tmp_path, (2.5, 1)))
    for epoch in range(2):
        times = Counter(shown(stream.one_pass(epoch)))
        assert sum(n for name, n in times.items() if name.endswith("0")) == 50
        assert {n for name, n in times.items() if name.endswith("0")} == {2, 3}
        assert [n for name, n in times.items() if name.endswith("1")] == [1] * 30
    sources = {name[-1]: sample.source for rows in stream.one_pass() for row in rows for sample, name in named(row)}
    assert sources == {"0": 0, "1": 1}


def named(row):
    return [(sample, shown([[[sample]]])[0]) for sample in row]


def test_repeats_in_one_epoch_are_arranged_anew(tmp_path):
    stream = loader(data(tmp_path, (8, 1), caption_dropout=0.5))
    lengths = {}
    for rows in stream.one_pass():
        for sample, name in chain.from_iterable(map(named, rows)):
            lengths.setdefault(name, []).append(len(sample))
    assert all({1, 2} == set(of) for name, of in lengths.items() if name.endswith("0"))


def test_weights_of_one_change_nothing(tmp_path):
    plain = Data(records=[each.path for each in data(tmp_path, (1, 1)).records], held_out=0, window=16)
    assert shown(loader(data(tmp_path, (1, 1))).one_pass()) == shown(loader(plain).one_pass())
    assert loader(plain).state_dict() == loader(data(tmp_path, (1.0, 1.0))).state_dict()


def test_a_mixture_goes_on_on_other_ranks(tmp_path):
    options = data(tmp_path, (1.5, 0.4))
    alone = shown(islice(loader(options), 24))
    two = [loader(options, rank, 2) for rank in range(2)]
    begun = [shown(islice(stream, 6)) for stream in two]
    three = [loader(options, rank, 3) for rank in range(3)]
    for stream in three:
        stream.load_state_dict(json.loads(json.dumps(two[0].state_dict())))
    rest = [shown(islice(stream, 4)) for stream in three]
    assert sorted(chain(*begun, *rest)) == sorted(alone)


@pytest.mark.parametrize("before, after", [((2, 1), (3, 1)), ((1, 1), (2, 1)), ((2, 1), (1, 1))])
def test_other_weights_than_the_checkpoints_are_refused(tmp_path, before, after):
    state = loader(data(tmp_path, before)).state_dict()
    with pytest.raises(InputError, match=r"data: data\.records\.weight changed since the checkpoint"):
        loader(data(tmp_path, after)).load_state_dict(state)


def test_held_out_samples_are_seen_once_and_a_weight_may_be_too_small(tmp_path):
    given = data(tmp_path, (3, 1)).model_copy(update={"held_out": 0.4})
    splits = load(given)
    assert len(splits.train) + len(splits.held_out) == 50 and splits.held_out.weights is None
    with pytest.raises(InputError, match=r"0\.jsonl: weight 0\.01 of 20 samples.*give at least 0\.05"):
        loader(data(tmp_path, (0.01, 1)))
