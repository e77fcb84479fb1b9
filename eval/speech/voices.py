"""Speech by networks from a folder: SpeakerSimilarity, and PredictedOpinion, an estimate of how listeners rate it.

Speaker similarity is the cosine of speaker embeddings of two recordings, by a transformers model of speaker
verification (WavLM or wav2vec 2.0 with x-vectors). A predicted opinion score is the one output of a transformers audio
classifier with one label, as MOS predictors of UTMOS' kind are trained. DNSMOS is in mot_gen.eval.speech.audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.speech.audio import checked_waveforms
from mot_gen.eval.text.segments import SegmentMetric, mean_rows, mean_score
from mot_gen.eval.transformers_folders import network_of, processor_of

SAMPLE_RATE = 16000


class SpeechNetwork(nn.Module):
    """A transformers model of sound from a folder, called with one waveform (T,) at 16 kHz.

    kind: the transformers class that loads it.
    """

    def __init__(self, folder: str | Path, kind: str):
        import transformers

        super().__init__()
        wanted = "save a model of this kind and its feature extractor there"
        self.model = network_of(getattr(transformers, kind), folder, wanted)
        self.features = processor_of(transformers.AutoFeatureExtractor, folder)
        if self.features.sampling_rate != SAMPLE_RATE:
            raise InputError(f"{folder}: hears at {self.features.sampling_rate} Hz; give a model of {SAMPLE_RATE} Hz")
        self.name, self.sha256 = Path(folder).name, weights_sha256(self.model)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Any:
        """What the model returns for (T,) in [-1, 1]."""
        sound = checked_waveforms(waveform[None])[0].cpu().numpy()
        prepared = self.features(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self.model.device)
        try:
            with precision("float32", self.model.device.type):
                return self.model(**prepared)
        except RuntimeError as error:
            if len(sound) >= SAMPLE_RATE:
                raise
            # Convolutions refuse what is shorter than they are.
            raise InputError(f"{self.name}: cannot hear {len(sound)} samples; give sounds of a second") from error

    def provenance(self) -> dict[str, str]:
        return {"extractor": self.name, "sha256": self.sha256, "dtype": "float32"}


def speech_network(given: SpeechNetwork | str | Path | None, kind: str) -> SpeechNetwork | None:
    """The network of a folder; a network, or None, as it is."""
    return SpeechNetwork(given, kind) if isinstance(given, (str, Path)) else given


class SpeakerSimilarity(SegmentMetric):
    """`update(predictions, references)`: waveforms (T,) at 16 kHz with an `encoder`, or embeddings (N, d).

    encoder: a folder with a transformers model of x-vectors and its feature extractor.
    """

    name = "speaker_similarity"
    unit = "utterances"
    takes = "image and text embeddings"
    higher_is_better = True

    def __init__(self, encoder: SpeechNetwork | str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self.encoder = speech_network(encoder, "AutoModelForAudioXVector")

    def statistics(self, predictions: Tensor | Sequence[Tensor], references: Tensor | Sequence[Tensor]) -> Tensor:
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions against {len(references)} references; give one each")
        one, two = self.embeddings(predictions), self.embeddings(references)
        return mean_rows(torch.cosine_similarity(one.double(), two.double(), dim=-1))

    def embeddings(self, sounds: Tensor | Sequence[Tensor]) -> Tensor:
        """(N, d) of waveforms; embeddings as they are."""
        if isinstance(sounds, Tensor):
            return sounds
        if self.encoder is None:
            raise InputError("speaker_similarity: sounds without a model; pass the folder of one, or embeddings (N, d)")
        return torch.stack([self.encoder(sound).embeddings[0] for sound in sounds])

    def score(self, total: Tensor) -> float:
        return mean_score(total)

    def provenance(self) -> dict:
        return {"extractor": "embeddings"} if self.encoder is None else self.encoder.provenance()


class PredictedOpinion(SegmentMetric):
    """`update(sounds)`: waveforms (T,) at 16 kHz with a `network`, or scores (N,) that were predicted elsewhere.

    network: a folder with a transformers audio classifier of one label and its feature extractor.
    """

    name = "predicted_mos"
    unit = "utterances"
    takes = "opinion scores"
    higher_is_better = True

    def __init__(self, network: SpeechNetwork | str | Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self.network = speech_network(network, "AutoModelForAudioClassification")
        labels = None if self.network is None else self.network.model.config.num_labels
        if labels not in (None, 1):
            raise InputError(f"predicted_mos: the model has {labels} outputs; give one that predicts a single score")

    def statistics(self, sounds: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(sounds, Tensor):
            return mean_rows(sounds)
        if self.network is None:
            raise InputError("predicted_mos: sounds without a model; pass the folder of one, or scores (N,)")
        scores = [self.network(sound).logits[0, 0].item() for sound in sounds]
        return mean_rows(torch.tensor(scores, dtype=torch.float64))

    def score(self, total: Tensor) -> float:
        return mean_score(total)

    def provenance(self) -> dict:
        return {"extractor": "scores"} if self.network is None else self.network.provenance()
