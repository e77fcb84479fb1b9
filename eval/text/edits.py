"""Error rates by alignment: WER, CER, MER, WIL, unit error rate; and edit_update / the formulas they are made of.

An alignment of least edits between prediction and reference counts H hits, S substitutions, D deletions, I insertions
(Morris et al. 2004):   WER = (S + D + I) / (H + S + D)   MER = (S + D + I) / (H + S + D + I)
                        WIL = 1 - H^2 / ((H + S + D) (H + S + I))
Counts are summed over the corpus. The alignment is rapidfuzz's, as in jiwer: MER and WIL depend on it where alignments
tie. Characters are code points of the stripped text. Words are what lies between any Unicode spaces (`str.split`):
tabs, line feeds and no-break spaces too, where jiwer's default splits at U+0020 alone. There is no other normalisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.extras import extra_module
from mot_gen.eval.text.segments import SegmentMetric, table

Units = Callable[[Any], Sequence[Hashable]]


def edit_update(predictions: Sequence, references: Sequence, units: Units = str.split) -> list[list[int]]:
    """(hits, substitutions, deletions, insertions) of each pair, counted in what `units` makes of an item."""
    if len(predictions) != len(references):
        raise InputError(
            f"{len(predictions)} predictions against {len(references)} references; give one reference each"
        )
    for name, items in (("predictions", predictions), ("references", references)):
        require(not isinstance(items, str), f"{name}: must be a list, got a single text; put [ ] around it")
    levenshtein = extra_module("rapidfuzz.distance", "error rate").Levenshtein
    rows = []
    for number, (prediction, reference) in enumerate(zip(predictions, references)):
        wanted = _units_of(only(reference), units, f"reference {number}")
        found = _units_of(prediction, units, f"prediction {number}")
        edits = Counter(step.tag for step in levenshtein.editops(wanted, found))
        substituted, deleted, inserted = edits["replace"], edits["delete"], edits["insert"]
        hits = len(wanted) - substituted - deleted
        rows.append([hits, substituted, deleted, inserted])
    return rows


def _units_of(item: Any, units: Units, name: str) -> Sequence[Hashable]:
    """What an item is counted in; InputError for what is no text, or no sequence of units."""
    try:
        return units(item)
    except (TypeError, AttributeError):
        raise InputError(f"{name}: cannot be counted in words or units, got {item!r:.60}") from None


def only(reference):
    """The one reference of an item given as it is, or as a list of one as in a jsonl of predictions."""
    if isinstance(reference, list) and reference and isinstance(reference[0], (str, list)):
        if len(reference) > 1:
            raise InputError(
                f"error rates need one reference a prediction, got {len(reference)}: {str(reference[0])[:40]!r}, ..."
            )
        return reference[0]
    return reference


def word_error_rate(counts: Tensor) -> float:
    """(S + D + I) / N of summed counts (4,), N the units of the reference."""
    hits, wrong, lost, added = counts.tolist()
    return (wrong + lost + added) / _reference_units(hits + wrong + lost)


def match_error_rate(counts: Tensor) -> float:
    """(S + D + I) / (H + S + D + I): the share of matches that are wrong, at most 1."""
    hits, wrong, lost, added = counts.tolist()
    return (wrong + lost + added) / _reference_units(hits + wrong + lost + added)


def word_information_lost(counts: Tensor) -> float:
    """1 - H/N_reference * H/N_prediction, at most 1; 1 for a prediction of nothing."""
    hits, wrong, lost, added = counts.tolist()
    predicted = hits + wrong + added
    recall = hits / _reference_units(hits + wrong + lost)
    precision = hits / predicted if predicted else 0.0
    return 1 - recall * precision


def _reference_units(count: float) -> float:
    require(count, "error rate: every reference is empty, so there is nothing to divide by; check the references")
    return count


class EditMetric(SegmentMetric):
    """`update(predictions, references)`: strings, one reference each. A subclass states `units` and `score`."""

    unit = "utterances"
    takes = "transcripts"
    higher_is_better = False
    units: Units = staticmethod(str.split)
    units_name = "words-at-unicode-spaces"

    def score(self, total: Tensor) -> float:
        return word_error_rate(total)

    def statistics(self, predictions: Sequence, references: Sequence) -> Tensor:
        return table(edit_update(predictions, references, self.units), 4)

    def counts(self, rows: Tensor) -> dict[str, int]:
        return {"reference_units": int(rows[:, :3].sum())}

    def provenance(self) -> dict:
        return {"units": self.units_name}

    def details(self, rows: Tensor) -> dict[str, float]:
        return dict(zip(("hits", "substitutions", "deletions", "insertions"), rows.sum(0).tolist()))

    def segment_scores(self) -> list[float]:
        """An utterance whose reference is empty counts its insertions: it has no rate of its own."""
        rows = self.rows("table")
        return [self.score(row) if row[:3].sum() else row[3].item() for row in rows]


class WordErrorRate(EditMetric):
    """Word error rate, a fraction."""

    name = "wer"


class CharacterErrorRate(EditMetric):
    """Character error rate, a fraction; the one to use where words are not written apart (CJK)."""

    name = "cer"
    units = staticmethod(lambda text: list(text.strip()))
    units_name = "characters"


class MatchErrorRate(EditMetric):
    """Match error rate, a fraction of at most 1."""

    name = "mer"

    def score(self, total: Tensor) -> float:
        return match_error_rate(total)


class WordInformationLost(EditMetric):
    """Word information lost, a fraction of at most 1."""

    name = "wil"

    def score(self, total: Tensor) -> float:
        return word_information_lost(total)


class UnitErrorRate(EditMetric):
    """Unit error rate of speech units: `update(predictions, references)` of integer sequences or tensors."""

    name = "uer"
    takes = "units"
    units_name = "ids"

    @staticmethod
    def units(ids: Sequence[int] | Tensor) -> list[int]:
        """A sequence or a tensor as a list."""
        if isinstance(ids, Tensor):
            return ids.tolist()
        return list(ids)
