"""Samples: what training learns from, and how one record, a JSON object, becomes one.

`Part` is one piece of raw content. A sample is a `Pair` (an image and its captions) or a `Document` (parts in a fixed
order); either is arranged into parts by `.arrange(rng, options)`. `parse_record` turns one JSON object into a sample;
its errors name the file, the line or row, and the field. `Splits` are what is trained on and what never is.

A record is one of
    {"id": "r1", "messages": [{"role": "user", "content": [{"type": "text", "text": "Draw snow."}]},
                              {"role": "assistant", "content": [{"type": "image", "image": "b.jpg", "loss": true}]}]}
    {"content": [{"type": "text", "text": "..."}, {"type": "image", "image": "a.jpg"}]}
    {"image": "a.jpg", "caption": "..."}       (or "text", or "captions": [...], or none)
    {"text": "..."}
Parts of an assistant's message and of `content` carry loss, others do not; `loss` on a part overrules. A medium is a
path, bytes in parquet, or its tokens (mot_gen/data/encoded.py).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mot_gen.data.encoded import is_encoded, parse_encoded
from mot_gen.data.remote import place
from mot_gen.errors import InputError

MODALITIES = {"audio": "speech"}  # a part's type -> its modality, where the names differ
Resolve = Callable[[Any, str], Any]  # (what a record says, its field) -> path or bytes of a medium


def type_of(modality: str) -> str:
    """A modality -> the type of its parts in records."""
    return next((type for type, name in MODALITIES.items() if name == modality), modality)


def sample_key(id: str) -> int:
    """64 bits that stand for a sample's id when samples are split and compared."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


# ---------------------------------------------------------------- samples


@dataclass(frozen=True)
class Part:
    """One piece of raw content. kind: its modality. value: text, or a medium as path, bytes, PIL image or Encoded."""

    kind: str
    value: Any
    loss: bool = True


@dataclass(frozen=True)
class Pair:
    """An image and its captions, any number of phrasings of the same thing."""

    id: str
    image: Any
    captions: tuple[str, ...] = ()

    def arrange(self, rng: random.Random, options) -> list[Part]:
        """One phrasing before or after the image. `options.caption_first` is the probability of before,
        `options.caption_dropout` that of no caption at all, which teaches the unconditional half of guidance."""
        image = Part("image", self.image)
        if not self.captions or rng.random() < options.caption_dropout:
            return [image]
        caption = Part("text", rng.choice(self.captions))
        return [caption, image] if rng.random() < options.caption_first else [image, caption]


@dataclass(frozen=True)
class Document:
    """Parts whose order is given."""

    id: str
    parts: tuple[Part, ...]

    def arrange(self, rng: random.Random, options) -> list[Part]:
        """The parts as they are."""
        return list(self.parts)


Sample = Pair | Document


@dataclass(frozen=True)
class Splits:
    """What training sees, and what it never sees."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]


# ---------------------------------------------------------------- one record


def parse_record(record: Any, where: str, default_id: str, resolve: Resolve) -> Sample:
    """One record -> a sample; `where` begins every error, `resolve` finds media."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: a record is an object with image and caption, messages, content or text")
    id = str(record.get("id", default_id))
    if "messages" in record:
        return Document(id, tuple(_messages(record["messages"], where, resolve)))
    if "content" in record:
        return Document(id, tuple(_content(record["content"], True, f"{where}: content", resolve)))
    if "image" in record:
        return Pair(id, _medium(record["image"], f"{where}: image", resolve), _captions(record, where))
    if "text" in record:
        return Document(id, (Part("text", _text(record["text"], f"{where}: text")),))
    raise InputError(
        f"{where}: has none of image, messages, content and text; its keys are {', '.join(record) or 'none'}"
    )


def _messages(messages: Any, where: str, resolve: Resolve):
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: messages must be a list that is not empty, got {messages!r:.60}")
    for i, message in enumerate(messages):
        field = f"{where}: messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{field}.role must be system, user or assistant, got {message!r:.60}")
        yield from _content(message.get("content"), message["role"] == "assistant", f"{field}.content", resolve)


def _content(content: Any, loss: bool, where: str, resolve: Resolve):
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise InputError(f"{where} must be text or a list of parts that is not empty, got {content!r:.60}")
    for i, part in enumerate(content):
        yield _part(part, loss, f"{where}[{i}]", resolve)


def _part(part: Any, loss: bool, where: str, resolve: Resolve) -> Part:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InputError(f'{where} must be a part such as {{"type": "text", "text": "..."}}, got {part!r:.60}')
    kind = part["type"]
    unknown = {name for name, value in part.items() if value is not None} - {"type", "loss", kind}
    if unknown or part.get(kind) is None:
        raise InputError(f"{where} needs the keys type and {kind}, and perhaps loss, got {', '.join(sorted(part))}")
    loss = loss if part.get("loss") is None else part["loss"]
    if not isinstance(loss, bool):
        raise InputError(f"{where}.loss must be true or false, got {loss!r}")
    field = f"{where}.{kind}"
    value = _text(part["text"], field) if kind == "text" else _medium(part[kind], field, resolve)
    return Part(MODALITIES.get(kind, kind), value, loss)


def _medium(value: Any, field: str, resolve: Resolve) -> Any:
    return parse_encoded(value, field) if is_encoded(value) else resolve(value, field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{field} must be text that is not empty, got {value!r:.60}")
    return value


def _captions(record: dict, where: str) -> tuple[str, ...]:
    given = [name for name in ("captions", "caption", "text") if record.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{where}: {given[0]} and {given[1]} both caption the image; give one")
    if not given:
        return ()
    value = record[given[0]]
    if given[0] != "captions":
        return (_text(value, f"{where}: {given[0]}"),)
    if not isinstance(value, list):
        raise InputError(f"{where}: captions must be a list of texts, got {value!r:.60}")
    return tuple(_text(caption, f"{where}: captions[{i}]") for i, caption in enumerate(value))


def path_in(folder: Path) -> Resolve:
    """Media as paths relative to `folder`, itself perhaps far, or as addresses (places.py); bytes, also in Hugging
    Face's {bytes, path}, stay bytes."""

    def resolve(value: Any, field: str):
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise InputError(f"{field} must be the path of a file, got {value!r:.60}")
        return place(value) if "://" in value else folder / value

    return resolve
