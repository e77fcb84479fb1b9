"""METEOR (Banerjee and Lavie 2005): METEOR, over nltk's alignment by exact words, then stems, then WordNet synonyms.

WordNet is data that nltk keeps apart. Without it METEOR is an error that says how to get it, or, with synonyms=False,
the score by exact words and stems alone, which says so in its signature and is not comparable with the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.cider import caption_words
from mot_gen.eval.extras import require
from mot_gen.eval.mt import checked_references
from mot_gen.eval.rouge import text_tokenizer
from mot_gen.eval.segments import SegmentMetric, mean_rows, mean_score


class NoSynonyms:
    """A WordNet that knows no word."""

    @staticmethod
    def synsets(word: str) -> list:
        return []


def load_wordnet():
    """nltk's WordNet; InputError where its data is not installed."""
    require("nltk", "METEOR")
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as err:
        raise InputError(
            "METEOR: WordNet is not installed; python -m nltk.downloader wordnet, or synonyms=False for stems alone"
        ) from err
    return wordnet


def meteor_update(prediction: Sequence[str], references: Sequence[Sequence[str]], wordnet) -> float:
    """Score of one tokenised prediction by its best reference: alpha = 0.9, beta = 3, gamma = 0.5."""
    score = require("nltk.translate.meteor_score", "METEOR").single_meteor_score
    return max(score(own, prediction, wordnet=wordnet) if own and prediction else 0.0 for own in references)


class METEOR(SegmentMetric):
    """`update(predictions, references)`: mean over the items, in [0, 1]. tokenize: "caption" (lower case, no
    punctuation), "whitespace", or a callable."""

    name = "meteor"
    unit = "pairs"
    takes = "texts"
    higher_is_better = True
    score = staticmethod(mean_score)

    def __init__(self, *, synonyms: bool = True, tokenize: str | Callable = "caption", **kwargs):
        super().__init__(**kwargs)
        self.wordnet = load_wordnet() if synonyms else NoSynonyms()
        self.modules = "exact+stem+synonym" if synonyms else "exact+stem"
        self.tokenize_name = tokenize if isinstance(tokenize, str) else getattr(tokenize, "__name__", "custom")
        self.tokenize = text_tokenizer(tokenize, {"caption": caption_words, "whitespace": str.split})
        require("nltk", "METEOR")

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        scores = [
            meteor_update(self.tokenize(prediction), [self.tokenize(text) for text in own], self.wordnet)
            for prediction, own in zip(predictions, checked_references(predictions, references))
        ]
        return mean_rows(torch.tensor(scores, dtype=torch.float64))

    def provenance(self) -> dict:
        return {"modules": self.modules, "tokenize": self.tokenize_name, "parameters": "0.9-3-0.5"}
