"""Speech metrics: error rates against jiwer and by hand."""

import jiwer
import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.eval.edits import (
    CharacterErrorRate,
    MatchErrorRate,
    UnitErrorRate,
    WordErrorRate,
    WordInformationLost,
)

SAID = [
    "the quick brown fox jumps over the lazy dog",
    "  leading and   inner spaces ",
    "naïve café — Straße",
    "今日 は 天気 が いい",
    "one",
    "to be or not to be that is the question",
]
HEARD = [
    "a quick brown fox jump over lazy dogs today",
    "leading and inner spaces",
    "naive café Straße Straße",
    "今日 天気 いい ね",
    "",
    "to be to be or not that the question is",
]


def fed(metric, predictions, references):
    metric.update(predictions, references)
    return metric.compute()


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (WordErrorRate, jiwer.wer),
        (CharacterErrorRate, jiwer.cer),
        (MatchErrorRate, jiwer.mer),
        (WordInformationLost, jiwer.wil),
    ],
)
def test_error_rates_are_jiwers(metric, reference):
    assert fed(metric(), HEARD, SAID).value == pytest.approx(reference(SAID, HEARD), rel=1e-12)


def test_counts_by_hand():
    found = fed(WordErrorRate(), ["a x c d"], [["a b c"]])
    assert found.details == {"hits": 2, "substitutions": 1, "deletions": 0, "insertions": 1}
    assert found.value == pytest.approx(2 / 3) and found.n["reference_units"] == 3


def test_an_empty_reference_counts_insertions_but_not_alone():
    assert fed(WordErrorRate(), ["a b", "c"], ["", "c d"]).value == pytest.approx(3 / 2)
    with pytest.raises(InputError, match="every reference is empty"):
        fed(WordErrorRate(), ["a b"], [""])


def test_several_references_are_refused():
    with pytest.raises(InputError, match="one reference a prediction"):
        WordErrorRate().update(["a"], [["a", "b"]])


def test_unit_error_rate_takes_tensors_and_lists():
    found = fed(UnitErrorRate(), [torch.tensor([1, 2, 3]), [7, 7]], [[1, 3, 3, 4], torch.tensor([7])])
    assert found.value == pytest.approx((1 + 1 + 1) / 5)
