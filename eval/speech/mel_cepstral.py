"""Mel-cepstral distortion between two recordings: MelCepstralDistortion, mel_cepstra, and the pure aligned_distortion.

    MCD = 10 / ln 10 * mean over the path of sqrt(2 sum_k (c_k - c'_k)^2)   in decibels            (Kubichek 1993)

Frames are aligned by dynamic time warping. The energy term c_0 is left out. Cepstra may also be given: MCD depends on
how they are made, so compare only values made alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError, expect, require
from mot_gen.eval.text.segments import SegmentMetric, table

COEFFICIENTS = 13  # c_1 to c_13
WINDOW_SECONDS, HOP_SECONDS, MELS = 0.025, 0.005, 80
FLOOR = 1e-10  # of mel energies, before the logarithm


@lru_cache(maxsize=4)
def _mel(sample_rate: int):
    import torchaudio

    window = round(WINDOW_SECONDS * sample_rate)
    return torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft=2 ** math.ceil(math.log2(window)), win_length=window,
        hop_length=round(HOP_SECONDS * sample_rate), n_mels=MELS, norm="slaney", mel_scale="slaney",
    )  # fmt: skip


def mel_cepstra(waveform: Tensor, sample_rate: int) -> Tensor:
    """(T,) in [-1, 1] -> (frames, 13): orthonormal cosine transform of log mel energies, without c_0."""
    if waveform.ndim != 1 or len(waveform) < WINDOW_SECONDS * sample_rate:
        raise InputError(
            f"waveform must be (T,) of at least 25 ms, got shape {tuple(waveform.shape)} at {sample_rate} Hz"
        )
    energies = _mel(sample_rate)(waveform.float().cpu()).clamp(min=FLOOR).double().log().mT
    return energies @ _cosines().mT


def _cosines() -> Tensor:
    order, band = torch.arange(1, COEFFICIENTS + 1)[:, None], torch.arange(MELS, dtype=torch.float64)
    return torch.cos(math.pi / MELS * (band + 0.5) * order) * math.sqrt(2 / MELS)


def aligned_distortion(one: Tensor, two: Tensor) -> tuple[float, int]:
    """Summed decibels along the best path, and its length, of cepstra (m, k) and (n, k).

    The path has least summed distance over steps (1, 1), (1, 0), (0, 1), swept one anti-diagonal at a time; of equal
    predecessors the diagonal is taken.
    """
    cost = torch.cdist(one.double(), two.double(), compute_mode="donot_use_mm_for_euclid_dist").cpu()
    rows, columns = cost.shape
    infinite = torch.full((rows + 1, columns + 1), math.inf, dtype=torch.float64)
    total, length = infinite, torch.zeros(rows + 1, columns + 1, dtype=torch.float64)
    total[0, 0] = 0.0
    for diagonal in range(2, rows + columns + 1):
        i = torch.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        before = torch.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        steps = torch.stack([length[i - 1, j - 1], length[i - 1, j], length[i, j - 1]])
        best = before.argmin(0, keepdim=True)
        total[i, j] = before.gather(0, best)[0] + cost[i - 1, j - 1]
        length[i, j] = steps.gather(0, best)[0] + 1
    return 10 / math.log(10) * math.sqrt(2) * total[rows, columns].item(), int(length[rows, columns].item())


class MelCepstralDistortion(SegmentMetric):
    """`update(predictions, references)`: lists of waveforms (T,), or of cepstra (frames, 13), in any lengths.

    sample_rate: of the waveforms, in Hz; both sides alike. Decibels, mean over all path steps of the corpus.
    """

    name = "mcd"
    unit = "utterances"
    takes = "cepstra"
    higher_is_better = False

    def __init__(self, *, sample_rate: int = 16000, **kwargs):
        super().__init__(**kwargs)
        is_rate = isinstance(sample_rate, int) and sample_rate > 0
        expect(is_rate, "sample_rate must be a positive integer, in Hz", sample_rate)
        self.sample_rate = sample_rate

    def statistics(self, predictions: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions against {len(references)} references; give one each")
        pairs = ((self._cepstra(one), self._cepstra(two)) for one, two in zip(predictions, references))
        return table([aligned_distortion(one, two) for one, two in pairs], 2)

    def _cepstra(self, sound: Any) -> Tensor:
        """Cepstra as they are, or those of a waveform; InputError for what is neither."""
        sound = torch.from_numpy(sound) if isinstance(sound, np.ndarray) else sound
        expect(isinstance(sound, Tensor), "mcd: a sound must be a tensor or an array; read files first", sound)
        require(sound.isfinite().all(), "mcd: a sound holds NaN or infinity; leave it out")
        if sound.ndim != 2:
            return mel_cepstra(sound, self.sample_rate)
        shape = tuple(sound.shape)
        require(shape[1] == COEFFICIENTS, f"mcd: needs (T,) of one channel, or (frames, {COEFFICIENTS}), got {shape}")
        return sound

    def score(self, total: Tensor) -> float:
        return (total[0] / total[1]).item()

    def provenance(self) -> dict:
        return {"sample_rate": self.sample_rate, "cepstra": f"mel{MELS}-dct{COEFFICIENTS}", "alignment": "dtw"}
