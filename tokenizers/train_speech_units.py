"""Training a SpeechUnitTokenizer: SpeechTraining, the settings; train_speech_units; and its two stages.

- fit_units: the units, by mini-batch k-means (Sculley, 2010).
- DecoderTrainer: units to log-mels, by the L1 distance; the logarithm of durations, by squared error, where repeats are
  collapsed.
- Training, untrained, train, measure: how a recipe does it (mot_gen/training/trained_tokenizers.py).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mot_gen.errors import InputError, require
from mot_gen.files.audio_files import load_sounds
from mot_gen.tokenizers.pretrained import stated_config
from mot_gen.tokenizers.speech_features import log_mel
from mot_gen.tokenizers.speech_measures import speech_report
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.training_loop import TrainingSettings, check_positive, run_steps
from mot_gen.tokenizers.training_state import load_state, save_state

log = logging.getLogger(__name__)

Report = Callable[[dict], None]  # takes {"step", "mel", "duration"}

_STATE = "training.pt"
MEASURED = 50  # recordings that a report is made of: nearly all of its time is the vocoder's


@dataclass(frozen=True)
class SpeechTraining(TrainingSettings):
    """`TrainingSettings` of a decoder that learns from crops of crop_units units.

    max_vectors: units' time, drawn from all recordings, that the clusters are learned from.
    """

    steps: int = 800
    warmup_steps: int = 50
    weight_decay: float = 0.01
    checkpoint_every: int = 200
    crop_units: int = 50
    max_vectors: int = 200_000

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, ("crop_units", "max_vectors"))


class Example(NamedTuple):
    """One recording: ids (n,), one for every unit's time, and its log-mels (frames, n_mels)."""

    ids: Tensor
    log_mels: Tensor


def train_speech_units(
    tokenizer: SpeechUnitTokenizer,
    recordings: Sequence,
    options: SpeechTraining | None = None,
    report: Report = lambda row: None,
    folder: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> SpeechUnitTokenizer:
    """The tokenizer with units and decoder learned from raw recordings; `report` is called with a row now and then.

    folder: where a checkpoint is kept, from which it goes on. Where `stop` says so after a step, a checkpoint is
    written and Interrupted raised. Raises InputError where the recordings hold fewer units' time than there are units.
    """
    single = isinstance(recordings, (str, bytes, Path))  # of which each letter would be a recording
    require(not single, f"recordings: give a list of them, got {recordings!r:.60}")
    options = options or SpeechTraining()
    waveforms = [tokenizer.waveform(raw) for raw in recordings]
    run = {"options": asdict(options), "config": stated_config(tokenizer), "recordings": _digest(waveforms)}
    state = load_state(folder / _STATE, run) if folder else None
    vectors = tokenizer.vectors(waveforms)
    centres = state["units"] if state else fit_units(vectors, tokenizer.config.vocab_size, options)
    tokenizer.codebook.embedding.weight.data.copy_(centres)
    examples = []
    for vector, waveform in zip(vectors, waveforms):
        log_mels = log_mel(waveform[None], tokenizer.mel)[0]
        examples.append(Example(tokenizer.codebook.ids(vector), log_mels))
    trainer = DecoderTrainer(tokenizer, examples, options)
    if state:
        trainer.load_state_dict(state)

    def save() -> None:
        if folder:
            save_state(folder / _STATE, run, trainer.state_dict() | {"units": centres})

    trainer.run(report, save, stop)
    return tokenizer.eval()


def _digest(waveforms: Sequence[Tensor]) -> str:
    content = hashlib.sha256()
    for waveform in waveforms:
        content.update(waveform.cpu().numpy().tobytes())
    return content.hexdigest()


def fit_units(vectors: Sequence[Tensor], vocab_size: int, options: SpeechTraining) -> Tensor:
    """(n, d) of each recording -> (vocab_size, d): centres of clusters."""
    from sklearn.cluster import MiniBatchKMeans

    every = torch.cat(list(vectors)).cpu()
    if len(every) < vocab_size:
        length = f"all recordings together last {len(every)} units"
        raise InputError(f"{length}, too little for {vocab_size} units; give more speech, or fewer units")
    if len(every) > options.max_vectors:
        every = every[torch.randperm(len(every), generator=_generator(options.seed))[: options.max_vectors]]
    clusters = MiniBatchKMeans(vocab_size, batch_size=4096, n_init=1, max_iter=50, random_state=options.seed)
    return torch.from_numpy(clusters.fit(every.numpy()).cluster_centers_).float()


class DecoderTrainer:
    """Trains the decoder of a tokenizer to write the log-mels of examples; each row has `mel` and `duration`."""

    def __init__(self, tokenizer: SpeechUnitTokenizer, examples: Sequence[Example], options: SpeechTraining):
        self.tokenizer, self.examples, self.options = tokenizer, examples, options
        self.decoder, self.generator, self.step = tokenizer.decoder, _generator(options.seed), 0
        self.decoder.level.data.copy_(torch.cat([example.log_mels for example in examples]).mean(0))
        self.trained = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=options.lr, weight_decay=options.weight_decay)

    def run(self, report: Report, save: Callable[[], None], stop: Callable[[], bool]) -> None:
        """All steps that are left, see `run_steps`."""
        self.decoder.train()
        run_steps(self, report, save, stop)
        self.decoder.eval()

    def one_step(self) -> dict[str, Tensor]:
        """One batch; its two losses."""
        self.optimizer.param_groups[0]["lr"] = self.options.lr_at(self.step)
        batch = draw(self.examples, self.tokenizer, self.options, self.generator)
        mel, duration = decoder_losses(self.tokenizer, batch)
        self.optimizer.zero_grad()
        (mel + duration).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip, error_if_nonfinite=True)
        self.optimizer.step()
        return {"mel": mel, "duration": duration}

    def state_dict(self) -> dict:
        """Tensors and numbers from which `load_state_dict` goes on to the bit."""
        parts = {"decoder": self.decoder.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"step": self.step, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.generator.set_state(state["generator"])


def decoder_losses(tokenizer: SpeechUnitTokenizer, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Mean L1 distance of log-mels over all frames, and mean squared error of log durations over all units."""
    decoder = tokenizer.decoder
    runs = [_runs(example.ids, tokenizer.config.collapse) for example in batch]
    lengths = torch.tensor([len(units) for units, _ in runs], device=tokenizer.device)
    units, durations = (pad_sequence(list(part), batch_first=True) for part in zip(*runs))
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


# ---------------------------------------------------------------- by a recipe

Training = SpeechTraining


def untrained(vocab_size: int = 500, context: int = 1, collapse: bool = False) -> SpeechUnitTokenizer:
    """Units of log-mels, each seen with `context` frames on either side; on an encoder's layer they are trained by
    `with_encoder` and loaded by their path."""
    return SpeechUnitTokenizer({"context": context}, vocab_size=vocab_size, collapse=collapse)


def train(
    tokenizer: SpeechUnitTokenizer,
    raws: Iterable[tuple[str, Any]],
    options: SpeechTraining,
    folder: Path,
    report: Callable[..., None],
    stop: Callable[[], bool],
) -> None:
    """Trains in place on (name, recording) pairs, with a checkpoint in `folder` from which it goes on."""
    sounds = _sounds(tokenizer, raws)
    train_speech_units(tokenizer, sounds, options, lambda row: report(**row), folder, stop)


def measure(tokenizer: SpeechUnitTokenizer, raws: Iterable[tuple[str, Any]]) -> dict:
    """What of these recordings the tokenizer keeps: see `speech_report`, of at most MEASURED of them."""
    sounds = _sounds(tokenizer, raws)
    return speech_report(tokenizer, sounds[:: -(-len(sounds) // MEASURED)])


def _sounds(tokenizer: SpeechUnitTokenizer, raws: Iterable[tuple[str, Any]]) -> list[Tensor]:
    """(T,) each at the tokenizer's rate; what cannot be used is logged and left out, up to a cap."""
    sounds, skipped = load_sounds(raws, tokenizer.sample_rate)
    for line in skipped:
        log.warning("skipped %s", line)
    return list(sounds.values())
