"""LLaVA's conversations about pictures: a JSON array, JSON lines, or parquet of Hugging Face's.

    {"id": "...", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                                                      {"from": "gpt", "value": "A cat."}]}

`image` may be a list, as in LLaVA-NeXT-Interleave, or be missing, as in the parts of LLaVA-1.5's mixture that are text
alone. Schema: github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md; github.com/LLaVA-VL/LLaVA-NeXT.

Each `<image>` becomes the next picture; blanks around it are layout and go. What the assistant says carries loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mot_gen.corpora.foreign import Media, Row, as_list, convertible, image_part, rows, text_part

__all__ = ["FIELDS", "records", "rows"]

FIELDS = {
    "id",
    "image",
    "conversations",
    "conversations.from",
    "conversations.value",
    "model",  # who answered
    "data_source",  # LLaVA-OneVision
    "video",
}
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
PLACEHOLDER = "<image>"


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One conversation."""
    convertible(row.fields.get("video") is None, "has a video, which records cannot hold")
    images = as_list(row.fields.get("image") or [])
    turns = list(map(_turn, row["conversations"]))
    places = sum(value.count(PLACEHOLDER) for _, value in turns)
    mismatch = f"{PLACEHOLDER} stands {places} times in its conversations, for {len(images)} pictures"
    convertible(places == len(images), mismatch)
    pictures = iter(list(map(media.find, images)))
    messages = [{"role": role, "content": _parts(value, pictures)} for role, value in turns]
    yield {"id": row.fields.get("id", row.id), "messages": messages}


def _turn(turn: Any) -> tuple[str, str]:
    """Role and text."""
    wrong = f"a turn must be from {', '.join(ROLES)} and have a value, got {turn!r:.80}"
    convertible(isinstance(turn, dict), wrong)
    convertible(turn.get("from") in ROLES, wrong)
    convertible(isinstance(turn.get("value"), str), wrong)
    return ROLES[turn["from"]], turn["value"]


def _parts(value: str, pictures: Iterator) -> list[dict[str, Any]]:
    """A text with its pictures in their places, blanks around them taken away."""
    first, *after = value.split(PLACEHOLDER)
    if not after:
        return [text_part(value)]
    parts = [text_part(first.strip())]
    for text in after:
        parts += [image_part(next(pictures)), text_part(text.strip())]
    return [part for part in parts if part.get("text") != ""]
