"""Sound for the Frechet audio distance: AudioExtractor wraps any network, LogMelStatistics needs no weights.

    FrechetDistance(AudioExtractor(network, "vggish", 16000))      FAD with any embedding      (Kilgour et al. 2019)

DNSMOS, an estimate of how listeners rate speech, is `dnsmos` (extra: speechmos).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.eval.extras import extra_module
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.images.frechet import FrechetDistance

HOP = 160  # samples from one frame of log-mel to the next


class AudioExtractor(nn.Module):
    """Waveforms (N, T) in [-1, 1] -> (N * frames, d) float32: every frame is a sample, as FAD is defined.

    A metric with such an extractor takes waveforms only. network: takes (N, T) at `sample_rate` and returns
    (N, frames, d), (N, d), or a transformers output.
    """

    hears = True

    def __init__(self, network: nn.Module, name: str, sample_rate: int, *, sha256: str | None = None):
        super().__init__()
        self.network, self.name, self.sample_rate = network, name, sample_rate
        self.sha256 = sha256 or weights_sha256(network)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True):
        """Stays in eval mode, as an image extractor does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, clamp: bool = False) -> Tensor:
        waveforms = checked_waveforms(waveforms, clamp)
        with precision("float32", waveforms.device.type):
            output = self.network(waveforms)
        output = getattr(output, "last_hidden_state", output)
        return output.flatten(0, -2).float() if output.ndim > 2 else output.float()

    def provenance(self) -> dict:
        facts = {"extractor": self.name, "sha256": self.sha256, "sample_rate": self.sample_rate}
        return {**facts, "dtype": "float32"}


def checked_waveforms(waveforms: Tensor, clamp: bool = False) -> Tensor:
    """(N, T) float32 in [-1, 1]; InputError for another shape, NaN, or a value out of range."""
    shape = tuple(waveforms.shape)
    require(len(shape) == 2, f"waveforms must be (N, T), each of them (T,), got {shape}; average the channels")
    if not waveforms.is_floating_point():
        raise InputError(f"waveforms must be floats in [-1, 1], got {waveforms.dtype}; divide 16 bits by 32768")
    require(torch.isfinite(waveforms).all(), "waveforms hold NaN or infinity; remove those recordings")
    if not clamp and waveforms.numel() and waveforms.abs().max() > 1:
        raise InputError(f"waveforms reach {waveforms.abs().max().item():.4g}; scale to [-1, 1]")
    return waveforms.float().clamp(-1, 1)


class LogMelStatistics(nn.Module):
    """(N, T) -> (N, frames, 2 * mels): mean and deviation of log mel energies over windows of about a second.

    Hand-made features with no weights: enough to see that two sets of sounds differ, named "log-mel" in results, and
    not to be compared with a FAD of VGGish.
    """

    def __init__(self, sample_rate: int = 16000, mels: int = 32, frames: int = 96):
        super().__init__()
        import torchaudio

        self.frames = frames
        self.mel = torchaudio.transforms.MelSpectrogram(sample_rate, n_fft=512, hop_length=HOP, n_mels=mels)

    def forward(self, waveforms: Tensor) -> Tensor:
        if waveforms.shape[1] < (self.frames - 1) * HOP:
            raise InputError(
                f"waveforms of {waveforms.shape[1]} samples are shorter than one window; give at least a second"
            )
        energies = self.mel(waveforms).clamp(min=1e-8).log()
        windows = energies.unfold(-1, self.frames, self.frames // 2)  # (N, mels, windows, frames)
        return torch.cat([windows.mean(-1), windows.std(-1)], 1).mT


def log_mel_extractor(sample_rate: int = 16000) -> AudioExtractor:
    """The extractor that works offline and without weights."""
    return AudioExtractor(LogMelStatistics(sample_rate), "log-mel", sample_rate)


def log_mel_distance(sample_rate: int = 16000, confidence: float | None = None) -> FrechetDistance:
    """FAD[log-mel]: `update(waveforms, real=...)`."""
    return FrechetDistance(log_mel_extractor(sample_rate), confidence=confidence)


def dnsmos(waveform: Tensor, sample_rate: int = 16000) -> dict[str, float]:
    """Predicted opinion scores, 1 to 5 (Reddy et al. 2021): {"ovrl", "sig", "bak", "p808"} of one waveform (T,)."""
    require(sample_rate == 16000, f"DNSMOS is defined at 16000 Hz, got {sample_rate}; resample first")
    found = extra_module("speechmos.dnsmos", "DNSMOS", "speechmos").run(
        checked_waveforms(waveform[None])[0].numpy(), sample_rate
    )
    return {key.removesuffix("_mos"): float(value) for key, value in found.items()}
