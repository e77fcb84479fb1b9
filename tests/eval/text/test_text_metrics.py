"""Text metrics against sacrebleu, rouge-score, pycocoevalcap and closed forms, on empty, Unicode and CJK lines."""

import json
import math
import random
import statistics
from pathlib import Path

import pytest
import sacrebleu
import torch
from pycocoevalcap.cider.cider import Cider
from rouge_score import rouge_scorer
from torch.nn.functional import cross_entropy

from mot_gen.errors import InputError
from mot_gen.eval.text.answers import ExactMatch, TokenF1
from mot_gen.eval.text.cider import CIDEr
from mot_gen.eval.text.diversity import DistinctN, SelfBLEU
from mot_gen.eval.text.edits import WordErrorRate
from mot_gen.eval.text.likelihood import BitsPerByte, Perplexity
from mot_gen.eval.text.meteor import METEOR
from mot_gen.eval.text.meteor_lexicon import load_lexicon
from mot_gen.eval.text.mt import BLEU, TER, ChrF
from mot_gen.eval.text.rouge import ROUGE, lcs_length

PREDICTIONS = [
    "the cat sat on the mat .",
    "",
    "Ein naïver Café-Besuch kostet 3,50 €!",
    "猫がマットの上に座った。",
    "a dog runs, quickly; through the park",
    "emoji 👍🏽 and \u202bעברית\u202c mixed",
    "the the the the the the the",
]
REFERENCES = [
    ["the cat is on the mat .", "there is a cat on the mat ."],
    ["something was said"],
    ["Ein naiver Cafébesuch kostet 3,50 €.", "Der Café-Besuch kostet 3,50 €!", "Ein Besuch"],
    ["猫はマットに座った。", "猫がマットの上に座っている。"],
    ["a dog is running through the park quickly"],
    ["emoji 👍🏽 plus עברית"],
    ["the cat is on the mat", "there is a cat on the mat"],
]
STREAMS = [[own[i] if i < len(own) else None for own in REFERENCES] for i in range(3)]


def fed(metric, *columns):
    metric.update(*columns)
    return metric.compute()


@pytest.mark.parametrize("tokenize", ["13a", "char", "zh", "intl"])
def test_bleu_is_sacrebleu(tokenize):
    expected = sacrebleu.corpus_bleu(PREDICTIONS, STREAMS, tokenize=tokenize)
    found = fed(BLEU(tokenize=tokenize), PREDICTIONS, REFERENCES)
    assert found.value == pytest.approx(expected.score, rel=1e-12)
    assert f"tok:{tokenize}" in found.signature and "nrefs:var" in found.signature


def test_bleu_takes_the_shortest_of_equally_near_references():
    prediction, references = ["a b c d e"], [["a b c d e f g", "a b c"]]
    # both references are 2 words away; with the longer one the brevity penalty would be exp(1 - 7/5)
    assert fed(BLEU(tokenize="none"), prediction, references).details["brevity_penalty"] == 1.0


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_sacrebleu(word_order):
    expected = sacrebleu.corpus_chrf(PREDICTIONS, STREAMS, word_order=word_order).score
    assert fed(ChrF(word_order=word_order), PREDICTIONS, REFERENCES).value == pytest.approx(expected, rel=1e-12)


def test_ter_is_sacrebleu():
    assert fed(TER(), PREDICTIONS, REFERENCES).value == pytest.approx(
        sacrebleu.corpus_ter(PREDICTIONS, STREAMS).score, rel=1e-12
    )


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_is_rouge_score(stem):
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=stem)
    scores = [scorer.score_multi(own, prediction) for prediction, own in zip(PREDICTIONS, REFERENCES)]
    found = fed(ROUGE(stem=stem), PREDICTIONS, REFERENCES)
    for name in names:
        expected = sum(one[name].fmeasure for one in scores) / len(scores)
        assert found[name].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_lsum_is_rouge_scores(stem):
    scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=stem)
    words = ["the", "cat", "dogs", "running", "over", "hill", "a", "sat"]
    draw = random.Random(0)

    def summary():
        return "\n".join(" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(draw.randint(1, 4)))

    pairs = [(summary(), [summary() for _ in range(draw.randint(1, 3))]) for _ in range(60)]
    expected = [scorer.score_multi(own, made)["rougeLsum"].fmeasure for made, own in pairs]
    metric = ROUGE(variants=["rougeLsum"], stem=stem)
    found = fed(metric, [made for made, _ in pairs], [own for _, own in pairs])["rougeLsum"]
    assert found.value == pytest.approx(statistics.fmean(expected), rel=1e-12)
    assert metric.segment_scores() == pytest.approx(expected, rel=1e-12)


def test_rouge_says_when_its_tokenizer_leaves_nothing():
    latin = fed(ROUGE(), ["猫が座った"], [["猫が座った"]])["rougeL"]
    assert latin.value == 0 and "without any token" in latin.warnings[0]
    assert fed(ROUGE(tokenize="unicode"), ["猫が座った"], [["猫が座った"]])["rougeL"].value == 1


def test_lcs_against_the_quadratic_table():
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        one, two = (torch.randint(0, 4, (n,), generator=g).tolist() for n in torch.randint(0, 90, (2,), generator=g))
        table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
        for i, a in enumerate(one):
            for j, b in enumerate(two):
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
        assert lcs_length(one, two) == table[-1][-1]


def test_cider_d_is_pycocoevalcap():
    gts = dict(enumerate(REFERENCES))
    mean, each = Cider().compute_score(gts, {i: [text] for i, text in enumerate(PREDICTIONS)})
    metric = CIDEr()
    assert fed(metric, PREDICTIONS, REFERENCES).value == pytest.approx(mean, rel=1e-6)
    assert metric.segment_scores() == pytest.approx(each.tolist(), rel=1e-6, abs=1e-12)


def test_cider_without_clipping_is_a_cosine():
    # Unigrams only, each in one of two items: idf is log 2 for all, and both texts have one word in common.
    predictions, references = ["a b", "x"], [["a c"], ["x"]]
    expected = 10 * (1 / 2 + 1) / 2 / 4
    assert fed(CIDEr(variant="cider"), predictions, references).value == pytest.approx(expected, rel=1e-12)


def test_cider_of_one_item_is_an_error_not_zero():
    with pytest.raises(InputError, match="at least 2 images"):
        fed(CIDEr(), ["a cat"], [["a cat"]])


def test_predictions_without_references_are_refused():
    for metric in (BLEU(), ROUGE(), CIDEr(), ExactMatch()):
        with pytest.raises(InputError, match="prediction 1 has no references"):
            metric.update(["a", "b"], [["a"], []])


def test_bleu_without_a_4_gram_says_so():
    found = fed(BLEU(), ["the digit one"], [["the digit one"]])
    assert found.value == 0 and "no prediction has four words" in found.warnings[0]
    assert not fed(BLEU(), ["the digit one", "a handwritten seven here"], [["x"], ["y"]]).warnings


def test_answers_are_scored_as_in_squad():
    predictions = ["The Eiffel Tower!", "in 1889 a year", "", "blue"]
    references = [["eiffel tower"], ["1889"], [""], ["red", "green"]]
    assert fed(ExactMatch(), predictions, references).value == 0.5
    assert fed(TokenF1(), predictions, references).value == pytest.approx((1 + 2 / 4 + 1 + 0) / 4)


@pytest.fixture(scope="module")
def meteor():
    pytest.importorskip("pycocoevalcap", reason="carries METEOR's synonyms and paraphrases")
    return METEOR(tokenize="meteor")


def test_meteor_is_the_published_program(meteor):
    """Against meteor-1.5.jar: each item, and the corpus from summed statistics."""
    reference = json.loads((Path(__file__).parent / "meteor_reference.json").read_text(encoding="utf-8"))
    items = reference["items"]
    meteor.reset()
    for start in range(0, len(items), 25):
        part = items[start : start + 25]
        meteor.update([item["prediction"] for item in part], [item["references"] for item in part])
    assert meteor.segment_scores() == pytest.approx([item["score"] for item in items], rel=1e-9)
    found = meteor.compute()
    assert found.value == pytest.approx(reference["score"], rel=1e-9)
    assert "|modules:exact+stem+synonym+paraphrase|" in found.signature


def test_meteor_closed_forms(meteor):
    def score(prediction, *references):
        meteor.reset()
        return fed(meteor, [prediction], [list(references)]).value

    assert score("dog barks", "cats sleep", "dog barks") == 1
    assert score("", "a dog") == score("dog", "") == score("dog", "cat") == 0
    # A synonym weighs 0.8 of an exact match, and what matches whole in one chunk is not fragmented.
    assert score("car stops", "automobile stops") == pytest.approx(0.9)
    # Function words weigh a third of content words; "dog" alone matches, a chunk of one word.
    precision, recall = 0.75 / (0.75 + 0.25), 0.75 / (0.75 + 0.75)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert score("the dog", "dog sleeps") == pytest.approx(mean * (1 - 0.6))


def test_meteor_without_its_data_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mot-gen\[meteor\]'"):
        load_lexicon.__wrapped__()  # past the cache


def test_self_bleu_is_sentence_bleu_against_the_others():
    texts = [*PREDICTIONS, "the cat sat on the mat .", "a dog runs through the park quickly"]
    expected = [sacrebleu.sentence_bleu(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]
    assert fed(SelfBLEU(), texts).value == pytest.approx(sum(expected) / len(texts), rel=1e-9)


def test_distinct_counts_over_the_corpus():
    assert fed(DistinctN(1), ["a b a", "b c"]).value == 3 / 5
    assert fed(DistinctN(2), ["a b a", "b c"]).value == 3 / 3
    with pytest.raises(InputError, match="no text has 4 words"):
        fed(DistinctN(4), ["a b", ""])


def test_perplexity_ignores_padding_and_equals_its_definition():
    logits, targets = torch.randn(3, 5, 7, dtype=torch.float64), torch.randint(0, 7, (3, 5))
    targets[1, 3:] = -100
    expected = math.exp(cross_entropy(logits.flatten(0, 1), targets.flatten()).item())
    assert fed(Perplexity(), logits, targets).value == pytest.approx(expected, rel=1e-12)
    assert fed(Perplexity(), torch.zeros(1, 4, 9), torch.zeros(1, 4, dtype=torch.long)).value == pytest.approx(9)


def test_bits_per_byte_counts_utf8():
    found = fed(BitsPerByte(), torch.tensor([math.log(2) * 12, 0.0]), ["é猫a", ""])
    assert found.value == pytest.approx(2.0) and found.n["bytes"] == 6
    with pytest.raises(InputError, match="NaN"):
        BitsPerByte().update(torch.tensor([math.nan]), ["a"])


def test_confidence_is_a_share_and_draws_without_a_score_are_left_out():
    with pytest.raises(InputError, match="confidence 95"):
        BLEU(confidence=95)
    metric = WordErrorRate(confidence=0.9)
    metric.update(["a", "b", "c d"], ["", "", "c"])
    low, high = metric.compute().interval
    assert 0 <= low <= high


def test_bootstrap_interval_covers_the_mean_and_narrows():
    g = torch.Generator().manual_seed(0)
    spans = []
    for n in (50, 800):
        losses = 10 + torch.randn(n, generator=g)
        found = fed(BitsPerByte(confidence=0.95), losses, torch.full((n,), 5))
        low, high = found.interval
        assert low < found.value < high
        spans.append(high - low)
    standard_error = 1 / math.sqrt(800) / 5 / math.log(2)
    assert spans[1] == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    assert spans[1] < spans[0] / 3
