"""Pictures, recordings and texts as files of tokens, and back: encode, decode.

Tokens travel as jsonl, one object a line: {"id", "modality", "fingerprint", "grid", "tokens": [...]}, or "latents"
(rows of channels) in place of "tokens" for a continuous tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

REMEDY = "give a file that mot-gen tokenizer encode wrote"


def encode(folder: str, inputs: Sequence[str], out: str | Path, max_skipped: int) -> None:
    """Write the tokens of every picture, recording or line of text. InputError where more than `max_skipped` of them
    cannot be encoded, or none can; fewer are named."""
    tokenizer = _load(folder)
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
    require(lines or not skipped, "; ".join(["no input can be encoded", *skipped[-1:]]))
    warn(skipped)
    write_text(out, "".join(lines))


def decode(folder: str, tokens: Path, out: Path) -> None:
    """Write what the tokens in a file stand for: pictures or recordings into the folder `out`, or a text file."""
    rows = rows_of(tokens)
    tokenizer = _load(folder)
    _refuse_others(rows, tokenizer.fingerprint, folder)
    decoded = [row.decoded(tokenizer) for row in rows]
    if not (_is_of_pictures(tokenizer) or _is_of_sounds(tokenizer)):
        write_text(out, "".join(text + "\n" for text in decoded))
        return
    out.mkdir(parents=True, exist_ok=True)
    for number, (row, made) in enumerate(zip(rows, decoded)):
        stem = f"{number:06d}-{Path(row.id).stem}"
        if _is_of_pictures(tokenizer):
            to_pil(made).save(out / f"{stem}.png")
        else:
            save_audio(out / f"{stem}.wav", made.cpu(), tokenizer.sample_rate)


def _is_of_pictures(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "color_channels")


def _is_of_sounds(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "sample_rate")


def _load(folder: str) -> Any:
    """The tokenizer in a folder, on the GPU if there is one."""
    tokenizer = load_tokenizer(folder)
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


@dataclass(frozen=True)
class TokenLine:
    """A line of a file of tokens. where: its file and number. values: ids, or rows of channels, not yet looked at."""

    where: str
    id: str
    modality: str
    fingerprint: str
    grid: list[int] | None
    values: list[Any]

    def decoded(self, tokenizer: Any) -> Any:
        """What its tokens stand for; InputError, which names the line, where they stand for nothing."""
        try:
            grid: Any = tuple(self.grid) if self.grid else None
            return tokenizer.decode(Span(self.modality, torch.tensor(self.values), grid))
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"{with_name(self.where, error)}; {REMEDY}") from error


def rows_of(tokens: Path) -> list[TokenLine]:
    """The lines of a file of tokens; InputError for what `encode` did not write. Needs no torch."""
    return [_row(line, f"{tokens}:{number}") for number, line in enumerate(lines_of(tokens), 1)]


def _row(line: str, where: str) -> TokenLine:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a line of tokens: no JSON ({error}); {REMEDY}") from error
    require(isinstance(row, dict), f"{where}: not a line of tokens: {line[:40]!r} is no object; {REMEDY}")
    values = "tokens" if "tokens" in row else "latents"
    kinds: Mapping[str, Any] = {
        "id": str,
        "modality": str,
        "fingerprint": str,
        "grid": (list, type(None)),
        values: list,
    }
    for name, kind in kinds.items():
        fault = f"{name} is {row[name]!r:.40}" if name in row else f"has no {name}"
        require(name in row and isinstance(row[name], kind), f"{where}: not a line of tokens: {fault}; {REMEDY}")
    return TokenLine(where, *(row[name] for name in kinds))


def _refuse_others(rows: Sequence[TokenLine], fingerprint: str, folder: str) -> None:
    """InputError for a row of another tokenizer than that in the folder."""
    for row in rows:
        if row.fingerprint != fingerprint:
            other, own = row.fingerprint[:12], fingerprint[:12]
            raise InputError(
                f"{row.where}: made by tokenizer {other}, this one's fingerprint is {own} ({folder}); give the folder "
                "of the tokenizer that encoded it"
            )
