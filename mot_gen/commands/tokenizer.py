"""mot-gen tokenizer train | encode | decode | evaluate: `register` adds them to the command line.

Tokens travel as jsonl, one object a line: {"id", "modality", "fingerprint", "grid", "tokens": [...]}, or "latents"
(rows of channels) in place of "tokens" for a continuous tokenizer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from mot_gen.sequence import Span
    from mot_gen.tokenizers.image_base import ImageTokenizer

# class name in a saved config -> module of the tokenizer that reads such a folder, and its class
_HOMES = {
    "TextTokenizer": ("text", "TextTokenizer"),
    "PatchImageTokenizer": ("image_patch", "PatchImageTokenizer"),
    "LatentImageTokenizer": ("image_latent", "LatentImageTokenizer"),
    "VQImageTokenizer": ("image_vq", "VQImageTokenizer"),
    "ScalesImageTokenizer": ("image_scales", "ScalesImageTokenizer"),
    "VQModel": ("image_vq", "VQImageTokenizer"),
    "AutoencoderKL": ("image_latent", "LatentImageTokenizer"),
    "AutoencoderTiny": ("image_latent", "LatentImageTokenizer"),
    "AutoencoderDC": ("image_latent", "LatentImageTokenizer"),
    "SpeechUnitTokenizer": ("speech_units", "SpeechUnitTokenizer"),
    "SpeechCodecTokenizer": ("speech_codec", "SpeechCodecTokenizer"),
}


def register(subparsers) -> None:
    """Add the command `tokenizer`; each of its own commands sets func(args) -> exit code."""
    parser = subparsers.add_parser("tokenizer", help="train, run and measure tokenizers")
    commands = parser.add_subparsers(dest="tokenizer_command", required=True)
    _train_arguments(commands.add_parser("train", help="train a tokenizer of text, images or speech"))
    encode = commands.add_parser("encode", help="texts, pictures or recordings to tokens (jsonl)")
    encode.add_argument("tokenizer", metavar="FOLDER")
    encode.add_argument("inputs", nargs="+", metavar="FILE", help="pictures or recordings, folders of them; text files")
    encode.add_argument("--out", type=Path, required=True, metavar="JSONL")
    encode.add_argument("--max-skipped", type=int, default=20, help="inputs that may fail before it stops")
    encode.set_defaults(func=encode_command)
    decode = commands.add_parser("decode", help="tokens (jsonl) to pictures, recordings or a text file")
    decode.add_argument("tokenizer", metavar="FOLDER")
    decode.add_argument("tokens", type=Path, metavar="JSONL")
    decode.add_argument("--out", type=Path, required=True, help="folder of pictures or recordings, or text file")
    decode.set_defaults(func=decode_command)
    evaluate = commands.add_parser("evaluate", help="what of pictures or recordings a tokenizer keeps")
    evaluate.add_argument("tokenizer", metavar="FOLDER")
    evaluate.add_argument("--data", required=True, help="a folder, or emoji or spoken-digits (held-out part)")
    evaluate.add_argument("--extractor", help="also the reconstruction Frechet distance in its features")
    evaluate.add_argument("--recognizer", metavar="NAME", help="speech: sphinx, or a model of transformers")
    evaluate.add_argument("--json", type=Path, metavar="FILE")
    evaluate.set_defaults(func=evaluate_command)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("text", "vq", "scales", "kl", "speech"))
    parser.add_argument(
        "--data", required=True, help="text: files, comma separated; else a folder, emoji or spoken-digits"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder: the tokenizer, its checkpoint, report.json")
    parser.add_argument("--vocab-size", type=int, default=4096, help="text")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--color-channels", type=int, choices=(1, 3), default=3)
    parser.add_argument("--entries", type=int, default=1024, help="vq, scales: size of the codebook")
    parser.add_argument(
        "--scales", type=_integers, default=[1, 2, 3, 4, 6, 8], help="scales: sides, from coarse to fine"
    )
    parser.add_argument("--levels", type=_integers, help="vq: finite scalar quantisation instead, as in 8,5,5,5")
    parser.add_argument("--latent-channels", type=int, default=8, help="kl")
    parser.add_argument("--fold", type=int, default=4, help="pixels a side that the network sees as one")
    parser.add_argument("--widths", type=_integers, default=[128], help="channels at each resolution, as in 64,128")
    parser.add_argument(
        "--variants", type=int, default=8, help="emoji: more drawings of each, moved, turned and scaled"
    )
    parser.add_argument("--extractor", help="also report the reconstruction Frechet distance in its features")
    parser.add_argument("--units", type=int, default=500, help="speech: clusters")
    parser.add_argument("--context", type=int, default=1, help="speech: log-mel frames on either side of a unit's four")
    parser.add_argument("--collapse", action="store_true", help="speech: write a unit once however long it lasts")
    parser.add_argument("--encoder", metavar="FOLDER", help="speech: HuBERT, wav2vec2 or WavLM instead of log-mels")
    parser.add_argument("--layer", type=int, default=-1, help="speech: of the encoder; -1 is the last")
    fields: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE"}
    parser.add_argument("--set", **fields, help="fields of its training, as in steps=4000 lr=0.001")
    parser.set_defaults(func=train_command)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def load_tokenizer(folder: str):
    """The tokenizer saved in a folder, of whichever class; also a diffusers VQModel or autoencoder."""
    for file, key in (("config.json", "_class_name"), ("tokenizer_config.json", "tokenizer_class")):
        path = Path(folder) / file
        if path.is_file():
            name = json.loads(path.read_text("utf-8")).get(key)
            if name not in _HOMES and file == "config.json":
                raise InputError(f"{path}: {key} {name!r} is not a tokenizer" + nearest(name, _HOMES))
            module, kind = _HOMES.get(name, _HOMES["TextTokenizer"])
            return getattr(importlib.import_module(f"mot_gen.tokenizers.{module}"), kind).from_pretrained(folder)
    raise InputError(f"{folder}: no tokenizer in this folder (no config.json, no tokenizer_config.json)")


def train_command(args: argparse.Namespace) -> int:
    if args.kind == "text":
        return _train_text(args)
    if args.kind == "speech":
        return _train_speech(args)
    import torch

    from mot_gen.tokenizers import train_image

    options = _options(args.set, train_image.ImageTraining if args.kind == "kl" else train_image.VQTraining)
    size = (args.image_size, args.image_size)
    learned, held_out = _image_sets(args.data, size, args.color_channels)
    if args.data == "emoji" and args.variants:
        # Latents carry any ground at no cost, but a codebook would spend entries on it.
        variants = _emoji_variants(size, args.color_channels, args.variants, 0.25 if args.kind == "kl" else 0.0)
        learned = torch.cat([learned, variants])
    torch.manual_seed(options.seed)
    common = {"fold": args.fold, "widths": args.widths, "color_channels": args.color_channels}
    tokenizer: ImageTokenizer
    if args.kind == "vq":
        tokenizer = train_image.small_vq(args.image_size, args.entries, args.levels, **common)
    elif args.kind == "scales":
        tokenizer = train_image.small_scales(args.image_size, args.scales, args.entries, **common)
    else:
        tokenizer = train_image.small_kl(args.image_size, args.latent_channels, **common)
    trainer = train_image.ImageTrainer(tokenizer, learned, options, args.out)
    with _progress(options.steps, ("reconstruction", "penalty", "perceptual", "adversarial")) as report:
        trainer.run(report)
    tokenizer.save_pretrained(args.out)
    found = {"trained_on": len(learned), **_report(tokenizer, held_out, args.extractor)}
    return _write_report(found, args.out / "report.json")


def _train_speech(args: argparse.Namespace) -> int:
    import torch

    from mot_gen.tokenizers.speech_measures import speech_report
    from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
    from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units

    options = _options(args.set, SpeechTraining)
    torch.manual_seed(options.seed)
    sizes = {"vocab_size": args.units, "collapse": args.collapse}
    if args.encoder:
        tokenizer = SpeechUnitTokenizer.with_encoder(args.encoder, args.layer, **sizes)
    else:
        tokenizer = SpeechUnitTokenizer({"context": args.context}, **sizes)
    learned, held_out = _sound_sets(args.data, tokenizer.sample_rate)
    with _progress(options.steps, ("mel", "duration")) as report:
        train_speech_units(tokenizer, learned, options, report, args.out)
    tokenizer.save_pretrained(args.out)
    found = {"trained_on": len(learned), **speech_report(tokenizer, held_out)}
    return _write_report(found, args.out / "report.json")


def _train_text(args: argparse.Namespace) -> int:
    from mot_gen.tokenizers.text import TextTokenizer

    texts = [text for file in args.data.split(",") for text in _lines(Path(file))]
    tokenizer = TextTokenizer.train(texts, args.vocab_size)
    tokenizer.save_pretrained(args.out)
    size = sum(len(text.encode()) for text in texts)
    tokens = sum(len(span) for span in tokenizer.encode_batch(texts))
    return _write_report(
        {"vocab_size": tokenizer.vocab_size, "texts": len(texts), "bytes_per_token": size / max(1, tokens)},
        args.out / "report.json",
    )


def _options(pairs: list[str], kind: type[DataclassInstance]):
    """An instance of the dataclass `kind` from KEY=VALUE pairs."""
    fields: dict[str, Callable[[str], Any]] = {f.name: type(f.default) for f in kind.__dataclass_fields__.values()}
    values = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in fields:
            raise InputError(f"{pair}: no such option" + nearest(key, fields))
        try:
            values[key] = fields[key](value)
        except ValueError as error:
            raise InputError(f"{pair}: {key} takes a {fields[key].__name__}") from error
    return kind(**values)


@contextmanager
def _progress(steps: int, losses: Sequence[str]) -> Iterator[Callable[[dict], None]]:
    """Shows rows of `step` and these losses."""
    from mot_gen.files.progress import Progress

    with Progress(steps, losses) as bar:
        yield lambda row: bar.update(row["step"], **{name: row[name] for name in bar.names if name in row})


def _image_sets(data: str, size: tuple[int, int], channels: int):
    """(learned, held out), uint8 (N, C, H, W), of a folder or of the emoji."""
    from mot_gen.tokenizers.image_corpus import by_hash, find_images, read_images, split

    if data == "emoji":
        from mot_gen.datasets.emoji import emoji_images, held_out

        return split(read_images(emoji_images(size[0]), size, channels), held_out)
    # Named from the folder on, so that the held-out pictures are the same wherever the folder lies.
    files = [(file.relative_to(data).as_posix(), file) for file in find_images(Path(data))]
    pictures = read_images(files, size, channels)
    _warn(pictures.skipped)
    return split(pictures, by_hash)


def _emoji_variants(size: tuple[int, int], channels: int, copies: int, colored: float):
    """(N, C, H, W) uint8: other drawings of the emoji that are learned."""
    from mot_gen.datasets.emoji import emoji_images, emoji_variants, held_out
    from mot_gen.tokenizers.image_corpus import read_images

    drawn = {name: image.tobytes() for name, image in emoji_images(size[0])}
    unseen = {pixels for name, pixels in drawn.items() if held_out(name)}
    variants = emoji_variants(size[0], copies, colored)
    return read_images([pair for pair in variants if drawn[pair[0]] not in unseen], size, channels).images


def _report(tokenizer, images, extractor: str | None) -> dict:
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


def _sound_sets(data: str, sample_rate: int) -> tuple[list, list]:
    """(learned, held out) recordings of a folder or table by their names, or of the spoken digits by their speakers."""
    from mot_gen.tokenizers.speech_corpus import sound_sets

    if data != "spoken-digits":
        sounds = sound_sets(Path(data), sample_rate)
        _warn(sounds.skipped)
        return list(sounds.learned.values()), list(sounds.held_out.values())
    from mot_gen.datasets.spoken_digits import Utterance, load
    from mot_gen.recipes.sections import Data

    splits = load(Data())
    learned, held_out = (
        [sample.sound for sample in side if isinstance(sample, Utterance)] for side in (splits.train, splits.held_out)
    )
    return learned, held_out


def _evaluate_speech(tokenizer, args: argparse.Namespace) -> dict:
    """The speech report; with a recogniser also the share of words that it hears otherwise in what is decoded."""
    from mot_gen.files.audio_files import load_sounds
    from mot_gen.tokenizers.speech_corpus import find_recordings
    from mot_gen.tokenizers.speech_measures import speech_report

    if args.data == "spoken-digits":
        recordings = _sound_sets(args.data, tokenizer.sample_rate)[1]
        raws = [(str(number), sound) for number, sound in enumerate(recordings)]
    else:
        raws = find_recordings(Path(args.data))
    sounds, skipped = load_sounds(raws, tokenizer.sample_rate)
    _warn(skipped)
    recordings = list(sounds.values())
    report = speech_report(tokenizer, recordings)
    if args.recognizer:
        from mot_gen.eval.speech.recognition import SphinxRecognizer, TransformersRecognizer
        from mot_gen.eval.text.edits import WordErrorRate

        hear = SphinxRecognizer() if args.recognizer == "sphinx" else TransformersRecognizer(args.recognizer)
        rate, decoded = tokenizer.sample_rate, tokenizer.decode_batch(tokenizer.encode_batch(recordings))
        pairs = [pair for pair in zip(hear(decoded, rate), hear(recordings, rate)) if pair[1]]
        errors = WordErrorRate()
        errors.update([heard for heard, _ in pairs], [reference for _, reference in pairs])
        report |= {"word_error_rate": float(errors.compute()), "recognizer": args.recognizer, "heard": len(pairs)}
    return report


def evaluate_command(args: argparse.Namespace) -> int:
    from mot_gen.tokenizers.image_corpus import find_images, read_images

    tokenizer = load_tokenizer(args.tokenizer)
    if hasattr(tokenizer, "sample_rate"):
        return _write_report(_evaluate_speech(tokenizer, args), args.json)
    if not hasattr(tokenizer, "color_channels"):
        raise InputError(f"{args.tokenizer}: text comes back exactly; evaluate measures tokenizers of images or speech")
    size, channels = tokenizer.size, tokenizer.color_channels
    if args.data == "emoji":
        images = _image_sets("emoji", size, channels)[1]
    else:
        pictures = read_images([(str(f), f) for f in find_images(Path(args.data))], size, channels)
        _warn(pictures.skipped)
        images = pictures.images
    return _write_report(_report(tokenizer, images, args.extractor), args.json)


def encode_command(args: argparse.Namespace) -> int:
    tokenizer = load_tokenizer(args.tokenizer)
    rows, skipped, fingerprint = [], [], tokenizer.fingerprint
    for name, raw in _raws(tokenizer, args.inputs):
        try:
            rows.append({"id": name} | _to_json(tokenizer.encode(raw), fingerprint))
        except InputError as error:
            skipped.append(str(error) if name in str(error) else f"{name}: {error}")
            if len(skipped) > args.max_skipped:
                last = skipped[-1]
                raise InputError(f"more than {args.max_skipped} inputs cannot be encoded; the last: {last}") from error
    _warn(skipped)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return 0


def decode_command(args: argparse.Namespace) -> int:
    tokenizer = load_tokenizer(args.tokenizer)
    if not args.tokens.is_file():
        raise InputError(f"{args.tokens}: no such file")
    fingerprint = tokenizer.fingerprint
    rows = [_row(line, f"{args.tokens}:{i}", fingerprint) for i, line in enumerate(_lines(args.tokens), 1)]
    decoded = [tokenizer.decode(span) for _, span in rows]
    names = [name for name, _ in rows]
    if hasattr(tokenizer, "color_channels"):
        return _write_pictures(names, decoded, args.out)
    if hasattr(tokenizer, "sample_rate"):
        return _write_sounds(names, decoded, tokenizer.sample_rate, args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(text + "\n" for text in decoded), "utf-8")
    return 0


def _raws(tokenizer, inputs: list[str]) -> Iterator[tuple[str, object]]:
    """(id, raw) of every picture or recording, or of every line of text."""
    from mot_gen.tokenizers.image_corpus import find_images
    from mot_gen.tokenizers.speech_corpus import find_recordings

    for path in map(Path, inputs):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if hasattr(tokenizer, "color_channels"):
            yield from ((str(file), file) for file in (find_images(path) if path.is_dir() else [path]))
        elif hasattr(tokenizer, "sample_rate"):
            yield from find_recordings(path)
        else:
            yield from ((f"{path}:{i}", text) for i, text in enumerate(_lines(path), 1))


def _to_json(span: Span, fingerprint: str) -> dict:
    key = "latents" if span.values.is_floating_point() else "tokens"
    grid = list(span.grid) if span.grid else None
    return {"modality": span.modality, "fingerprint": fingerprint, "grid": grid, key: span.values.tolist()}


def _row(line: str, where: str, fingerprint: str) -> tuple[str, Span]:
    import torch

    try:
        row = json.loads(line)
        values = torch.tensor(row["tokens"]) if "tokens" in row else torch.tensor(row["latents"])
        from mot_gen.sequence import Span

        span = Span(row["modality"], values, tuple(row["grid"]) if row["grid"] else None)
        made_by = row["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a line of tokens ({error})") from error
    if made_by != fingerprint:
        raise InputError(f"{where}: made by tokenizer {made_by[:12]}, this one's fingerprint is {fingerprint[:12]}")
    return row["id"], span


def _write_pictures(names: list[str], images: list, folder: Path) -> int:
    from mot_gen.files.image_files import to_pil

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, image) in enumerate(zip(names, images)):
        to_pil(image).save(folder / f"{number:06d}-{Path(name).stem}.png")
    return 0


def _write_sounds(names: list[str], sounds: list, sample_rate: int, folder: Path) -> int:
    from mot_gen.files.audio_files import save_audio

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, sound) in enumerate(zip(names, sounds)):
        save_audio(folder / f"{number:06d}-{Path(name).stem}.wav", sound, sample_rate)
    return 0


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        return file.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _write_report(report: dict, file: Path | None) -> int:
    text = json.dumps(report, indent=2)
    print(text)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", "utf-8")
    return 0


def _warn(skipped: list[str]) -> None:
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
