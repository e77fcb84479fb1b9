"""Documents as people give them, into parts: documents_of, parts_of.

A document is a text, a list of texts and pictures, or chat messages as transformers has them:

    [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, {"type": "image", "image": picture}]}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from uuid import uuid4

from mot_gen.errors import InputError, nearest

KINDS = ("text", "image")


def documents_of(prompt) -> list:
    """One document or a list of documents, each a list of its own or of messages -> a list of documents."""
    if isinstance(prompt, (str, Mapping)):
        return [[prompt]]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InputError(f"prompt must be a text, a list of parts or messages, got {type(prompt).__name__}")
    many = len(prompt) > 0 and all(isinstance(part, (list, tuple)) for part in prompt)
    return [list(document) for document in prompt] if many else [list(prompt)]


def parts_of(document: Sequence, tokenizer) -> list:
    """A document -> texts (str) and pictures, in order; chat messages by the tokenizer's chat template, where it has
    one, and else one after the other."""
    if not document or not all(isinstance(part, Mapping) for part in document):
        return list(document)
    pictures: list = []
    mark, messages = uuid4().hex, []
    for number, message in enumerate(document):
        where = f"prompt: message {number}"
        if "role" not in message or "content" not in message:
            raise InputError(f"{where} needs a role and a content, got {', '.join(message) or 'nothing'}")
        content = message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(_part(part, where, mark, pictures) for part in content)
        messages.append({"role": message["role"], "content": text})
    if getattr(tokenizer, "chat_template", None):
        whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        whole = "".join(message["content"] for message in messages)
    pieces = re.split(rf"{mark}(\d+);", whole)  # texts, and between them numbers of pictures
    return [pictures[int(piece)] if place % 2 else piece for place, piece in enumerate(pieces) if piece]


def _part(part, where: str, mark: str, pictures: list) -> str:
    """A typed part as text, pictures being kept and marked."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in KINDS:
        raise InputError(f"{where}: a part's type {kind!r} is not known" + nearest(str(kind), KINDS))
    value = next((part[key] for key in (kind, "path") if key in part), None)
    if value is None or (kind == "text" and not isinstance(value, str)):
        raise InputError(f"{where}: a part of type {kind!r} needs the field {kind!r}")
    if kind == "text":
        return value
    pictures.append(value)
    return f"{mark}{len(pictures) - 1};"
