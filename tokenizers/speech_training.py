"""Training a SpeechUnitTokenizer: train_speech_units, its settings SpeechTraining, and its two stages.

- fit_units: the units, by mini-batch k-means (Sculley, 2010). - train_decoder: units to log-mels, by the L1 distance,
and the logarithm of durations, by squared error, where repeats are collapsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mot_gen.errors import InputError
from mot_gen.tokenizers.speech_features import log_mel
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer


@dataclass(frozen=True)
class SpeechTraining:
    """steps of batch_size crops of crop_units units; the learning rate rises, then falls to zero as a cosine.

    max_vectors: units' time, drawn from all recordings, that the clusters are learned from.
    """

    steps: int = 800
    batch_size: int = 16
    crop_units: int = 50
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    max_vectors: int = 200_000
    seed: int = 0
    log_every: int = 50

    def __post_init__(self):
        for field in ("steps", "batch_size", "crop_units", "lr", "max_vectors", "log_every"):
            if not getattr(self, field) > 0:
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")

    def lr_at(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Example(NamedTuple):
    """One recording: ids (n,), one for every unit's time, and its log-mels (frames, n_mels)."""

    ids: Tensor
    log_mels: Tensor


def train_speech_units(
    tokenizer: SpeechUnitTokenizer,
    recordings: Sequence,
    options: SpeechTraining | None = None,
    report: Callable[[dict], None] | None = None,
) -> SpeechUnitTokenizer:
    """The tokenizer with units and decoder learned from raw recordings; `report` is called with a row now and then.

    Raises InputError where the recordings hold fewer units' time than there are units to learn.
    """
    options = options or SpeechTraining()
    waveforms = [tokenizer.waveform(raw) for raw in recordings]
    vectors = tokenizer.vectors(waveforms)
    tokenizer.codebook.embedding.weight.data.copy_(fit_units(vectors, tokenizer.config.vocab_size, options))
    examples = [
        Example(tokenizer.codebook.ids(v), log_mel(w[None], tokenizer.mel)[0]) for v, w in zip(vectors, waveforms)
    ]
    train_decoder(tokenizer, examples, options, report)
    return tokenizer.eval()


def fit_units(vectors: Sequence[Tensor], vocab_size: int, options: SpeechTraining) -> Tensor:
    """(n, d) of each recording -> (vocab_size, d): centres of clusters."""
    from sklearn.cluster import MiniBatchKMeans

    every = torch.cat(list(vectors)).cpu()
    if len(every) < vocab_size:
        raise InputError(f"{len(every)} units' time of speech is too little for {vocab_size} units; give more of it")
    if len(every) > options.max_vectors:
        every = every[torch.randperm(len(every), generator=_generator(options.seed))[: options.max_vectors]]
    clusters = MiniBatchKMeans(vocab_size, batch_size=4096, n_init=1, max_iter=50, random_state=options.seed)
    return torch.from_numpy(clusters.fit(every.numpy()).cluster_centers_).float()


def train_decoder(
    tokenizer: SpeechUnitTokenizer,
    examples: Sequence[Example],
    options: SpeechTraining,
    report: Callable[[dict], None] | None = None,
) -> None:
    """The decoder of the tokenizer trained to write the log-mels of the examples; each row has `mel` and `duration`."""
    decoder, generator = tokenizer.decoder.train(), _generator(options.seed)
    decoder.level.data.copy_(torch.cat([example.log_mels for example in examples]).mean(0))
    trained = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=options.weight_decay)
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = options.lr_at(step)
        mel, duration = decoder_losses(tokenizer, draw(examples, tokenizer, options, generator))
        optimizer.zero_grad()
        (mel + duration).backward()
        torch.nn.utils.clip_grad_norm_(trained, options.clip, error_if_nonfinite=True)
        optimizer.step()
        if report and (step + 1) % options.log_every == 0:
            report({"step": step + 1, "mel": mel.item(), "duration": duration.item()})
    decoder.eval()


def decoder_losses(tokenizer: SpeechUnitTokenizer, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Mean L1 distance of log-mels over all frames, and mean squared error of log durations over all units."""
    decoder = tokenizer.decoder
    runs = [_runs(example.ids, tokenizer.config.collapse) for example in batch]
    lengths = torch.tensor([len(units) for units, _ in runs], device=tokenizer.device)
    units, durations = (pad_sequence(part, batch_first=True) for part in zip(*runs))
    x = decoder.encode_units(units, lengths)
    frames, counts = decoder.spectrogram(x, durations)
    targets = pad_sequence([example.log_mels[:n] for example, n in zip(batch, counts)], batch_first=True)
    valid = torch.arange(targets.shape[1], device=counts.device) < counts[:, None]
    mel = F.l1_loss(frames[:, : targets.shape[1]][valid], targets[valid])
    if not tokenizer.config.collapse:
        return mel, mel.new_zeros(())
    real = durations > 0
    return mel, F.mse_loss(decoder.log_durations(x)[real], durations[real].float().log())


def draw(
    examples: Sequence[Example], tokenizer: SpeechUnitTokenizer, options: SpeechTraining, generator: torch.Generator
) -> list[Example]:
    """A batch of crops of examples; where a unit has no whole number of frames, a crop is at most half a frame off."""
    chosen = torch.randint(len(examples), (options.batch_size,), generator=generator).tolist()
    return [_crop(examples[i], tokenizer.decoder.frames_per_unit, options.crop_units, generator) for i in chosen]


def _crop(example: Example, frames_per_unit: float, size: int, generator: torch.Generator) -> Example:
    start = int(torch.randint(max(1, len(example.ids) - size + 1), (), generator=generator))
    ids, first = example.ids[start : start + size], round(start * frames_per_unit)
    frames = example.log_mels[first : first + math.ceil(len(ids) * frames_per_unit)]
    return Example(ids, frames)


def _runs(ids: Tensor, collapse: bool) -> tuple[Tensor, Tensor]:
    """(n,) ids -> what the decoder is given: units and how long each lasts."""
    return ids.unique_consecutive(return_counts=True) if collapse else (ids, torch.ones_like(ids))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
