"""How one record, a JSON object, becomes a sample: parse_record, path_in, bytes_or_path. Errors name the file, the line
and the field.

A record is one of
    {"id": "r1", "messages": [{"role": "user", "content": [{"type": "text", "text": "Draw snow."}]},
                              {"role": "assistant", "content": [{"type": "image", "image": "b.jpg", "loss": true}]}]}
    {"content": [{"type": "text", "text": "..."}, {"type": "image", "image": "a.jpg"}]}
    {"image": "a.jpg", "caption": "..."}       (or "text", or "captions": [...], or none; "file_name" for "image")
    {"text": "..."}
    {"audio": "a.wav", "text": "..."}              (or none)
    {"vector": [[0.1, 0.2], ...], "text": "..."}   (text, before it, or none)
The parts of an assistant's message and of `content` carry loss, the others do not; `loss` on a part overrules this. A
medium is a path, bytes (in parquet), its tokens (encoded.py), or plain numbers (vectors.py).
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mot_gen.data.encoded import is_encoded, parse_encoded
from mot_gen.data.notices import Notices, kept
from mot_gen.data.remote import is_far, place
from mot_gen.data.samples import MODALITIES, Document, Pair, Part, Sample, SpeechPair
from mot_gen.data.texts import clean_text, is_text
from mot_gen.data.vectors import is_vector, parse_vector
from mot_gen.errors import InputError, expect, require
from mot_gen.files.safe_names import is_inside

ROLES = ("system", "user", "assistant")
PICTURE = ("image", "file_name")  # fields that name an image; the second is Hugging Face's
CAPTIONS = ("captions", "caption", "text")  # fields that caption an image
MEDIA_BESIDE = (*PICTURE, "images", "audio", "audios", "video", "videos", "vector")  # other formats have such fields
NO_OBJECT = "a record is an object with image and caption, audio and text, messages, content or text"
ONLY_URL = "has a url and no picture; give the files beside it that hold the pictures, as img2dataset writes them"
ALLOW = "move it there, or allow it: data.outside_media=true in a recipe, --outside-media for mot-gen data"
Resolve = Callable[[Any, str], Any]  # (what a record says, its field) -> path or bytes of a medium


def parse_record(record: Any, where: str, default_id: str, resolve: Resolve, notices: Notices | None = None) -> Sample:
    """One record -> a sample.

    where: the file and line, with which every error begins.
    default_id: of a record without an id.
    resolve: finds media.
    notices: takes what is changed in the texts.
    """
    require(isinstance(record, dict), f"{where}: {NO_OBJECT}")
    parser = _Parser(where, resolve, kept(notices))
    id = _id(record.get("id"), where, default_id)
    for field, read in _FORMS.items():
        if field in record:
            return read(parser, id, record)
    require("url" not in record, f"{where}: {ONLY_URL}")
    keys = ", ".join(record) or "none"
    raise InputError(
        f"{where}: has none of image, audio, messages, content, vector and text; its keys are {keys!s:.200}"
    )


def _id(value: Any, where: str, default: str) -> str:
    """The id as text: a record's own, or the default."""
    given = default if value is None else value
    expect(type(given) in (str, int, float), f"{where}: id must be text or a number", given)
    id = str(given)
    expect("\0" not in id and is_text(id), f"{where}: id holds what is no character", id)
    return id


@dataclass(frozen=True)
class _Parser:
    """What stays the same while one record is parsed."""

    where: str
    resolve: Resolve
    notices: Notices

    # The forms of a record.

    def dialogue(self, id: str, record: dict[str, Any]) -> Document:
        self.note_media_beside("messages", record)
        return Document(id, tuple(self.messages(record["messages"])))

    def document(self, id: str, record: dict[str, Any]) -> Document:
        self.note_media_beside("content", record)
        return Document(id, tuple(self.content(record["content"], loss=True, field=f"{self.where}: content")))

    def pair(self, id: str, record: dict[str, Any]) -> Pair:
        field = next(name for name in PICTURE if name in record)
        image, captions = self.medium(record[field], f"{self.where}: {field}"), self.captions(record)
        others = sorted(record.keys() - {"id", *PICTURE, *CAPTIONS})
        if others and not captions:
            fields = ", ".join(others)
            self.notices.note(f"pictures with no caption beside fields that are not read: {fields:.80}", self.where)
        return Pair(id, image, captions)

    def recording(self, id: str, record: dict[str, Any]) -> SpeechPair:
        """A recording, and what is said in it if that is known."""
        parts = []
        if record.get("text") is not None:
            parts.append(Part("text", self.text(record["text"], f"{self.where}: text")))
        parts.append(Part("speech", self.medium(record["audio"], f"{self.where}: audio")))
        for name in sorted(record.keys() - {"id", "audio", "text"}):
            self.notices.note(f"recordings beside a field {name!r:.40}, which is not read", self.where)
        return SpeechPair(id, tuple(parts))

    def text_alone(self, id: str, record: dict[str, Any]) -> Document:
        text = self.text(record["text"], f"{self.where}: text")
        for name in sorted(record.keys() - {"id", "text"}):
            self.notices.note(f"texts beside a field {name!r:.40}, which is not read", self.where)
        return Document(id, (Part("text", text),))

    def numbers(self, id: str, record: dict[str, Any]) -> Document:
        """Numbers, and a text before them if there is one."""
        parts = []
        if record.get("text") is not None:
            parts.append(Part("text", self.text(record["text"], f"{self.where}: text")))
        parts.append(Part("vector", self.medium(record["vector"], f"{self.where}: vector")))
        return Document(id, tuple(parts))

    def note_media_beside(self, form: str, record: dict[str, Any]) -> None:
        """Media belong into the parts of a document; those beside them, as LLaVA has them, are not read."""
        for name in MEDIA_BESIDE:
            if record.get(name) is not None:
                self.notices.note(f"records of {form} beside a field {name!r}, which is not read", self.where)

    # What they are made of.

    def messages(self, messages: Any) -> Iterator[Part]:
        """The parts of a dialogue; those of the assistant carry loss."""
        expect(_is_filled_list(messages), f"{self.where}: messages must be a list that is not empty", messages)
        for number, message in enumerate(messages):
            field = f"{self.where}: messages[{number}]"
            stated = _object(message)
            role = stated.get("role")
            expect(role in ROLES, f"{field}.role must be system, user or assistant", message)
            yield from self.content(stated.get("content"), role == "assistant", f"{field}.content")

    def content(self, content: Any, loss: bool, field: str) -> Iterator[Part]:
        """The parts of a list; a text alone is a list of one."""
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        expect(_is_filled_list(content), f"{field} must be text or a list of parts that is not empty", content)
        for number, part in enumerate(content):
            yield self.part(part, loss, f"{field}[{number}]")

    def part(self, part: Any, loss: bool, field: str) -> Part:
        """One part: its type, its value under the type's name, and perhaps whether it carries loss."""
        given = {name: value for name, value in _object(part).items() if value is not None}
        kind = given.get("type")
        expect(isinstance(kind, str), f'{field} must be a part such as {{"type": "text", "text": "..."}}', part)
        keys = f"{field} needs the keys type and {kind!s:.60}, and perhaps loss"
        require(given.keys() - {"loss"} == {"type", kind}, f"{keys}, got {', '.join(sorted(part)):.200}")
        loss = given.get("loss", loss)
        expect(isinstance(loss, bool), f"{field}.loss must be true or false", loss)
        read = self.text if kind == "text" else self.medium
        value = read(given[str(kind)], f"{field}.{kind}")
        return Part(MODALITIES.get(str(kind), str(kind)), value, loss)

    def medium(self, value: Any, field: str) -> Any:
        for known, read in ((is_vector, parse_vector), (is_encoded, parse_encoded)):
            if known(value):
                return read(value, field)
        return self.resolve(value, field)

    def text(self, value: Any, field: str) -> str:
        """A text, cleaned, that is not empty."""
        must = f"{field} must be text that is not empty"
        expect(isinstance(value, str), must, value)
        text = clean_text(value, field, self.notices)
        expect(text, must, value)
        return text

    def captions(self, record: dict[str, Any]) -> tuple[str, ...]:
        """The captions of a picture, which may have none."""
        given = [name for name in CAPTIONS if record.get(name) is not None]
        if not given:
            return ()
        both = " and ".join(given[:2])
        require(len(given) == 1, f"{self.where}: {both} both caption the image; give one")
        value, field = record[given[0]], f"{self.where}: {given[0]}"
        if given[0] != "captions":
            return (self.text(value, field),)
        expect(isinstance(value, list), f"{field} must be a list of texts", value)
        return tuple(self.text(caption, f"{field}[{number}]") for number, caption in enumerate(value))


# The field by which a form is known, and how it is read; the first that a record has counts.
_FORMS: dict[str, Callable[[_Parser, str, dict[str, Any]], Sample]] = {
    "messages": _Parser.dialogue,
    "content": _Parser.document,
    "image": _Parser.pair,
    "file_name": _Parser.pair,
    "audio": _Parser.recording,
    "vector": _Parser.numbers,
    "text": _Parser.text_alone,
}


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and value != []


def _object(value: Any) -> dict[str, Any]:
    """A JSON object as it is, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------- media


def path_in(folder: Any, outside: bool = False) -> Resolve:
    """Media as paths relative to `folder`, itself perhaps far, or as addresses (remote.py).

    Bytes, also in Hugging Face's {bytes, path}, stay bytes. outside: whether local records may name local media that
    lie outside of their folder. Far records never may: whoever wrote them is somebody else.
    """

    def resolve(value: Any, field: str) -> Any:
        value = bytes_or_path(value)
        if isinstance(value, bytes):
            return value
        expect(_is_name(value), f"{field} must be the path of a file", value)
        if "://" in value:
            return _at_address(value, folder, field)
        if not outside or is_far(folder):
            _refuse_outside(value, folder, field)
        return folder / value if value.isascii() or is_far(folder) else _as_stored(folder / value)

    return resolve


def bytes_or_path(value: Any) -> Any:
    """What Hugging Face's {bytes, path} holds, anything else as it is; None instead of no bytes."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return None if value == b"" else value


def _is_name(value: Any) -> bool:
    """Whether the file system can be asked for it."""
    try:
        return value != "" and b"\0" not in os.fsencode(value)
    except (TypeError, UnicodeEncodeError):
        return False


def _refuse_outside(value: str, folder: Any, field: str) -> None:
    """InputError for a path that leads out of its folder."""
    home, remedy = folder, ALLOW
    if is_far(folder):  # of an address, only the path within is looked at
        home, remedy = "far/folder", "far records name media in their folder"
    require(is_inside(value, home), f"{field}: {value} lies outside of {folder}; {remedy}")


def _as_stored(path: Path) -> Path:
    """A path as the file system has it: macOS writes ä as two characters, and most others as one."""
    forms = [path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))]
    return next((form for form in forms if form.exists()), path)


def _at_address(value: str, folder: Any, field: str) -> Any:
    protocols = {*value.partition("://")[0].split("::")}
    local = is_far(folder) and not protocols.isdisjoint({"file", "local"})
    require(not local, f"{field}: {value} is a local file, which far records may not name")
    return place(value)
