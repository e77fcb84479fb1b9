"""Machine translation metrics over sacrebleu: BLEU, ChrF (chrF and chrF++), TER. Corpus scores, many references.

sacrebleu (Post 2018) is the definition of these scores; here its statistics per sentence become rows that add up, so
the corpus score is the same however it was batched or spread over processes. The signature is sacrebleu's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, expect, nearest, require
from mot_gen.eval.extras import extra_module
from mot_gen.eval.text.segments import SegmentMetric, table


def checked_texts(texts: Sequence[str], name: str = "predictions") -> list[str]:
    """The texts as a list; InputError for a single text, whose characters would count as texts, and for None."""
    require(not isinstance(texts, str), f"{name}: must be a list of texts, got a single text; put [ ] around it")
    for number, text in enumerate(texts):
        expect(isinstance(text, str), f"{name}: number {number} must be a text", text)
    return list(texts)


def checked_references(predictions: Sequence[str], references: Sequence[Sequence[str] | str]) -> list[list[str]]:
    """References as a list per prediction; InputError where their numbers differ, a prediction has none, or what should
    be a text is none."""
    checked_texts(predictions)
    require(not isinstance(references, str), "references: must be a list, got a single text; put [ ] around it")
    if len(predictions) != len(references):
        raise InputError(f"{len(predictions)} predictions against {len(references)} lists of references; give one each")
    listed = [[own] if isinstance(own, str) else list(own) for own in references]
    for number, own in enumerate(listed):
        require(own, f"prediction {number} has no references; give at least one, or leave the prediction out")
        checked_texts(own, f"references of prediction {number}")
    return listed


def sacre_update(metric, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """Per-sentence statistics of a sacrebleu metric object."""
    references = checked_references(predictions, references)
    if not references:
        return []
    longest = max(map(len, references))
    # sacrebleu wants one stream per reference number, None where a sentence has fewer.
    padded = [[*own, *[None] * (longest - len(own))] for own in references]
    streams = [list(stream) for stream in zip(*padded)]
    return metric._extract_corpus_statistics(list(predictions), streams)


def sacre_compute(metric, totals: Tensor) -> float:
    """The corpus score of summed statistics, in sacrebleu's points."""
    return metric._compute_score_from_stats(totals.tolist()).score


class SacreMetric(SegmentMetric):
    """`update(predictions, references)`: strings, and a list of strings for each. A subclass builds `metric`."""

    unit = "sentences"
    takes = "texts"
    columns: int
    metric: Any  # of sacrebleu, which has no types

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows("reference_counts")

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        references = checked_references(predictions, references)
        self.append("reference_counts", table([[len(own)] for own in references], 1))
        return table(sacre_update(self.metric, predictions, references), self.columns)

    def score(self, total: Tensor) -> float:
        return sacre_compute(self.metric, total)

    def provenance(self) -> dict:
        """What sacrebleu's own signature says; its number of references is that of the whole corpus."""
        counts = set(self.rows("reference_counts")[:, 0].tolist())
        self.metric.num_refs = int(counts.pop()) if len(counts) == 1 else -1
        facts = dict(self.metric.get_signature().info)
        version = facts.pop("version")
        return {**facts, "sacrebleu": version}


class BLEU(SacreMetric):
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002); a tie between reference lengths goes to the shortest.

    tokenize: sacrebleu's "13a", "zh", "char", "flores200", ...; smooth: "exp", "floor", "add-k" or "none".
    """

    name = "bleu"
    higher_is_better = True
    columns = 10

    def __init__(self, *, tokenize: str = "13a", lowercase: bool = False, smooth: str = "exp", **kwargs):
        super().__init__(**kwargs)
        sacre = extra_module("sacrebleu.metrics", "bleu")
        for field, given, known in (
            ("tokenize", tokenize, sacre.BLEU.TOKENIZERS),
            ("smooth", smooth, sacre.BLEU.SMOOTH_DEFAULTS),
        ):
            require(given in known, f"bleu: {field} {given!r} is not known" + nearest(given, known))
        self.metric = sacre.BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method=smooth)

    def cautions(self, rows: Tensor) -> list[str]:
        silent = not rows[:, -1].any()  # the last column counts the predictions' 4-grams
        return ["no prediction has four words, so BLEU is 0 whatever they say; use chrf"] if silent else []

    def details(self, rows: Tensor) -> dict[str, float]:
        found = self.metric._compute_score_from_stats(rows.sum(0).tolist())
        return {"brevity_penalty": found.bp, **{f"precision_{i + 1}": p for i, p in enumerate(found.precisions)}}


class ChrF(SacreMetric):
    """chrF2, 0 to 100 (Popovic 2015); word_order=2 makes it chrF++ (Popovic 2017)."""

    higher_is_better = True

    def __init__(self, *, word_order: int = 0, lowercase: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.metric = extra_module("sacrebleu.metrics", "chrf").CHRF(word_order=word_order, lowercase=lowercase)
        self.name = "chrf" + "+" * word_order
        self.columns = 3 * (self.metric.char_order + word_order)


class TER(SacreMetric):
    """Translation edit rate in points, with shifts (Snover et al. 2006); lower is better, above 100 possible."""

    name = "ter"
    higher_is_better = False
    columns = 2

    def __init__(self, *, normalized: bool = False, case_sensitive: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.metric = extra_module("sacrebleu.metrics", "ter").TER(normalized=normalized, case_sensitive=case_sensitive)
