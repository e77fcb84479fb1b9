"""Metrics by their short names, as the command line and recipes say them: SETS, PAIRS, TEXT, SPEECH, ...

A name stands for a metric with all that changes its number, so that "bleu" on the command line, in a recipe and in
metrics.jsonl is one metric. `Choices` are the settings that may be chosen beside the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mot_gen.errors import InputError, nearest
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images.clip import ClipEncoder, CLIPScore, RefCLIPScore, RPrecision
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.frechet_infinity import FrechetInfinity
from mot_gen.eval.images.image_pairs import LPIPS, PSNR, SSIM
from mot_gen.eval.images.kernel import KernelDistance
from mot_gen.eval.images.ocr import OcrAccuracy
from mot_gen.eval.images.precision_recall import PrecisionRecall
from mot_gen.eval.images.statistics import ReferenceStatistics
from mot_gen.eval.result import MetricResult
from mot_gen.eval.speech.audio import log_mel_extractor
from mot_gen.eval.speech.mel_cepstral import MelCepstralDistortion
from mot_gen.eval.text.answers import ExactMatch, TokenF1
from mot_gen.eval.text.cider import CIDEr
from mot_gen.eval.text.diversity import DistinctN, SelfBLEU
from mot_gen.eval.text.edits import (
    CharacterErrorRate,
    MatchErrorRate,
    UnitErrorRate,
    WordErrorRate,
    WordInformationLost,
)
from mot_gen.eval.text.likelihood import BitsPerByte
from mot_gen.eval.text.meteor import METEOR
from mot_gen.eval.text.mt import BLEU, TER, ChrF
from mot_gen.eval.text.rouge import ROUGE

SAMPLE_RATE = 16000  # of the metrics that hear


@dataclass(frozen=True)
class Choices:
    """Settings beside a metric's name. extractor: of features; reference: its statistics in place of real images; clip:
    a CLIP; lpips: weights of its AlexNet; the others as the metrics call them."""

    confidence: float | None = None
    seed: int = 0
    tokenize: str = "13a"
    rouge_tokenize: str = "latin"
    lowercase: bool = False
    extractor: Extractor | None = None
    reference: ReferenceStatistics | None = None
    clip: ClipEncoder | None = None
    lpips: str | None = None


Builder = Callable[[Choices], Accumulator]

SETS: dict[str, Builder] = {
    "fd": lambda c: FrechetDistance(c.extractor, reference=c.reference, confidence=c.confidence),
    "kd": lambda c: KernelDistance(c.extractor, seed=c.seed, confidence=c.confidence),
    "cmmd": lambda c: KernelDistance(c.extractor, kernel="gaussian"),
    "pr": lambda c: PrecisionRecall(c.extractor),
    "fdinf": lambda c: FrechetInfinity(c.extractor, seed=c.seed),
}
PAIRS: dict[str, Builder] = {
    "psnr": lambda c: PSNR(confidence=c.confidence),
    "ssim": lambda c: SSIM(confidence=c.confidence),
    "lpips": lambda c: LPIPS(weights=c.lpips, confidence=c.confidence),
}
TEXT: dict[str, Builder] = {
    "bleu": lambda c: BLEU(tokenize=c.tokenize, lowercase=c.lowercase, confidence=c.confidence),
    "chrf": lambda c: ChrF(lowercase=c.lowercase, confidence=c.confidence),
    "chrf++": lambda c: ChrF(word_order=2, lowercase=c.lowercase, confidence=c.confidence),
    "ter": lambda c: TER(case_sensitive=not c.lowercase, confidence=c.confidence),
    "rouge": lambda c: ROUGE(tokenize=c.rouge_tokenize, confidence=c.confidence),
    "cider-d": lambda c: CIDEr(tokenize="caption"),
    "cider": lambda c: CIDEr(variant="cider", tokenize="caption"),
    "meteor": lambda c: METEOR(confidence=c.confidence),
    "exact_match": lambda c: ExactMatch(confidence=c.confidence),
    "token_f1": lambda c: TokenF1(confidence=c.confidence),
    "distinct_1": lambda c: DistinctN(1),
    "distinct_2": lambda c: DistinctN(2),
    "self_bleu": lambda c: SelfBLEU(tokenize=c.tokenize),
}
LIKELIHOOD: dict[str, Builder] = {"bits_per_byte": lambda c: BitsPerByte(confidence=c.confidence)}
SPEECH: dict[str, Builder] = {
    "wer": lambda c: WordErrorRate(confidence=c.confidence),
    "cer": lambda c: CharacterErrorRate(confidence=c.confidence),
    "mer": lambda c: MatchErrorRate(confidence=c.confidence),
    "wil": lambda c: WordInformationLost(confidence=c.confidence),
    "uer": lambda c: UnitErrorRate(confidence=c.confidence),
    "mcd": lambda c: MelCepstralDistortion(sample_rate=SAMPLE_RATE, confidence=c.confidence),
    "fad": lambda c: FrechetDistance(log_mel_extractor(SAMPLE_RATE), confidence=c.confidence),
}
IMAGE_TEXT: dict[str, Builder] = {
    "clip": lambda c: CLIPScore(_given(c.clip), confidence=c.confidence),
    "refclip": lambda c: RefCLIPScore(_given(c.clip), confidence=c.confidence),
    "r_precision": lambda c: RPrecision(_given(c.clip), confidence=c.confidence),
    "ocr": lambda c: OcrAccuracy(confidence=c.confidence),
}


def _given(clip: ClipEncoder | None) -> ClipEncoder:
    if clip is None:
        raise InputError(
            "clip: no model given; name the folder of a CLIP that transformers saved: --clip, or evaluation.clip"
        )
    return clip


def chosen(names: str | Iterable[str], allowed: Iterable[str], field: str = "--metrics") -> list[str]:
    """Names from "a,b" or a list, each once; InputError for one that is not known, or for none at all."""
    names = names.split(",") if isinstance(names, str) else names
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in found:
        if name not in allowed:
            raise InputError(f"{field}: {name!r} is not known" + nearest(name, allowed))
    if not found:
        raise InputError(f"{field}: names none; one of: {', '.join(allowed)}")
    return found


def update_text(metric: Accumulator, predictions: list[str], references: list[list[str]]):
    """One batch into a metric of TEXT, some of which look at the predictions alone."""
    metric.update(*([predictions] if metric.takes == "predictions" else [predictions, references]))


def results_of(metrics: Mapping[str, Accumulator]) -> dict[str, MetricResult]:
    """What each computes, under its short name, or under its own names where it has several."""
    results: dict[str, MetricResult] = {}
    for name, metric in metrics.items():
        found = metric.compute()
        results.update(found if isinstance(found, dict) else {name: found})
    return results
