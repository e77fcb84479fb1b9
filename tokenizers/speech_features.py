"""Waveforms to the vectors that speech units are clusters of: LogMelFeatures, EncoderFeatures; and the mel spectrogram.

- MelSettings, log_mel: the log-mel spectrogram that features are cut from and that a decoder writes.
- LogMelFeatures: the frames of one unit and some on either side. No weights.
- of_equal_length: a network on many waveforms, those of one length together.
- EncoderFeatures: one layer of a transformers speech encoder (HuBERT, wav2vec 2.0, WavLM, ...), averaged over a unit.

Both take (B, n * samples_per_unit) at `sample_rate` and give (B, n, channels). What a waveform is followed by in its
batch must be zeros; then LogMelFeatures gives it the same vectors as alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.errors import InputError, require
from mot_gen.files.random_weights import refuse_random

LEVEL = 0.1  # root mean square that every waveform is scaled to: -20 dB, about that of recorded speech


def at_level(waveform: Tensor) -> Tensor:
    """(T,) scaled to a root mean square of LEVEL, so that units do not depend on the gain of a recording."""
    return waveform * (LEVEL / waveform.square().mean().sqrt().clamp_min(torch.finfo(waveform.dtype).tiny))


@dataclass(frozen=True)
class MelSettings:
    """A mel spectrogram: magnitudes in Slaney's mel bands. Lengths in samples, frequencies in Hz.

    floor: least magnitude, before the logarithm. log10: decimal instead of natural, as SpeechT5's vocoder takes.
    """

    sample_rate: int = 16000
    n_fft: int = 1024
    win_length: int = 640
    hop_length: int = 160
    n_mels: int = 80
    f_min: float = 0.0
    f_max: float = 8000.0
    floor: float = 1e-3
    log10: bool = False

    def __post_init__(self):
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise InputError(
                f"mel: hop_length {self.hop_length}, win_length {self.win_length}, n_fft {self.n_fft} must not fall"
            )
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise InputError(f"mel: f_min {self.f_min:g}, f_max {self.f_max:g} must rise to at most half sample_rate")
        if self.floor <= 0 or self.n_mels < 1:
            raise InputError(f"mel: floor {self.floor:g} and n_mels {self.n_mels} must be positive")

    @property
    def log_floor(self) -> float:
        return math.log10(self.floor) if self.log10 else math.log(self.floor)


@lru_cache(maxsize=8)
def mel_filters(mel: MelSettings, device: torch.device) -> Tensor:
    """(n_mels, n_fft // 2 + 1): triangles of equal area, so that a band's width does not show in its energy."""
    import torchaudio

    bins = mel.n_fft // 2 + 1
    filters = torchaudio.functional.melscale_fbanks(
        bins, mel.f_min, mel.f_max, mel.n_mels, mel.sample_rate, norm="slaney", mel_scale="slaney"
    )
    return filters.T.contiguous().to(device)


def log_mel(waveforms: Tensor, mel: MelSettings) -> Tensor:
    """(B, T) -> (B, ceil(T / hop_length), n_mels): frame i is centred on the middle of its own hop."""
    frames = math.ceil(waveforms.shape[-1] / mel.hop_length)
    before = (mel.n_fft - mel.hop_length) // 2
    after = (frames - 1) * mel.hop_length + mel.n_fft - before - waveforms.shape[-1]
    padded = F.pad(waveforms.float(), (before, after))
    window = torch.hann_window(mel.win_length, device=waveforms.device)
    spectrum = torch.stft(
        padded, mel.n_fft, mel.hop_length, mel.win_length, window, center=False, return_complex=True
    ).abs()
    magnitudes = (mel_filters(mel, waveforms.device) @ spectrum).clamp_min(mel.floor).mT
    return magnitudes.log10() if mel.log10 else magnitudes.log()


class LogMelFeatures(nn.Module):
    """The log-mel frames of each unit with `context` more on either side, flattened: speech by its sound alone.

    unit_rate: units a second. The floor hides what is 40 dB and more below the level, such as the noise of a room.
    """

    def __init__(self, sample_rate: int = 16000, unit_rate: float = 25.0, context: int = 1, n_mels: int = 80):
        super().__init__()
        require(context >= 0, f"context: must be at least 0, got {context}")
        self.sample_rate, self.context = sample_rate, context
        self.samples_per_unit = whole_samples(sample_rate, unit_rate)
        if self.samples_per_unit % 4:
            raise InputError(
                f"unit_rate {unit_rate:g} makes units of {self.samples_per_unit} samples; give a multiple of 4"
            )
        hop = self.samples_per_unit // 4
        n_fft = 2 ** math.ceil(math.log2(4 * hop))
        self.mel = MelSettings(sample_rate, n_fft, 4 * hop, hop, n_mels, 0.0, sample_rate / 2)
        self.channels = (4 + 2 * context) * n_mels

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = log_mel(waveforms, self.mel)
        padded = F.pad(frames, (0, 0, self.context, self.context), value=self.mel.log_floor)
        return padded.unfold(1, 4 + 2 * self.context, 4).flatten(2)


class EncoderFeatures(nn.Module):
    """Hidden states of one layer of a transformers speech encoder, averaged over the frames of each unit.

    config: that of the encoder, as a dict with its model_type. layer: 0 is what enters the first layer, -1 the last.
    """

    def __init__(self, config: dict, layer: int = -1, unit_rate: float = 25.0, sample_rate: int = 16000):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        self.arguments = {"config": config, "layer": layer, "unit_rate": unit_rate, "sample_rate": sample_rate}
        fields = dict(config)
        self.encoder = AutoModel.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).eval()
        found = self.encoder.config
        if not hasattr(found, "conv_stride"):
            raise InputError(f"encoder {found.model_type!r} does not take waveforms; HuBERT, wav2vec2 and WavLM do")
        if not -1 <= layer <= found.num_hidden_layers:
            raise InputError(f"layer {layer} is not one of 0 to {found.num_hidden_layers}, or -1 for the last")
        self.sample_rate, self.layer = sample_rate, layer
        self.samples_per_unit = whole_samples(sample_rate, unit_rate)
        self.channels, self.stride = found.hidden_size, math.prod(found.conv_stride)
        if self.samples_per_unit % self.stride:
            raise InputError(f"unit_rate {unit_rate:g} does not divide the encoder's {sample_rate / self.stride:g} Hz")

    @classmethod
    def from_pretrained(cls, name, layer: int = -1, unit_rate: float = 25.0) -> EncoderFeatures:
        """With an encoder's weights from a folder or hub name; raises InputError where there are none."""
        from transformers import AutoModel

        try:
            encoder, loading = AutoModel.from_pretrained(name, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no speech encoder found in this folder or hub name") from error
        refuse_random(encoder, loading, name, "give a trained encoder")
        features = cls(encoder.config.to_diff_dict(), layer, unit_rate)
        features.encoder = encoder.eval()
        return features

    def forward(self, waveforms: Tensor) -> Tensor:
        n = waveforms.shape[1] // self.samples_per_unit
        # Zero mean and unit variance are what these encoders were trained on.
        scaled = (waveforms - waveforms.mean(1, keepdim=True)) / waveforms.std(1, keepdim=True).clamp_min(1e-7)
        missing = self._receptive_field() - self.stride  # so that there is one frame a stride
        padded = F.pad(scaled, (missing // 2, missing - missing // 2)).to(self.encoder.dtype)
        states = self.encoder(padded, output_hidden_states=True).hidden_states[self.layer]
        return states[:, : n * (self.samples_per_unit // self.stride)].unflatten(1, (n, -1)).mean(2).float()

    def _receptive_field(self) -> int:
        field, jump = 1, 1
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride):
            field, jump = field + (kernel - 1) * jump, jump * stride
        return field


def of_equal_length(call: Callable[[Tensor], Tensor], items: Sequence[Tensor], batch: int = 16) -> list[Tensor]:
    """`call` on stacks (B, ...) of the items, those of one shape together; its results in the order of the items."""
    alike = defaultdict(list)
    for place, item in enumerate(items):
        alike[item.shape].append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        for start in range(0, len(places), batch):
            part = places[start : start + batch]
            found |= zip(part, call(torch.stack([items[place] for place in part])))
    return [found[place] for place in range(len(items))]


def whole_samples(sample_rate: int, unit_rate: float) -> int:
    """Samples of one unit; raises InputError unless they are a whole number."""
    samples = sample_rate / unit_rate if unit_rate > 0 else 0
    if samples < 1 or samples != int(samples):
        raise InputError(f"unit_rate {unit_rate:g} must divide the sample rate, {sample_rate} Hz")
    return int(samples)
