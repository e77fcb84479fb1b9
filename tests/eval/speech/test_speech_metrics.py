"""Speech metrics: error rates against jiwer and by hand."""

import math

import jiwer
import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.speech.audio import log_mel_extractor
from mot_gen.eval.speech.mel_cepstral import MelCepstralDistortion, aligned_distortion
from mot_gen.eval.text.edits import (
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


def test_word_errors_are_those_counted_by_hand():
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


def by_definition(one, two):
    """Distortion along the best warping path, by the plain recursion."""
    import functools

    cost = torch.cdist(one, two)

    @functools.cache
    def best(i, j):
        if i == j == 0:
            return cost[0, 0].item(), 1
        steps = [best(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        total, length = min(steps, key=lambda step: step[0])
        return total + cost[i, j].item(), length + 1

    total, length = best(len(one) - 1, len(two) - 1)
    return 10 / math.log(10) * math.sqrt(2) * total, length


def test_warped_distortion_against_the_recursion():
    g = torch.Generator().manual_seed(0)
    for m, n in ((1, 1), (1, 6), (7, 3), (12, 15)):
        one, two = (torch.randn(k, 13, generator=g, dtype=torch.float64) for k in (m, n))
        total, length = aligned_distortion(one, two)
        expected, steps = by_definition(one, two)
        assert (total, length) == (pytest.approx(expected, rel=1e-9), steps)


def test_distortion_of_equal_sounds_is_zero_and_of_a_constant_offset_is_known():
    cepstra = torch.arange(20.0)[:, None].expand(-1, 13) * 100
    assert aligned_distortion(cepstra, cepstra)[0] == 0
    total, length = aligned_distortion(cepstra, cepstra + 1)
    assert total / length == pytest.approx(10 / math.log(10) * math.sqrt(2 * 13))


def tone(hertz, seconds=1.0, rate=16000):
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * rate)) / rate)


def test_distortion_of_waveforms_ignores_loudness_and_grows_with_pitch():
    noise = torch.rand(16000, generator=torch.Generator().manual_seed(0)) - 0.5
    near = fed(MelCepstralDistortion(), [noise * 0.5], [noise]).value
    far = fed(MelCepstralDistortion(), [tone(880, 1.3)], [tone(440)]).value
    assert near == pytest.approx(0, abs=1e-3) and far > 1


def test_frechet_audio_distance_hears_and_names_its_extractor():
    g = torch.Generator().manual_seed(0)
    noise = torch.rand(6, 32000, generator=g) - 0.5
    metric = FrechetDistance(log_mel_extractor())
    metric.update(noise, real=True)
    metric.update(noise * 0.25, real=False)
    found = metric.compute()
    # Loudness moves every mean log energy by log 16 and no deviation: 32 bands of (log 16)^2.
    assert found.value == pytest.approx(32 * math.log(16) ** 2, rel=1e-3)
    assert found.name == "FAD[log-mel]" and "sample_rate:16000" in found.signature
    with pytest.raises(InputError, match="reach 2"):
        metric.update(torch.full((1, 32000), 2.0), real=True)
