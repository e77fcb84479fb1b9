"""What speech units keep of recorded speech: prints JSON, may draw. `python -m benchmarks.speech_units RECORDINGS`

RECORDINGS: a folder of sound files, or a parquet file whose column `flac` (or `audio`) holds their bytes and `id`
their names. A tenth, by a hash of the name, is held out; the rest trains a tokenizer with one thread. Reported:
`speech_report` of the held-out recordings, seconds of training, and hours of sound encoded and decoded an hour.

--plot FILE draws one held-out recording above its decoded copy, waveform and log-mel spectrogram, with its units.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.files.suffixes import SOUNDS, find
from mot_gen.tokenizers.image_corpus import by_hash
from mot_gen.tokenizers.speech_features import log_mel
from mot_gen.tokenizers.speech_measures import speech_report
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units

WAVE_HEIGHT, BAND_HEIGHT, FRAME_WIDTH, LABEL = 80, 2, 4, 16  # pixels


def recordings(source: Path, sample_rate: int) -> tuple[dict[str, Tensor], list[str]]:
    """Name -> samples (T,) of every recording, and one line for each that was refused."""
    sounds, refused = {}, []
    for name, raw in _raws(source):
        try:
            sounds[name] = load_audio(raw, sample_rate)[0]
        except InputError as error:
            refused.append(f"{name}: {error}")
    return sounds, refused


def _raws(source: Path):
    if source.is_dir():
        yield from ((f.relative_to(source).as_posix(), f) for f in find(source, SOUNDS))
        return
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(source).to_pylist():
        yield row["id"], row.get("flac") or row.get("audio")


def speed(call, seconds_of_sound: float) -> float:
    """Seconds of sound a second of CPU time of this thread."""
    began = time.thread_time()
    call()
    return seconds_of_sound / (time.thread_time() - began)


def wave_picture(sound: Tensor, width: int) -> Image.Image:
    """The highest and lowest sample of each column of pixels."""
    picture = Image.new("L", (width, WAVE_HEIGHT), 255)
    draw, middle = ImageDraw.Draw(picture), WAVE_HEIGHT / 2
    scale = (middle - 1) / sound.abs().max().item()
    for column, part in enumerate(sound.tensor_split(width)):
        draw.line([(column, middle - part.max().item() * scale), (column, middle - part.min().item() * scale)], fill=60)
    return picture


def mel_picture(frames: Tensor, floor: float) -> Image.Image:
    """(frames, n_mels) with low bands at the bottom, dark where there is energy."""
    energy = (frames - floor) / (frames.max() - floor)
    pixels = (255 * (1 - energy)).round().to(torch.uint8).mT.flip(0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    return picture.resize((FRAME_WIDTH * len(frames), BAND_HEIGHT * frames.shape[1]), Image.Resampling.NEAREST)


def plot(tokenizer: SpeechUnitTokenizer, sound: Tensor) -> Image.Image:
    """Recorded above decoded: a label, the waveform, the spectrogram; ticks between are where the unit changes."""
    span, recorded = tokenizer.encode(sound), tokenizer.waveform(sound)
    rows = []
    for label, heard in (("recorded", recorded), ("decoded from its units", tokenizer.decode(span))):
        mel = tokenizer.features.mel
        spectrum = mel_picture(log_mel(heard[None], mel)[0], mel.log_floor)
        title = Image.new("L", (spectrum.width, LABEL), 255)
        ImageDraw.Draw(title).text((4, 2), f"{label}, {len(heard) / tokenizer.sample_rate:.2f} s", fill=0)
        rows += [title, wave_picture(heard, spectrum.width), spectrum, _ticks(span.values, spectrum.width)]
    return stacked(rows)


def _ticks(ids: Tensor, width: int) -> Image.Image:
    picture = Image.new("L", (width, LABEL // 2), 255)
    changes = (ids[1:] != ids[:-1]).nonzero().flatten() + 1
    for x in (changes * width / len(ids)).tolist():
        ImageDraw.Draw(picture).line([(x, 0), (x, LABEL // 2)], fill=0)
    return picture


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("L", (max(row.width for row in rows), sum(row.height for row in rows)), 255)
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--steps", type=int, default=SpeechTraining.steps)
    parser.add_argument("--context", type=int, default=1, help="frames on either side of a unit's own four")
    parser.add_argument("--collapse", action="store_true")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = SpeechUnitTokenizer({"context": args.context}, collapse=args.collapse)
    sounds, refused = recordings(args.recordings, tokenizer.sample_rate)
    learned = [sound for name, sound in sounds.items() if not by_hash(name)]
    held_out = [sound for name, sound in sounds.items() if by_hash(name)]
    began = time.thread_time()
    train_speech_units(tokenizer, learned, SpeechTraining(steps=args.steps))
    trained = time.thread_time() - began
    seconds, spans = sum(map(len, held_out)) / tokenizer.sample_rate, tokenizer.encode_batch(held_out)
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        longest_shown = [sound for sound in held_out if len(sound) <= 3 * tokenizer.sample_rate]
        plot(tokenizer, max(longest_shown, key=len)).save(args.plot)
    return {
        "threads": 1,
        "steps": args.steps,
        "refused": len(refused),
        "learned_recordings": len(learned),
        "learned_seconds": sum(map(len, learned)) / tokenizer.sample_rate,
        "training_cpu_seconds": trained,
        **speech_report(tokenizer, held_out),
        "hours_encoded_an_hour": speed(lambda: tokenizer.encode_batch(held_out), seconds),
        "hours_decoded_an_hour": speed(lambda: tokenizer.decode_batch(spans), seconds),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
