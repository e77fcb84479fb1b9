"""Speech units back to a log-mel spectrogram: UnitDecoder, with durations, and DecoderConfig, its sizes.

As in FastSpeech (Ren et al., 2019, arXiv 1905.09263): convolutions over units, each repeated for its duration,
convolutions over frames. The duration is how often the unit came in a row; where repeats were collapsed it is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DecoderConfig:
    """channels and layers of the convolutions over units and over frames; kernel: their width, odd."""

    unit_channels: int = 192
    unit_layers: int = 3
    frame_channels: int = 128
    frame_layers: int = 3
    kernel: int = 5


class ConvBlock(nn.Module):
    """x + conv(gelu(norm(x))) over (B, n, C), blind to what `mask` (B, n, 1) leaves out."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + self.conv((F.gelu(self.norm(x)) * mask).mT).mT


class UnitDecoder(nn.Module):
    """(B, n) units with durations -> (B, frames, n_mels) log-mels.

    frames_per_unit: spectrogram frames in the time of one unit, which need not be whole: frame f belongs to the unit
    in which its middle lies. level: what the output starts from, the mean log-mel of the training set.
    """

    def __init__(self, vocab_size: int, n_mels: int, frames_per_unit: float, config: DecoderConfig):
        super().__init__()
        self.frames_per_unit = frames_per_unit
        c, d, k = config.unit_channels, config.frame_channels, config.kernel
        self.embedding = nn.Embedding(vocab_size, c)
        self.unit_blocks = nn.ModuleList(ConvBlock(c, k) for _ in range(config.unit_layers))
        self.duration = nn.Linear(c, 1)
        self.expand = nn.Linear(c, d)
        self.place = nn.Linear(4, d)
        self.frame_blocks = nn.ModuleList(ConvBlock(d, k) for _ in range(config.frame_layers))
        self.out = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, n_mels))
        self.level = nn.Parameter(torch.zeros(n_mels), requires_grad=False)

    def encode_units(self, units: Tensor, lengths: Tensor) -> Tensor:
        """(B, n) ids, of which the first `lengths` (B,) count -> (B, n, C)."""
        mask = _mask(lengths, units.shape[1])
        x = self.embedding(units)
        for block in self.unit_blocks:
            x = block(x, mask)
        return x * mask

    def log_durations(self, x: Tensor) -> Tensor:
        """(B, n, C) -> (B, n): the logarithm of how many units' time each lasts."""
        return self.duration(x).squeeze(-1)

    def spectrogram(self, x: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C), whole durations (B, n), 0 for padding -> (B, frames, n_mels), and how many frames (B,) count."""
        ends = durations.cumsum(1).float()
        frames = (ends[:, -1] * self.frames_per_unit).ceil().long()
        middles = (torch.arange(int(frames.max()), device=x.device) + 0.5) / self.frames_per_unit
        middles = middles.expand(len(x), -1).contiguous()
        last = (durations > 0).sum(1, keepdim=True) - 1
        index = torch.searchsorted(ends, middles, right=True).minimum(last)
        place = _place(middles, ends - durations, ends, index)
        y = self.expand(x).gather(1, index[..., None].expand(-1, -1, self.expand.out_features))
        y, mask = y + self.place(place.to(y.dtype)), _mask(frames, len(middles[0]))
        for block in self.frame_blocks:
            y = block(y, mask)
        return self.out(y) + self.level, frames


def _mask(lengths: Tensor, n: int) -> Tensor:
    """(B,) -> (B, n, 1), true for the first `lengths` of each row."""
    return (torch.arange(n, device=lengths.device) < lengths[:, None])[..., None]


def _place(middles: Tensor, begins: Tensor, ends: Tensor, index: Tensor) -> Tensor:
    """Where frames lie in their units, (B, frames, 4): since it began, until it ends, and the half turn from the one
    to the other, all in the time of one unit."""
    elapsed, left = middles - begins.gather(1, index), ends.gather(1, index) - middles
    turn = torch.pi * elapsed / (elapsed + left).clamp_min(1e-6)
    return torch.stack([elapsed, left, turn.sin(), turn.cos()], -1)
