"""BERTScore (Zhang et al. 2020): BERTScore, and the pure greedy_match.

Every token of one text is matched with the token of the other whose contextual embedding is nearest by cosine.
Precision is the mean over the prediction's tokens, recall over the reference's, and the score is their F1. Special
tokens may be matched but are not averaged, as in the authors' package; there is no idf weighting and no rescaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mot_gen.errors import InputError, require
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.embeddings import TextEncoder, TokenEmbeddings
from mot_gen.eval.text.segments import SegmentTable, table

PARTS = ("precision", "recall", "f1")
Side = str | Tensor


def greedy_match(prediction: TokenEmbeddings, reference: TokenEmbeddings) -> tuple[float, float, float]:
    """Precision, recall and F1 of one pair; zeros where either has no token that counts."""
    if not prediction.counted.any() or not reference.counted.any():
        return 0.0, 0.0, 0.0
    one, two = normalize(prediction.vectors.double(), dim=1), normalize(reference.vectors.double(), dim=1)
    cosines = one @ two.mT
    precision = cosines.amax(1)[prediction.counted].mean().item()
    recall = cosines.amax(0)[reference.counted].mean().item()
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


class BERTScore(SegmentTable):
    """`update(predictions, references)`: texts with an `encoder`, or token embeddings (n, d); a list of references for
    each, of which the best by F1 counts. `compute()` gives bertscore_precision, bertscore_recall and bertscore_f1.

    encoder: a folder of a transformers model, or a TextEncoder; layer: of its hidden states, None for the last.
    """

    name = "bertscore_f1"
    unit = "pairs"
    takes = "token embeddings"
    higher_is_better = True

    def __init__(self, encoder: TextEncoder | str | Path | None = None, *, layer: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.encoder = TextEncoder(encoder, layer) if isinstance(encoder, (str, Path)) else encoder

    def statistics(self, predictions: Sequence[Side], references: Sequence[Side | Sequence[Side]]) -> Tensor:
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions against {len(references)} references; give one each")
        rows = []
        for prediction, own in zip(predictions, references):
            listed = [own] if isinstance(own, (str, Tensor)) else list(own)
            require(listed, "a prediction has no references; give at least one, or leave the prediction out")
            made = self._embedded(prediction)
            best = max((greedy_match(made, self._embedded(one)) for one in listed), key=lambda found: found[2])
            rows.append([*best, 1.0])
        return table(rows, len(PARTS) + 1)

    def _embedded(self, side: Side) -> TokenEmbeddings:
        if isinstance(side, Tensor):
            return TokenEmbeddings(side, torch.ones(len(side), dtype=torch.bool, device=side.device))
        if self.encoder is None:
            raise InputError("bertscore: texts without a model; pass the folder of a transformers model, or embeddings")
        return self.encoder.tokens(side)

    def score(self, total: Tensor) -> float:
        return (total[2] / total[3]).item()

    def compute(self) -> dict[str, MetricResult]:
        found = {}
        for number, part in enumerate(PARTS):
            found[f"bertscore_{part}"] = self.result(f"bertscore_{part}", _mean_of(number))
        return found

    def provenance(self) -> dict:
        facts = {"extractor": "embeddings"} if self.encoder is None else self.encoder.provenance()
        return {**facts, "idf": False, "rescaled": False}


def _mean_of(column: int):
    return lambda total: (total[column] / total[-1]).item()
