"""Old data beside new data: the share that is shown, the names of sources, and where each sample comes from."""

import pytest

from mot_gen.data.mixture import mixture_of
from mot_gen.data.records import source_of
from mot_gen.data.rehearsal import with_rehearsal
from mot_gen.data.samples import Pair, Splits
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.build import load_splits


def pairs(name, count):
    return [Pair(f"{name}{number}", None, (f"{name} {number}",)) for number in range(count)]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_share_of_what_is_shown_is_old(share):
    made = with_rehearsal(Splits(pairs("new", 30), pairs("kept", 5)), pairs("old", 200), share, "before")
    mixture = mixture_of(made.train, 0)
    shown = [made.train[showing.index].id for showing in mixture.showings(0, range(len(mixture)))]
    assert sum(id.startswith("new") for id in shown) == 30
    assert sum(id.startswith("old") for id in shown) / len(shown) == pytest.approx(share, abs=0.02)
    assert [sample.id for sample in made.held_out] == [sample.id for sample in pairs("kept", 5)]
    assert made.train.source_names == ["new data", "before"]
    assert [source_of(made.train, index) for index in (0, 29, 30, 229)] == [0, 0, 1, 1]


def test_weights_of_several_new_sources_stay(tmp_path):
    for name in "ab":
        line = '{"id": "%s%d", "content": [{"type": "text", "text": "word"}]}\n'
        (tmp_path / f"{name}.jsonl").write_text("".join(line % (name, i) for i in range(10)))
    records = f"data.records=[{{path: {tmp_path}/a.jsonl, weight: 3}}, {tmp_path}/b.jsonl]"
    recipe = load_recipe("digits", [records, "data.held_out=0", "data.rehearsal={source: digits, share: 0.5}"])
    train = load_splits(recipe).train
    mixture = mixture_of(train, 0)
    sources = [source_of(train, showing.index) for showing in mixture.showings(0, range(len(mixture)))]
    assert [sources.count(number) for number in range(3)] == [30, 10, 40]
    assert train.source_names[-1] == "rehearsal of digits"
    assert len(train[len(train) - 1].captions) and train.outline(0).id
    digits = len(load_splits(load_recipe("digits")).train)
    assert train.kinds == {"text": 20 + digits, "image": digits}  # the digits are not read from files


def test_nothing_to_rehearse_is_an_error():
    with pytest.raises(InputError, match=r"data\.rehearsal: has no sample"):
        with_rehearsal(Splits(pairs("new", 3), []), [], 0.5, "before")
    with pytest.raises(InputError, match="rehearsal needs old data"):
        load_recipe("digits", ["data.rehearsal={share: 0.5}"])
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_recipe("digits", ["data.rehearsal={source: digit}"])
