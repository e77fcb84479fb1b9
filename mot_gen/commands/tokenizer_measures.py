"""The data that tokenizers learn from, and what they keep of it: image_sets, sound_sets, image_report, measures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.tokenizers.image_corpus import by_hash, find_images, read_images, split
from mot_gen.tokenizers.pretrained import move, usual_device
from mot_gen.tokenizers.saved import load_tokenizer


def measures(
    folder: str, data: str, held_out: bool = False, extractor: str | None = None, recognizer: str | None = None
) -> dict[str, Any]:
    """What the tokenizer in a folder keeps of pictures or recordings.

    data: a folder, or emoji or spoken-digits, whose held-out part is measured. held_out: of a folder, too, only what
    training holds out. extractor: also the Frechet distance in its features. recognizer: also how many words it hears
    otherwise.
    """
    tokenizer = load_tokenizer(folder)
    move([tokenizer], usual_device())
    if hasattr(tokenizer, "sample_rate"):
        return _speech(tokenizer, data, held_out, recognizer)
    if not hasattr(tokenizer, "color_channels"):
        raise InputError(
            f"{folder}: evaluate measures tokenizers of images or speech; text and plain numbers lose nothing"
        )
    size, channels = tokenizer.size, tokenizer.color_channels
    if data == "emoji" or held_out:
        images = image_sets(data, size, channels)[1]
    else:
        pictures = read_images([(str(file), file) for file in find_images(Path(data))], size, channels)
        warn(pictures.skipped)
        images = pictures.images
    return image_report(tokenizer, images, extractor)


# ---------------------------------------------------------------- pictures


def image_sets(data: str, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor]:
    """(learned, held out), uint8 (N, C, H, W), of a folder or of the emoji."""
    if data == "emoji":
        from mot_gen.datasets.emoji import emoji_images, held_out

        return split(read_images(emoji_images(size[0]), size, channels), held_out)
    # Named from the folder on, so that the held-out pictures are the same wherever the folder lies.
    files = [(file.relative_to(data).as_posix(), file) for file in find_images(Path(data))]
    pictures = read_images(files, size, channels)
    warn(pictures.skipped)
    return split(pictures, by_hash)


def emoji_variants(size: tuple[int, int], channels: int, copies: int, coloured: float) -> Tensor:
    """(N, C, H, W) uint8: other drawings of the emoji that are learned. coloured: the part of them on a ground."""
    from mot_gen.datasets import emoji

    drawn = {name: image.tobytes() for name, image in emoji.emoji_images(size[0])}
    unseen = {pixels for name, pixels in drawn.items() if emoji.held_out(name)}
    variants = emoji.emoji_variants(size[0], copies, coloured)
    return read_images([pair for pair in variants if drawn[pair[0]] not in unseen], size, channels).images


def image_report(tokenizer: Any, images: Tensor, extractor: str | None) -> dict[str, Any]:
    """The reconstruction report of uint8 images; with an extractor also the Frechet distance in its features."""
    from mot_gen.tokenizers.measure_image import reconstruction_report

    images = images.float() / 255
    report, decoded = reconstruction_report(tokenizer, images)
    if extractor:
        from mot_gen.eval.images.frechet import FrechetDistance

        distance = FrechetDistance(extractor)
        distance.update(images, real=True)
        distance.update(decoded, real=False)
        report |= {"reconstruction_frechet": float(distance.compute()), "frechet_extractor": extractor}
    return report


# ---------------------------------------------------------------- recordings


def sound_sets(data: str, sample_rate: int) -> tuple[list[Any], list[Any]]:
    """(learned, held out) recordings of a folder or table by their names, or of the spoken digits by their speakers."""
    if data == "spoken-digits":
        return _spoken_digits()

    from mot_gen.tokenizers import speech_corpus

    sounds = speech_corpus.sound_sets(Path(data), sample_rate)
    warn(sounds.skipped)
    return list(sounds.learned.values()), list(sounds.held_out.values())


def _spoken_digits() -> tuple[list[Any], list[Any]]:
    from mot_gen.datasets.spoken_digits import Utterance, load
    from mot_gen.recipes.sections import Data

    splits = load(Data())
    learned = [sample.sound for sample in splits.train if isinstance(sample, Utterance)]
    held_out = [sample.sound for sample in splits.held_out if isinstance(sample, Utterance)]
    return learned, held_out


def _speech(tokenizer: Any, data: str, held_out: bool, recognizer: str | None) -> dict[str, Any]:
    """The speech report; with a recogniser also the share of words that it hears otherwise in what is decoded."""
    from mot_gen.tokenizers.speech_measures import speech_report

    recordings = _recordings(tokenizer, data, held_out)
    report = speech_report(tokenizer, recordings)
    return report | _heard(tokenizer, recordings, recognizer) if recognizer else report


def _recordings(tokenizer: Any, data: str, held_out: bool) -> list[Any]:
    """The recordings of the spoken digits' held-out part, or of a folder or its held-out part, at the tokenizer's
    rate."""
    from mot_gen.files.audio_files import load_sounds
    from mot_gen.tokenizers.speech_corpus import find_recordings

    raws: list[tuple[str, Any]]
    if data == "spoken-digits" or held_out:
        raws = [(str(number), sound) for number, sound in enumerate(sound_sets(data, tokenizer.sample_rate)[1])]
    else:
        raws = find_recordings(Path(data))
    sounds, skipped = load_sounds(raws, tokenizer.sample_rate)
    warn(skipped)
    return list(sounds.values())


def _heard(tokenizer: Any, recordings: list[Any], recognizer: str) -> dict[str, Any]:
    """The word error rate of what is decoded, against what the same recogniser hears in the recordings."""
    from mot_gen.eval.speech.recognition import SphinxRecognizer, TransformersRecognizer
    from mot_gen.eval.text.edits import WordErrorRate

    hear = SphinxRecognizer() if recognizer == "sphinx" else TransformersRecognizer(recognizer)
    rate = tokenizer.sample_rate
    decoded = [sound.cpu() for sound in tokenizer.decode_batch(tokenizer.encode_batch(recordings))]
    pairs = [pair for pair in zip(hear(decoded, rate), hear(recordings, rate)) if pair[1]]
    errors = WordErrorRate()
    errors.update([heard for heard, _ in pairs], [reference for _, reference in pairs])
    return {"word_error_rate": float(errors.compute()), "recognizer": recognizer, "heard": len(pairs)}


# ---------------------------------------------------------------- files


def lines_of(file: Path) -> list[str]:
    """The lines of a text file; InputError where it cannot be read as text."""
    require(file.is_file(), f"{file}: no such file")
    try:
        return file.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def warn(skipped: Sequence[str]) -> None:
    """Name what was left out."""
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
