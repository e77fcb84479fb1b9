"""What `mot-gen tokenizer train` trains: Text, Images, Speech. Each is a request, and `train()` carries it out.

A tokenizer is written into the folder `out`, beside the checkpoint of its training; `train()` returns what its
report.json holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mot_gen.commands.options import settings
from mot_gen.commands.tokenizer_measures import (
    emoji_variants,
    image_report,
    image_sets,
    lines_of,
    sound_sets,
)
from mot_gen.errors import InputError, expect, require
from mot_gen.files.progress import Progress
from mot_gen.files.suffixes import suffix_of
from mot_gen.tokenizers.image_corpus import find_images
from mot_gen.tokenizers.pretrained import move, usual_device
from mot_gen.tokenizers.speech_corpus import find_recordings
from mot_gen.tokenizers.speech_measures import speech_report
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.train_image import ImageTrainer, ImageTraining, VQTraining, small_kl, small_scales, small_vq
from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from mot_gen.tokenizers.image_base import ImageTokenizer

COLOURED = 0.25  # of the emoji's other drawings, for latents: they carry any ground at no cost, a codebook would not


@dataclass(frozen=True)
class Text:
    """The training of a text tokenizer, as the command states it.

    data: files, comma separated, a text a line. training: refused, as there is nothing to set.
    """

    data: str
    out: Path
    vocab_size: int
    training: Sequence[str] = ()

    def check(self) -> None:
        """InputError for what no tokenizer could be trained with; nothing is read."""
        if self.training:
            raise InputError(f"--set {self.training[0]}: a text tokenizer has no such option; give --vocab-size alone")
        for file in self.data.split(","):
            fits = suffix_of(file) not in (".jsonl", ".json", ".csv", ".tsv")
            require(fits, f"{file}: a text a line is wanted; write its texts to a .txt")
        TextTokenizer.train([], self.vocab_size)

    def train(self) -> dict[str, Any]:
        """The vocabulary, and how many bytes of these texts a token stands for."""
        self.check()
        texts: list[str] = []
        for file in self.data.split(","):
            texts += lines_of(Path(file))
        tokenizer = TextTokenizer.train(texts, self.vocab_size)
        tokenizer.save_pretrained(self.out)
        size = sum(len(text.encode()) for text in texts)
        tokens = sum(len(span) for span in tokenizer.encode_batch(texts))
        return {"vocab_size": tokenizer.vocab_size, "texts": len(texts), "bytes_per_token": size / max(1, tokens)}


@dataclass(frozen=True)
class Images:
    """The training of an image tokenizer, as the command states it.

    kind: "vq", "scales" or "kl". data: a folder, or emoji. The others are the options of the command.
    """

    kind: str
    data: str
    out: Path
    image_size: int
    color_channels: int
    entries: int
    scales: list[int]
    levels: list[int] | None
    latent_channels: int
    fold: int
    widths: list[int]
    variants: int
    extractor: str | None
    training: Sequence[str] = ()

    def check(self) -> None:
        """InputError for what no tokenizer could be trained with; no picture is read."""
        _options(self.training, ImageTraining if self.kind == "kl" else VQTraining)
        self._check_numbers()
        if self.data != "emoji":
            find_images(Path(self.data))
        self._untrained()

    def train(self) -> dict[str, Any]:
        """How many pictures were learned, and what is kept of those that were not."""
        self._check_numbers()
        options_class = ImageTraining if self.kind == "kl" else VQTraining
        options = _options(self.training, options_class)
        learned, held_out = self._sets()
        torch.manual_seed(options.seed)
        tokenizer = self._untrained()
        move([tokenizer], usual_device())
        trainer = ImageTrainer(tokenizer, learned, options, self.out)
        with _progress(options.steps, ("reconstruction", "penalty", "perceptual", "adversarial")) as report:
            trainer.run(report)
        tokenizer.save_pretrained(self.out)
        return {"trained_on": len(learned), **image_report(tokenizer, held_out, self.extractor)}

    def _check_numbers(self) -> None:
        for name in ("image_size", "entries", "latent_channels", "fold"):
            expect(getattr(self, name) >= 1, f"--{name.replace('_', '-')} must be 1 or more", getattr(self, name))

    def _sets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(learned, held out), uint8 (N, C, H, W)."""
        size = (self.image_size, self.image_size)
        learned, held_out = image_sets(self.data, size, self.color_channels)
        if self.data == "emoji" and self.variants:
            coloured = COLOURED if self.kind == "kl" else 0.0
            more = emoji_variants(size, self.color_channels, self.variants, coloured)
            learned = torch.cat([learned, more])
        return learned, held_out

    def _untrained(self) -> ImageTokenizer:
        common: dict[str, Any] = {"fold": self.fold, "widths": self.widths, "color_channels": self.color_channels}
        if self.kind == "vq":
            return small_vq(self.image_size, self.entries, self.levels, **common)
        if self.kind == "scales":
            return small_scales(self.image_size, self.scales, self.entries, **common)
        return small_kl(self.image_size, self.latent_channels, **common)


@dataclass(frozen=True)
class Speech:
    """The training of a speech tokenizer, as the command states it.

    data: a folder or table of recordings, or spoken-digits. The others are the options of the command.
    """

    data: str
    out: Path
    units: int
    context: int
    collapse: bool
    encoder: str | None
    layer: int
    training: Sequence[str] = ()

    def check(self) -> None:
        """InputError for what no tokenizer could be trained with; no recording is read."""
        _options(self.training, SpeechTraining)
        if self.data != "spoken-digits":
            find_recordings(Path(self.data))
        self._untrained()

    def train(self) -> dict[str, Any]:
        """How many recordings were learned, and what is kept of those that were not."""
        options = _options(self.training, SpeechTraining)
        torch.manual_seed(options.seed)
        tokenizer = self._untrained()
        move([tokenizer], usual_device())
        learned, held_out = sound_sets(self.data, tokenizer.sample_rate)
        with _progress(options.steps, ("mel", "duration")) as report:
            train_speech_units(tokenizer, learned, options, report, self.out)
        tokenizer.save_pretrained(self.out)
        return {"trained_on": len(learned), **speech_report(tokenizer, held_out)}

    def _untrained(self) -> SpeechUnitTokenizer:
        sizes: dict[str, Any] = {"vocab_size": self.units, "collapse": self.collapse}
        if self.encoder:
            return SpeechUnitTokenizer.with_encoder(self.encoder, self.layer, **sizes)
        return SpeechUnitTokenizer({"context": self.context}, **sizes)


def _options(pairs: Sequence[str], kind: type[DataclassInstance]) -> Any:
    """An instance of the dataclass `kind` from KEY=VALUE pairs."""
    return kind(**settings(pairs, {field.name: type(field.default) for field in fields(kind)}))


@contextmanager
def _progress(steps: int, losses: Sequence[str]) -> Iterator[Callable[[dict], None]]:
    """Shows rows of `step` and these losses."""
    with Progress(steps, losses) as bar:

        def show(row: dict) -> None:
            bar.update(row["step"], **{name: row[name] for name in bar.names if name in row})

        yield show
