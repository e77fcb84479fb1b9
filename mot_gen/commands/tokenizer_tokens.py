"""Pictures, recordings and texts as files of tokens, and back: encode, decode.

Tokens travel as jsonl, one object a line: {"id", "modality", "fingerprint", "grid", "tokens": [...]}, or "latents"
(rows of channels) in place of "tokens" for a continuous tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mot_gen.commands.tokenizer_measures import lines_of, warn
from mot_gen.errors import InputError, require, with_name
from mot_gen.files.atomic import write_text
from mot_gen.files.audio_files import save_audio
from mot_gen.files.image_files import to_pil
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_corpus import find_images
from mot_gen.tokenizers.pretrained import move, usual_device
from mot_gen.tokenizers.saved import load_tokenizer
from mot_gen.tokenizers.speech_corpus import find_recordings


def encode(folder: str, inputs: Sequence[str], out: Path, max_skipped: int) -> None:
    """Write the tokens of every picture, recording or line of text. InputError where more than `max_skipped` of them
    cannot be encoded; fewer are named."""
    tokenizer = _loaded(folder)
    fingerprint = tokenizer.fingerprint
    lines: list[str] = []
    skipped: list[str] = []
    for name, raw in _raws(tokenizer, inputs):
        try:
            row = {"id": name, **_to_json(tokenizer.encode(raw), fingerprint)}
        except InputError as error:
            skipped.append(with_name(name, error))
        else:
            lines.append(json.dumps(row) + "\n")
        if len(skipped) > max_skipped:
            raise InputError(f"more than {max_skipped} inputs cannot be encoded; the last: {skipped[-1]}")
    warn(skipped)
    write_text(out, "".join(lines))


def decode(folder: str, tokens: Path, out: Path) -> None:
    """Write what the tokens in a file stand for: pictures or recordings into the folder `out`, or a text file."""
    tokenizer = _loaded(folder)
    fingerprint = tokenizer.fingerprint
    rows = [_row(line, f"{tokens}:{number}", fingerprint) for number, line in enumerate(lines_of(tokens), 1)]
    decoded = [tokenizer.decode(span) for _, span in rows]
    if not (_is_of_pictures(tokenizer) or _is_of_sounds(tokenizer)):
        write_text(out, "".join(text + "\n" for text in decoded))
        return
    out.mkdir(parents=True, exist_ok=True)
    for number, ((name, _), made) in enumerate(zip(rows, decoded)):
        stem = f"{number:06d}-{Path(name).stem}"
        if _is_of_pictures(tokenizer):
            to_pil(made).save(out / f"{stem}.png")
        else:
            save_audio(out / f"{stem}.wav", made.cpu(), tokenizer.sample_rate)


def _is_of_pictures(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "color_channels")


def _is_of_sounds(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "sample_rate")


def _loaded(folder: str) -> Any:
    """The tokenizer in a folder. InputError for one of plain numbers, which no file of its own holds."""
    tokenizer = load_tokenizer(folder)
    is_file = tokenizer.modality.discrete or _is_of_pictures(tokenizer)
    require(is_file, f"{folder}: plain numbers stand in records, and training encodes them; give a tokenizer of files")
    move([tokenizer], usual_device())
    return tokenizer


def _raws(tokenizer: Any, inputs: Sequence[str]) -> Iterator[tuple[str, object]]:
    """(id, raw) of every picture or recording, or of every line of text."""
    for path in map(Path, inputs):
        require(path.exists(), f"{path}: no such file or folder")
        if _is_of_pictures(tokenizer):
            files = find_images(path) if path.is_dir() else [path]
            yield from zip(map(str, files), files)
        elif _is_of_sounds(tokenizer):
            yield from find_recordings(path)
        else:
            for number, text in enumerate(lines_of(path), 1):
                yield f"{path}:{number}", text


def _to_json(span: Span, fingerprint: str) -> dict[str, Any]:
    key = "latents" if span.values.is_floating_point() else "tokens"
    grid = list(span.grid) if span.grid else None
    return {"modality": span.modality, "fingerprint": fingerprint, "grid": grid, key: span.values.tolist()}


def _row(line: str, where: str, fingerprint: str) -> tuple[str, Span]:
    """(id, span) of a line. InputError, which names `where`, for what is no such line, or of another tokenizer."""
    try:
        row = json.loads(line)
        values = row["tokens"] if "tokens" in row else row["latents"]
        grid = tuple(row["grid"]) if row["grid"] else None
        span = Span(row["modality"], torch.tensor(values), grid)
        name, made_by = row["id"], row["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a line of tokens ({error})") from error
    if made_by != fingerprint:
        raise InputError(f"{where}: made by tokenizer {made_by[:12]}, this one's fingerprint is {fingerprint[:12]}")
    return name, span
