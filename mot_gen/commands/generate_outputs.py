"""What `mot-gen generate` writes: save, about_file, place; each file whole or not at all, and with what made it inside.

A PNG holds it in text chunks, a WAV in the comment of its LIST/INFO chunk, a JSON file beside the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image

from mot_gen.errors import InputError, require
from mot_gen.files.atomic import write_json, write_text, writing
from mot_gen.files.pictures import save_png

SUFFIX = {"image": ".png", "text": ".json", "speech": ".wav", "any": ".json", "vector": ".json"}
PLAIN = ".txt"  # a text without what made it, where a file of this suffix is asked for


def place(out: str, to: str, name: str, number: int, of: int, alone: bool) -> Path:
    """The file of sample `number` of `of` of an item: the file named, numbered ones beside it, or one in the folder."""
    path = Path(out)
    suffix, own = SUFFIX[to], path.suffix.lower()
    if _is_named(own, to):
        require(alone, f"--out {out}: is one file, but there are several inputs; give a folder")
        return path if of == 1 else path.with_stem(f"{path.stem}-{number:04d}")
    if own and not path.is_dir():
        also = f" or {PLAIN}" if to == "text" else ""
        remedy = "make it first if its name has a dot"
        raise InputError(f"--out {out}: must end in {suffix}{also}, or be a folder; {remedy}")
    if not name:
        return path / f"{number:04d}{suffix}"
    stem = name if of == 1 else f"{name}-{number:04d}"
    return path / f"{stem}{suffix}"


def _is_named(suffix: str, to: str) -> bool:
    """Whether a path of this suffix is the file itself, and not a folder."""
    return suffix == SUFFIX[to] or (to == "text" and suffix == PLAIN)


def save(result, to: str, path: Path, about: Mapping[str, object]) -> None:
    """Write a result: a picture, a text, (samples, rate), or a document of texts and pictures."""
    if to == "image":
        save_png(result, path, about)
    elif to == "speech":
        samples, rate = result
        _write_wav(path, samples, rate, about)
    elif path.suffix.lower() == PLAIN:
        write_text(path, result + "\n")
    elif to == "vector":
        write_json(path, {"vector": result.tolist(), **about})
    elif to == "text":
        write_json(path, {"text": result, **about})
    else:
        write_json(path, {"segments": _segments(result, path, about), **about})


def about_file(path: Path) -> dict[str, str] | None:
    """What a written file says made it, every value as text; None for a file that says nothing, or none at all."""
    with suppress(OSError, ValueError, SyntaxError):
        if path.suffix == ".png":
            with Image.open(path) as image:
                return dict(cast("Any", image).text) or None
        if path.suffix == ".wav":
            import soundfile

            with soundfile.SoundFile(path) as file:
                return as_text(json.loads(file.comment))
        if path.suffix == ".json":
            return as_text(json.loads(path.read_text(encoding="utf-8")))
    return None


def as_text(about: Mapping[str, object]) -> dict[str, str]:
    """Values as a PNG's text chunks hold them."""
    return {key: str(value) for key, value in about.items()}


def _write_wav(path: Path, samples, rate: int, about: Mapping[str, object]) -> None:
    import soundfile

    with writing(path) as part, soundfile.SoundFile(part, "w", rate, channels=1, subtype="PCM_16") as file:
        file.comment = json.dumps(dict(about))
        file.write(samples)


def _segments(document: list, path: Path, about: Mapping[str, object]) -> list[dict]:
    """Texts as they are, pictures as files beside the document, named after it and numbered."""
    segments = []
    for number, segment in enumerate(document):
        if isinstance(segment, str):
            segments.append({"text": segment})
        else:
            picture = path.with_name(f"{path.stem}-{number:02d}.png")
            save_png(segment, picture, about)
            segments.append({"image": picture.name})
    return segments
