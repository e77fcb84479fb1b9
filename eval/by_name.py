"""Metrics by their short names, as the command line, recipes and Python say them: SETS, PAIRS, TEXT, SPEECH, ...

A name stands for a metric with all that changes its number, so that "bleu" on the command line, in a recipe and in
metrics.jsonl is one metric. `MetricOptions` are the settings that may be chosen beside the name. A metric's module is
imported when the metric is made, so that looking at names costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.extras import from_options

if TYPE_CHECKING:
    from mot_gen.eval.accumulator import Accumulator
    from mot_gen.eval.images.clip import ClipEncoder
    from mot_gen.eval.images.extractors import Extractor
    from mot_gen.eval.images.statistics import ReferenceStatistics
    from mot_gen.eval.result import MetricResult

SAMPLE_RATE = 16000  # of the metrics that hear


@dataclass(frozen=True)
class MetricOptions:
    """Settings beside a metric's name; those that a metric does not know are ignored.

    confidence: e.g. 0.95 for an interval.
    seed: of what is drawn at random.
    tokenize, lowercase: of BLEU and chrF.
    rouge_tokenize: of ROUGE, "latin" or "unicode".
    extractor: of image features.
    reference: its statistics in place of real images.
    clip: a CLIP.
    lpips: weights of LPIPS' trunk.
    pickscore, hpsv2, vqa, mauve, bertscore, speaker, mos: the model of that metric, a folder or what its class takes.
    bertscore_layer: of its hidden states, None for the last.
    """

    confidence: float | None = None
    seed: int = 0
    tokenize: str = "13a"
    rouge_tokenize: str = "latin"
    lowercase: bool = False
    extractor: Extractor | None = None
    reference: ReferenceStatistics | None = None
    clip: ClipEncoder | None = None
    lpips: str | None = None
    pickscore: Any = None
    hpsv2: Any = None
    vqa: Any = None
    mauve: Any = None
    bertscore: Any = None
    bertscore_layer: int | None = None
    speaker: Any = None
    mos: Any = None


def choices_from(options: Mapping[str, Any]) -> MetricOptions:
    """`MetricOptions` of options by name; InputError for one that is not known."""
    return from_options(MetricOptions, options)


# What to do about a choice that a metric cannot do without.
REMEDIES = {
    "clip": "no model given; name the folder of a CLIP that transformers saved: --clip, or evaluation.clip",
    "pickscore": "no model given; name the folder of yuvalkirstain/PickScore_v1: --pickscore FOLDER",
    "hpsv2": "no model given; name the folder of HPSv2's weights as a transformers CLIP: --hpsv2 FOLDER",
    "vqa": "no model given; name the folder of a transformers image-to-text model, or module:function: --vqa MODEL",
    "mauve": "no model given; name the folder of a transformers language model: --mauve FOLDER",
    "bertscore": "no model given; name the folder of a transformers model: --bertscore FOLDER",
    "speaker": "no model given; name the folder of a transformers model of x-vectors: --speaker FOLDER",
    "mos": "no model given; name the folder of a transformers audio classifier with one label: --mos FOLDER",
}


@dataclass(frozen=True)
class Builder:
    """How a name makes its metric: called with `MetricOptions`, it gives an Accumulator.

    target: "module:callable", the module below `package`.
    takes: which choices are handed on, as "choice", or "option=choice" where the callable has another word for it.
    needs: choices without which the metric cannot be made.
    fixed: options that belong to the name.
    package: what stands before the module's name; "" for one of your own.
    """

    target: str
    takes: str = ""
    needs: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    package: str = "mot_gen.eval."

    def __call__(self, choices: MetricOptions) -> Accumulator:
        options = dict(self.fixed)
        for word in f"{self.takes} {self.needs}".split():
            option, _, choice = word.partition("=")
            options[option] = getattr(choices, choice or option)
        self.check(choices)
        module, name = self.target.split(":")
        return getattr(importlib.import_module(self.package + module), name)(**options)

    def missing(self, choices: MetricOptions) -> list[str]:
        """The choices that are not made, and without which the metric cannot be made."""
        needed = [word.rpartition("=")[2] for word in self.needs.split()]
        return [choice for choice in needed if getattr(choices, choice) is None]

    def check(self, choices: MetricOptions) -> None:
        """InputError where a choice is missing."""
        for choice in self.missing(choices):
            raise InputError(f"{choice}: {REMEDIES[choice]}")


_FEATURES = "feature_extractor=extractor"

SETS: dict[str, Builder] = {
    "fd": Builder("images.frechet:FrechetDistance", f"{_FEATURES} reference confidence"),
    "kd": Builder("images.kernel:KernelDistance", f"{_FEATURES} seed confidence"),
    "cmmd": Builder("images.kernel:KernelDistance", _FEATURES, fixed={"kernel": "gaussian"}),
    "pr": Builder("images.precision_recall:PrecisionRecall", _FEATURES),
    "fdinf": Builder("images.frechet_infinity:FrechetInfinity", f"{_FEATURES} seed"),
    "vendi": Builder("images.vendi:VendiScore", _FEATURES),
    "memorization": Builder("images.memorization:Memorization", _FEATURES),
}
PAIRS: dict[str, Builder] = {
    "psnr": Builder("images.image_pairs:PSNR", "confidence"),
    "ssim": Builder("images.image_pairs:SSIM", "confidence"),
    "lpips": Builder("images.image_pairs:LPIPS", "weights=lpips confidence"),
}
ERROR_RATES: dict[str, Builder] = {
    "wer": Builder("text.edits:WordErrorRate", "confidence"),
    "cer": Builder("text.edits:CharacterErrorRate", "confidence"),
    "mer": Builder("text.edits:MatchErrorRate", "confidence"),
    "wil": Builder("text.edits:WordInformationLost", "confidence"),
}


def _rouge(*variants: str) -> Builder:
    return Builder("text.rouge:ROUGE", "tokenize=rouge_tokenize confidence", fixed={"variants": variants})


TEXT: dict[str, Builder] = {
    "bleu": Builder("text.mt:BLEU", "tokenize lowercase confidence"),
    "chrf": Builder("text.mt:ChrF", "lowercase confidence"),
    "chrf++": Builder("text.mt:ChrF", "lowercase confidence", fixed={"word_order": 2}),
    "ter": Builder("text.mt:TER", "confidence"),
    "rouge": _rouge("rouge1", "rouge2", "rougeL"),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "rougeLsum": _rouge("rougeLsum"),
    "cider-d": Builder("text.cider:CIDEr", fixed={"tokenize": "caption"}),
    "cider": Builder("text.cider:CIDEr", fixed={"tokenize": "caption", "variant": "cider"}),
    "meteor": Builder("text.meteor:METEOR", "confidence"),
    "exact_match": Builder("text.answers:ExactMatch", "confidence"),
    "token_f1": Builder("text.answers:TokenF1", "confidence"),
    "distinct_1": Builder("text.diversity:DistinctN", fixed={"n": 1}),
    "distinct_2": Builder("text.diversity:DistinctN", fixed={"n": 2}),
    "self_bleu": Builder("text.diversity:SelfBLEU", "tokenize"),
    "mauve": Builder("text.mauve:MAUVE", "seed", needs="encoder=mauve"),
    "bertscore": Builder("text.bert_score:BERTScore", "layer=bertscore_layer confidence", needs="encoder=bertscore"),
    **ERROR_RATES,
}
LIKELIHOOD: dict[str, Builder] = {"bits_per_byte": Builder("text.likelihood:BitsPerByte", "confidence")}
SOUND: dict[str, Builder] = {
    "mcd": Builder("speech.mel_cepstral:MelCepstralDistortion", "confidence", fixed={"sample_rate": SAMPLE_RATE}),
    "fad": Builder("speech.audio:log_mel_distance", "confidence", fixed={"sample_rate": SAMPLE_RATE}),
    "speaker": Builder("speech.voices:SpeakerSimilarity", "confidence", needs="encoder=speaker"),
    "mos": Builder("speech.voices:PredictedOpinion", "confidence", needs="network=mos"),
}
SPEECH: dict[str, Builder] = {
    **ERROR_RATES,
    "uer": Builder("text.edits:UnitErrorRate", "confidence"),
    **SOUND,
}
IMAGE_TEXT: dict[str, Builder] = {
    "clip": Builder("images.clip:CLIPScore", "confidence", needs="encoder=clip"),
    "refclip": Builder("images.clip:RefCLIPScore", "confidence", needs="encoder=clip"),
    "r_precision": Builder("images.clip:RPrecision", "confidence", needs="encoder=clip"),
    "pickscore": Builder("images.preference:PreferenceScore", "confidence", "encoder=pickscore", {"kind": "pickscore"}),
    "hpsv2": Builder("images.preference:PreferenceScore", "confidence", "encoder=hpsv2", {"kind": "hpsv2"}),
    "vqa": Builder("images.vqa:VQAScore", "confidence", needs="model=vqa"),
    "ocr": Builder("images.ocr:OcrAccuracy", "confidence"),
}

OF_IMAGES = (*SETS, "is", *PAIRS)  # of a set of images against another

# Of a model that is trained, along the way and at the end: sets, how well pictures show their captions, and texts.
EVALUATED = {**SETS, **{name: IMAGE_TEXT[name] for name in ("clip", "refclip")}, **TEXT, **LIKELIHOOD}


def chosen_names(names: str | Iterable[str], allowed: Iterable[str], where: str = "--metrics") -> list[str]:
    """Names from "a,b" or a list, each once; InputError for one that is not known, or for none at all."""
    allowed = list(allowed)
    listed = names.split(",") if isinstance(names, str) else names
    found = list(dict.fromkeys(name.strip() for name in listed if name.strip()))
    for name in found:
        if name not in allowed:
            raise InputError(f"{where}: {name!r} is not known" + nearest(name, allowed))
    require(found, f"{where}: names none; one of: {', '.join(allowed)}")
    return found


def update_text(metric: Accumulator, predictions: list[str], references: list[list[str]]) -> None:
    """One batch into a metric of TEXT. Some look at the predictions alone, some at two sets of texts, not at pairs."""
    if metric.takes == "predictions":
        metric.update(predictions)
    elif metric.takes == "features":
        metric.update(predictions, real=False)
        metric.update([own[0] for own in references], real=True)
    else:
        metric.update(predictions, references)


def results_of(metrics: Mapping[str, Accumulator]) -> dict[str, MetricResult]:
    """What each computes, under its short name, or under its own names where it has several."""
    results: dict[str, MetricResult] = {}
    for name, metric in metrics.items():
        found = metric.compute()
        if not isinstance(found, dict):
            found = {name: found}
        results.update(found)
    return results
