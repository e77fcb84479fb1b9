"""Documents as people give them, into spans: documents_of, ChatFormat, PartReader, spans_of.

A document is a text, a list of texts and pictures, or chat messages as transformers has them:

    [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, {"type": "image", "image": picture}]}]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any
from uuid import uuid4

from mot_gen.errors import InputError, nearest, require
from mot_gen.pipelines.settings import are_all
from mot_gen.sequence import Span

ROLES = ("system", "developer", "user", "assistant", "tool")  # of messages, as chat templates have them
KINDS = {"text": str, "image": object}  # of parts -> the type of what they hold


def documents_of(prompt) -> list:
    """One document or a list of documents, each a list of its own or of messages -> a list of documents."""
    if isinstance(prompt, (str, Mapping)):
        return [[prompt]]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InputError(f"prompt must be a text, a list of parts or messages, got {type(prompt).__name__}")
    if are_all(prompt, (list, tuple)):
        return list(map(list, prompt))
    return [list(prompt)]


@dataclass(frozen=True)
class ChatFormat:
    """How a prompt becomes a chat message.

    system: the message before it, if any.
    added: a sentence that follows the prompt of a picture; {height} and {width} in it are the picture's.
    added_negative: the same for a negative prompt.
    """

    system: str | None = None
    added: str | None = None
    added_negative: str | None = None

    def messages(
        self, text: str, picture: Any = None, size: tuple[int, int] | None = None, negative: bool = False
    ) -> list[dict[str, Any]]:
        """Chat messages of a picture, where one is given, and a text."""
        added = self.added_negative if negative else self.added
        if added is not None and size is not None:
            text = _with_sentence(text, added.format(height=size[0], width=size[1]))
        parts: list[dict[str, Any]] = []
        if picture is not None:
            parts.append({"type": "image", "image": picture})
        parts.append({"type": "text", "text": text})
        messages: list[dict[str, Any]] = []
        if self.system is not None:
            messages.append({"role": "system", "content": self.system})
        messages.append({"role": "user", "content": parts})
        return messages


def _with_sentence(text: str, sentence: str) -> str:
    """A text that is followed by a sentence."""
    begun = text.rstrip(".")
    if not begun:
        return sentence
    return f"{begun}. {sentence}"


@dataclass(frozen=True)
class PartReader:
    """How the parts of a document become spans.

    text, picture: functions of a text, and of a picture. to: what is to be written next, for chat templates.
    """

    text: Callable[[str], list[Span]]
    picture: Callable[[Any], list[Span]]
    to: str = "text"

    def read(self, part: Any) -> list[Span]:
        """The spans of a part."""
        return self.text(part) if isinstance(part, str) else self.picture(part)

    def read_all(self, parts: Iterable) -> list[Span]:
        """The spans of parts, one after the other."""
        return list(chain.from_iterable(map(self.read, parts)))


def spans_of(document: Sequence, tokenizer: Any, reading: PartReader) -> list[Span]:
    """A document -> its spans, in order. Chat messages are put together by the tokenizer's chat template; if it has
    none, one after the other."""
    if not are_all(document, Mapping):
        return reading.read_all(document)
    marks = _Marks()
    messages = [_message(message, f"prompt: message {number}", marks) for number, message in enumerate(document)]
    if not getattr(tokenizer, "chat_template", None):
        return reading.read_all(_joined(marks.contents.values()))
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, to=reading.to)
    spans: list[Span] = []
    for piece in re.split(f"({marks.picture})", whole):
        if piece in marks.of["image"]:
            spans += reading.picture(marks.of["image"][piece])
        elif piece:
            spans.append(tokenizer.encode_template(piece, marks.of["text"]))
    return spans


def _joined(parts: Iterable) -> list:
    """Neighbouring texts as one, and none that is empty."""
    found: list = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        if not is_text:
            found += group
        elif text := "".join(group):
            found.append(text)
    return found


class _Marks:
    """Marks that stand for texts and pictures while a template is filled.

    contents: mark -> text or picture. of: the same by kind. picture: the pattern of a picture's mark.
    """

    def __init__(self) -> None:
        self._name = uuid4().hex
        self.picture = rf"image{self._name}:\d+;"
        self.contents: dict[str, Any] = {}
        self.of: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}

    def add(self, kind: str, content: Any) -> str:
        mark = f"{kind}{self._name}:{len(self.contents)};"
        self.contents[mark] = content
        self.of[kind][mark] = content
        return mark


def _message(message: Mapping, where: str, marks: _Marks) -> dict[str, Any]:
    """A message for a template: its content as one text, and its `parts` one by one."""
    whole = {"role", "content"} <= message.keys()
    require(whole, f"{where} needs a role and a content, got {', '.join(map(str, message)) or 'nothing'}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise InputError(f"{where}: role {role!r:.60} is not known" + nearest(str(role), ROLES))
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [_part(part, where, marks) for part in content]
    return {"role": role, "content": "".join(part["text"] for part in parts), "parts": parts}


def _part(part: Any, where: str, marks: _Marks) -> dict[str, str]:
    """A typed part, with its mark for a text."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in list(KINDS):  # it may be anything, also what is no key
        raise InputError(f"{where}: a part's type {kind!r} is not known" + nearest(str(kind), KINDS))
    value = part.get(kind, part.get("path"))
    fits = value is not None and isinstance(value, KINDS[kind])
    require(fits, f"{where}: a part of type {kind!r} needs the field {kind!r}")
    return {"type": kind, "text": marks.add(kind, value)}
