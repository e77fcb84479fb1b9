"""SpeechUnitTokenizer: recordings as the ids of clusters of speech, 25 a second, and back to sound.

Discrete units of speech as in GSLM (Lakhotia et al., 2021, arXiv 2102.01192) and in the speech setting of
Mixture-of-Transformers (500 units at 25 Hz, arXiv 2411.04996). They are learned by train_speech_units.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline looks for ModelMixin here
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.sequence import Modality, Span
from mot_gen.sequence.moving import upload
from mot_gen.tokenizers.pretrained import NetworkTokenizer
from mot_gen.tokenizers.quantizers import NearestEntry
from mot_gen.tokenizers.span_ids import check_ids
from mot_gen.tokenizers.speech_decoder import DecoderConfig, UnitDecoder
from mot_gen.tokenizers.speech_features import EncoderFeatures, LogMelFeatures, MelSettings, at_level, of_equal_length
from mot_gen.tokenizers.speech_vocoder import TransformersVocoder, griffin_lim

MAX_DURATION = 25  # units' time that a decoder may give to one unit


class SpeechUnitTokenizer(NetworkTokenizer):
    """A recording (see mot_gen.files.audio_files) <-> a span of (n,) unit ids.

    feature_config: arguments of LogMelFeatures, or of EncoderFeatures where they hold a `config`.
    vocab_size: of clusters.
    collapse: a unit that comes several times in a row is written once, and the decoder guesses how long it lasts; else
    spans have exactly 25 ids a second.
    mel_config: fields of MelSettings, the spectrogram that the decoder writes.
    decoder_config: fields of DecoderConfig.
    vocoder_config: that of a transformers vocoder; Griffin-Lim without.
    """

    discrete = True  # its tokens are ids

    @register_to_config
    def __init__(
        self,
        feature_config: dict | None = None,
        vocab_size: int = 500,
        collapse: bool = False,
        mel_config: dict | None = None,
        decoder_config: dict | None = None,
        vocoder_config: dict | None = None,
        name: str = "speech",
    ):
        super().__init__()
        feature_config = feature_config or {}
        kind = EncoderFeatures if "config" in feature_config else LogMelFeatures
        self.features = kind(**feature_config)
        rate = self.features.sample_rate
        self.mel = MelSettings(**({"sample_rate": rate, "f_max": rate / 2, "floor": 1e-4} | (mel_config or {})))
        if self.mel.sample_rate != rate:
            raise InputError(f"mel sample_rate {self.mel.sample_rate} must be that of the features, {rate}")
        self.codebook = NearestEntry(vocab_size, self.features.channels).requires_grad_(False)
        frames_per_unit = self.features.samples_per_unit / self.mel.hop_length
        sizes = DecoderConfig(**(decoder_config or {}))
        self.decoder = UnitDecoder(vocab_size, self.mel.n_mels, frames_per_unit, sizes)
        self.vocoder = TransformersVocoder(vocoder_config, self.mel) if vocoder_config else None

    @classmethod
    def with_encoder(cls, encoder, layer: int, unit_rate: float = 25.0, **config) -> SpeechUnitTokenizer:
        """Untrained, on one layer of a transformers speech encoder from a folder or hub name, such as HuBERT."""
        features = EncoderFeatures.from_pretrained(encoder, layer, unit_rate)
        tokenizer = cls(features.arguments, **config)
        tokenizer.features = features
        return tokenizer

    def use_vocoder(self, folder) -> SpeechUnitTokenizer:
        """Decode with a transformers vocoder from a folder or hub name, whose spectrogram must be that of `mel`."""
        self.vocoder = TransformersVocoder.from_pretrained(folder, self.mel)
        self.register_to_config(vocoder_config=self.vocoder.network.config.to_dict())
        return self

    @property
    def modality(self) -> Modality:
        """What its spans are: discrete, an id for each unit."""
        return Modality(self.config.name, vocab_size=self.config.vocab_size)

    @property
    def sample_rate(self) -> int:
        """Hz, of what `decode` gives and of bare samples that `encode` is given."""
        return self.features.sample_rate

    def encode(self, raw) -> Span:
        """A path, bytes, (samples, rate), or samples at `sample_rate` -> a span; the gain of a recording is undone.

        Raises InputError for what load_audio refuses.
        """
        return self.encode_batch([raw])[0]

    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many recordings, those of equal length in one pass; the same spans as one by one, on the CPU."""
        ids = [own.cpu() for own in self.unit_ids([self.waveform(raw) for raw in raws])]
        if self.config.collapse:
            ids = [own.unique_consecutive() for own in ids]
        return [Span(self.config.name, own) for own in ids]

    def decode(self, span: Span) -> Tensor:
        """A span -> float samples (T,) in [-1, 1] at `sample_rate`; raises InputError for a span of other units."""
        return self.decode_batch([span])[0]

    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans, one after the other: nearly all of the time is the vocoder's."""
        for span in spans:
            self._check(span)
        return [self._sound(span.values.to(self.device)) for span in spans]

    def waveform(self, raw) -> Tensor:
        """A raw recording -> (T,) at `sample_rate` and the one level, zeros added up to a whole number of units."""
        samples, _ = load_audio(raw, self.sample_rate)
        missing = -len(samples) % self.features.samples_per_unit
        return upload(F.pad(at_level(samples), (0, missing)), self.device)

    def vectors(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """What `waveform` gave -> the features (n, channels) of each."""
        return of_equal_length(self._vectors, waveforms)

    @torch.no_grad()
    def _vectors(self, waveforms: Tensor) -> Tensor:
        return self.features(waveforms)

    def unit_ids(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """What `waveform` gave -> (n,) ids of each, one for every unit's time."""
        return [self.codebook.ids(vectors) for vectors in self.vectors(waveforms)]

    @torch.no_grad()
    def log_mel(self, ids: Tensor) -> Tensor:
        """(n,) ids of a span -> (frames, n_mels) in the terms of `mel`."""
        x = self.decoder.encode_units(ids[None], torch.tensor([len(ids)], device=ids.device))
        durations = torch.ones_like(ids)[None]
        if self.config.collapse:
            durations = self.decoder.log_durations(x).exp().round().clamp(1, MAX_DURATION).long()
        frames, _ = self.decoder.spectrogram(x, durations)
        return frames[0].float().clamp_min(self.mel.log_floor)

    @torch.no_grad()
    def _sound(self, ids: Tensor) -> Tensor:
        frames = self.log_mel(ids)
        sound = self.vocoder(frames) if self.vocoder else griffin_lim(frames, self.mel)
        return sound / sound.abs().max().clamp_min(1)

    def _check(self, span: Span) -> None:
        if span.values.ndim != 1 or not len(span):
            raise InputError(
                f"{self.config.name} span of shape {tuple(span.values.shape)}; expected (n,), n at least 1"
            )
        check_ids(span, self.config.vocab_size, self.config.name)
