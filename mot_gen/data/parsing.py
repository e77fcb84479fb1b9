"""How one record, a JSON object, becomes a sample: parse_record, path_in. Errors name the file, the line and the field.

A record is one of
    {"id": "r1", "messages": [{"role": "user", "content": [{"type": "text", "text": "Draw snow."}]},
                              {"role": "assistant", "content": [{"type": "image", "image": "b.jpg", "loss": true}]}]}
    {"content": [{"type": "text", "text": "..."}, {"type": "image", "image": "a.jpg"}]}
    {"image": "a.jpg", "caption": "..."}       (or "text", or "captions": [...], or none)
    {"text": "..."}
    {"vector": [[0.1, 0.2], ...], "text": "..."}   (text, before it, or none)
Parts of an assistant's message and of `content` carry loss, others do not; `loss` on a part overrules. A medium is a
path, bytes in parquet, its tokens (encoded.py), or plain numbers (vectors.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mot_gen.data.encoded import is_encoded, parse_encoded
from mot_gen.data.notices import Notices
from mot_gen.data.remote import is_far, place
from mot_gen.data.samples import MODALITIES, Document, Pair, Part, Sample
from mot_gen.data.texts import clean_text, is_text
from mot_gen.data.vectors import is_vector, parse_vector
from mot_gen.errors import InputError

ROLES = ("system", "user", "assistant")
CAPTIONS = ("captions", "caption", "text")  # fields that caption an image
OUTSIDE = "media outside of the folder of their records"
Resolve = Callable[[Any, str], Any]  # (what a record says, its field) -> path or bytes of a medium


def parse_record(record: Any, where: str, default_id: str, resolve: Resolve, notices: Notices | None = None) -> Sample:
    """One record -> a sample.

    where: begins every error. default_id: of a record without an id. resolve: finds media. notices: takes what is
    changed in the texts.
    """
    if not isinstance(record, dict):
        raise InputError(f"{where}: a record is an object with image and caption, messages, content or text")
    parser = _Parser(where, resolve, notices)
    id = _id(record.get("id"), where, default_id)
    if "messages" in record:
        return Document(id, tuple(parser.messages(record["messages"])))
    if "content" in record:
        return Document(id, tuple(parser.content(record["content"], True, f"{where}: content")))
    if "image" in record:
        return Pair(id, parser.medium(record["image"], f"{where}: image"), parser.captions(record))
    if "vector" in record:
        return Document(id, tuple(parser.before_vector(record)))
    if "text" in record:
        return Document(id, (Part("text", parser.text(record["text"], f"{where}: text")),))
    keys = ", ".join(record) or "none"
    raise InputError(f"{where}: has none of image, messages, content, vector and text; its keys are {keys!s:.200}")


def _require(ok: bool, what: str, got: Any) -> None:
    """InputError that says what must be so, and what was found instead."""
    if not ok:
        raise InputError(f"{what}, got {got!r:.60}")


def _id(value: Any, where: str, default: str) -> str:
    if value is None:
        value = default
    known = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    _require(known, f"{where}: id must be text or a number", value)
    id = str(value)
    _require("\0" not in id and is_text(id), f"{where}: id holds what is no character", id)
    return id


@dataclass(frozen=True)
class _Parser:
    """What stays the same while one record is parsed."""

    where: str
    resolve: Resolve
    notices: Notices | None

    def messages(self, messages: Any) -> Iterator[Part]:
        listed = isinstance(messages, list) and bool(messages)
        _require(listed, f"{self.where}: messages must be a list that is not empty", messages)
        for i, message in enumerate(messages):
            field = f"{self.where}: messages[{i}]"
            known = isinstance(message, dict) and message.get("role") in ROLES
            _require(known, f"{field}.role must be system, user or assistant", message)
            yield from self.content(message.get("content"), message["role"] == "assistant", f"{field}.content")

    def content(self, content: Any, loss: bool, field: str) -> Iterator[Part]:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        listed = isinstance(content, list) and bool(content)
        _require(listed, f"{field} must be text or a list of parts that is not empty", content)
        for i, part in enumerate(content):
            yield self.part(part, loss, f"{field}[{i}]")

    def part(self, part: Any, loss: bool, field: str) -> Part:
        typed = isinstance(part, dict) and isinstance(part.get("type"), str)
        _require(typed, f'{field} must be a part such as {{"type": "text", "text": "..."}}', part)
        kind: str = part["type"]
        given = {name for name, value in part.items() if value is not None}
        if given - {"loss"} != {"type", kind}:
            names = ", ".join(sorted(part))
            raise InputError(f"{field} needs the keys type and {kind!s:.60}, and perhaps loss, got {names!s:.200}")
        if part.get("loss") is not None:
            loss = part["loss"]
        _require(isinstance(loss, bool), f"{field}.loss must be true or false", loss)
        read = self.text if kind == "text" else self.medium
        modality = MODALITIES.get(kind, kind)
        return Part(modality, read(part[kind], f"{field}.{kind}"), loss)

    def before_vector(self, record: dict[str, Any]) -> Iterator[Part]:
        """The parts of a record of numbers: a text, if there is one, and the numbers."""
        if record.get("text") is not None:
            yield Part("text", self.text(record["text"], f"{self.where}: text"))
        yield Part("vector", self.medium(record["vector"], f"{self.where}: vector"))

    def medium(self, value: Any, field: str) -> Any:
        if is_vector(value):
            return parse_vector(value, field)
        return parse_encoded(value, field) if is_encoded(value) else self.resolve(value, field)

    def text(self, value: Any, field: str) -> str:
        _require(isinstance(value, str), f"{field} must be text that is not empty", value)
        text = clean_text(value, field, self.notices)
        _require(bool(text), f"{field} must be text that is not empty", value)
        return text

    def captions(self, record: dict[str, Any]) -> tuple[str, ...]:
        given = [name for name in CAPTIONS if record.get(name) is not None]
        if not given:
            return ()
        if len(given) > 1:
            raise InputError(f"{self.where}: {given[0]} and {given[1]} both caption the image; give one")
        value, field = record[given[0]], f"{self.where}: {given[0]}"
        if given[0] != "captions":
            return (self.text(value, field),)
        _require(isinstance(value, list), f"{field} must be a list of texts", value)
        return tuple(self.text(caption, f"{field}[{i}]") for i, caption in enumerate(value))


def path_in(folder: Any, notices: Notices | None = None) -> Resolve:
    """Media as paths relative to `folder`, itself perhaps far, or as addresses (remote.py).

    Bytes, also in Hugging Face's {bytes, path}, stay bytes. notices: takes local media outside of the folder. Far
    records may name no local file: whoever wrote them is somebody else.
    """

    def resolve(value: Any, field: str) -> Any:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        _require(isinstance(value, str) and _is_name(value), f"{field} must be the path of a file", value)
        if "://" in value:
            return _at_address(value, folder, field)
        if _leaves(value):
            if is_far(folder):
                raise InputError(f"{field}: {value} lies outside of {folder}; far records name media in their folder")
            if notices is not None:
                notices.note(OUTSIDE, f"{field}: {value}")
        return folder / value

    return resolve


def _is_name(value: str) -> bool:
    """Whether the file system can be asked for it."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return value != "" and "\0" not in value


def _leaves(value: str) -> bool:
    """Whether a relative path leads out of its folder, or is none."""
    path = Path(os.path.normpath(value))
    return path.is_absolute() or path.parts[:1] == ("..",)


def _at_address(value: str, folder: Any, field: str) -> Any:
    protocols = value.partition("://")[0].split("::")
    if is_far(folder) and {"file", "local"} & set(protocols):
        raise InputError(f"{field}: {value} is a local file, which far records may not name")
    return place(value)
