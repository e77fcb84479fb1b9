"""Recognisers of speech, for intelligibility: SphinxRecognizer, TransformersRecognizer, WordRecognizer.

Each is called with waveforms, (T,) float tensors in about [-1, 1], and their rate in Hz, and gives a text for each.
A recogniser is believed as far as it was shown to hear: report its accuracy on recorded speech beside what it hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.extras import extra_module
from mot_gen.eval.images.judge import Judge, train_judge

PAUSE = 0.5  # seconds of all but silence that Sphinx is given before and after a recording
DITHER = 1e-3  # of full scale: Sphinx's features of digital silence, which synthesised speech has, are far from speech


class SphinxRecognizer:
    """CMU PocketSphinx with the US English model that its package carries (extra `recognition`).

    sentences: those that may be heard, and no others; any English without.
    """

    sample_rate = 16000

    def __init__(self, sentences: Sequence[str] | None = None):
        sphinx = extra_module("pocketsphinx", "SphinxRecognizer", "recognition")
        options: dict[str, Any] = {"samprate": self.sample_rate, "loglevel": "FATAL"}
        if sentences:
            options["lm"] = None  # the sentences take the place of a language model
        self._decoder = sphinx.Decoder(**options)
        if sentences:
            choices = " | ".join(sentence.lower() for sentence in sentences)
            self._check(choices.replace("|", " ").split())
            self._decoder.add_jsgf_string("sentences", f"#JSGF V1.0; grammar all; public <sentence> = {choices};")
            self._decoder.activate_search("sentences")

    def _check(self, words: Sequence[str]) -> None:
        for word in words:
            if self._decoder.lookup_word(word) is None:
                raise InputError(f"sentences: {word!r} is not in PocketSphinx's dictionary; leave it out")

    def __call__(self, waveforms: Sequence[Tensor], sample_rate: int) -> list[str]:
        return [self._hear(at_rate(waveform, sample_rate, self.sample_rate)) for waveform in waveforms]

    def _hear(self, waveform: Tensor) -> str:
        pause = int(PAUSE * self.sample_rate)
        padded = F.pad(waveform.cpu() * (0.5 / waveform.abs().max().clamp_min(1e-9)), (pause, pause))
        noise = torch.randn(len(padded), generator=torch.Generator().manual_seed(0))
        samples = ((padded + DITHER * noise).clamp(-1, 1) * 32767).to(torch.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.numpy().tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr if heard else ""


class TransformersRecognizer:
    """A transformers model of speech recognition (Whisper, wav2vec 2.0 or HuBERT with CTC, ...), from a folder or a hub
    name with its processor."""

    def __init__(self, name: str | Path):
        from transformers import pipeline

        try:
            self._pipeline = pipeline("automatic-speech-recognition", model=str(name))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"{name}: no model of speech recognition in this folder or hub name") from error
        heard = self._pipeline.feature_extractor
        if heard is None:
            raise InputError(f"{name}: has no feature extractor; save the model's processor beside it")
        self.sample_rate = heard.sampling_rate

    def __call__(self, waveforms: Sequence[Tensor], sample_rate: int) -> list[str]:
        sounds = [at_rate(waveform, sample_rate, self.sample_rate).cpu().numpy() for waveform in waveforms]
        given = [{"raw": sound, "sampling_rate": self.sample_rate} for sound in sounds]
        if not given:
            return []
        found = self._pipeline(given)  # type: ignore[arg-type]  # it takes lists, which its hints leave out
        return [heard["text"].strip() for heard in found]


class WordRecognizer:
    """One of a few texts: convolutions over the time of log-mel spectrograms (`train_judge`), trained on recordings.

    seconds: what it hears of a recording, from its beginning.
    """

    def __init__(self, judge: Judge, texts: Sequence[str], sample_rate: int, seconds: float = 1.5):
        self.judge, self.texts, self.sample_rate, self.seconds = judge, list(texts), sample_rate, seconds

    @classmethod
    def train(
        cls, waveforms: Sequence[Tensor], said: Sequence[str], sample_rate: int, seconds: float = 1.5, epochs: int = 15
    ) -> WordRecognizer:
        """A recogniser trained on recordings at one rate and the text of each. The same recordings give the same
        one."""
        texts = sorted(set(said))
        labels = torch.tensor([texts.index(text) for text in said])
        pictures = spectrograms(waveforms, sample_rate, seconds)
        return cls(train_judge(pictures, labels, len(texts), epochs), texts, sample_rate, seconds)

    def __call__(self, waveforms: Sequence[Tensor], sample_rate: int) -> list[str]:
        if not waveforms:
            return []
        sounds = [at_rate(waveform, sample_rate, self.sample_rate) for waveform in waveforms]
        chosen = self.judge.predict(spectrograms(sounds, self.sample_rate, self.seconds))
        return [self.texts[number] for number in chosen.tolist()]


def spectrograms(waveforms: Sequence[Tensor], sample_rate: int, seconds: float) -> Tensor:
    """(T,) each -> (N, 40 mel bands, 1, frames of 25 ms) in [0, 1]: from 60 dB below its loudest point to that.

    Pictures of one row, whose channels are the bands: a judge then hears at which pitch something is too.
    """
    import torchaudio

    length = int(seconds * sample_rate)
    sounds = torch.stack([F.pad(w.cpu().float()[:length], (0, max(0, length - len(w)))) for w in waveforms])
    hop = sample_rate // 40
    mel = torchaudio.transforms.MelSpectrogram(sample_rate, n_fft=2 * hop, hop_length=hop, n_mels=40, norm="slaney")
    decibels = 10 * mel(sounds).clamp_min(1e-12).log10()
    return ((decibels - decibels.amax((1, 2), keepdim=True)) / 60 + 1).clamp(0, 1)[:, :, None]


def at_rate(waveform: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """(T,) at another rate."""
    import torchaudio

    return torchaudio.functional.resample(waveform.float(), sample_rate, wanted)
