"""How well speech units keep speech: agreement, speech_report."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.tokenizers.audio_files import load_audio
from mot_gen.tokenizers.measure_image import codebook_use
from mot_gen.tokenizers.speech_features import MelSettings, log_mel
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer

QUIETER = 10 ** (-3 / 20)  # 3 dB


def agreement(ids: Tensor, reference: Tensor) -> float:
    """1 less the edit distance of (m,) to (n,) ids over n, at least 0: 1 where they are the same."""
    import torchaudio

    return max(0.0, 1 - torchaudio.functional.edit_distance(ids.tolist(), reference.tolist()) / len(reference))


def speech_report(tokenizer: SpeechUnitTokenizer, recordings: Sequence) -> dict[str, float]:
    """Numbers about raw recordings, means weighted by units:

    gain_agreement: of the units of a copy 3 dB quieter, in 16 bits; reencoding_agreement: of the units of the decoded
    sound; both as `agreement`. mel_distance: of the decoded sound, mean absolute difference of natural log-mels, 40 dB
    deep, over the time both have. codebook_use and codebook_perplexity; recordings; seconds; units_per_second.
    """
    sounds = [load_audio(raw, tokenizer.sample_rate)[0] for raw in recordings]
    waveforms = [tokenizer.waveform(sound).cpu() for sound in sounds]
    ids = [span.values for span in tokenizer.encode_batch(sounds)]
    quieter = [(sound.clamp(-1, 1) * QUIETER * 2**15).round().to(torch.int16) for sound in sounds]
    decoded = [sound.cpu() for sound in tokenizer.decode_batch(tokenizer.encode_batch(sounds))]
    n = torch.tensor([float(len(i)) for i in ids])
    seconds = sum(map(len, waveforms)) / tokenizer.sample_rate

    def mean(values: list[float]) -> float:
        return ((torch.tensor(values) * n).sum() / n.sum()).item()

    return {
        "gain_agreement": mean([agreement(s.values, i) for s, i in zip(tokenizer.encode_batch(quieter), ids)]),
        "reencoding_agreement": mean([agreement(s.values, i) for s, i in zip(tokenizer.encode_batch(decoded), ids)]),
        "mel_distance": mean([mel_distance(tokenizer, *pair) for pair in zip(decoded, waveforms)]),
        **codebook_use(torch.cat(ids), tokenizer.config.vocab_size),
        "recordings": len(waveforms),
        "seconds": seconds,
        "units_per_second": n.sum().item() / seconds,
    }


def mel_distance(tokenizer: SpeechUnitTokenizer, one: Tensor, two: Tensor) -> float:
    """Mean absolute difference of the natural log-mels of two sounds (T,) at one level, over the time both have."""
    mel = MelSettings(tokenizer.sample_rate, f_max=tokenizer.sample_rate / 2)
    frames = [log_mel(tokenizer.waveform(sound)[None].cpu(), mel)[0] for sound in (one, two)]
    shorter = min(map(len, frames))
    return (frames[0][:shorter] - frames[1][:shorter]).abs().mean().item()
