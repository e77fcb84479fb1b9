"""BAGEL's three sorts of training data, told apart by their columns.

    text to image  parquet  image: bytes; captions: a JSON object, name of a captioner -> caption
    editing        parquet  image_list: bytes of n pictures; instruction_list: n - 1 lists, each the phrasings of what
                            leads from one picture to the next
    understanding  JSON lines, as LLaVA's

Schema: github.com/ByteDance-Seed/Bagel, TRAIN.md, data/t2i_dataset.py, data/interleave_datasets/edit_dataset.py,
data/vlm_dataset.py (commit 056b5fd).

A picture with captions becomes a pair. Of edits, as in BAGEL, every picture but the first carries loss; where BAGEL
draws one phrasing at random, each phrasing becomes a record of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mot_gen.corpora.foreign import Media, Row, Unconvertible, convertible, image_part, rows, text_part
from mot_gen.corpora.formats import llava

__all__ = ["FIELDS", "records", "rows"]

FIELDS = llava.FIELDS | {"captions", "image_list", "instruction_list"}


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """A pair, a conversation, or as many edits as there are phrasings."""
    if "conversations" in row.fields:
        return llava.records(row, media)
    return _edits(row, media) if "image_list" in row.fields else _pair(row, media)


def _pair(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """A picture with all of its captions."""
    captions = row["captions"]
    try:
        captions = list(json.loads(captions).values())
    except (ValueError, TypeError, AttributeError):
        raise Unconvertible(f"captions must be a JSON object of captions, got {captions!r:.60}") from None
    yield {"id": row.id, "image": media.find(row["image"]), "captions": captions}


def _edits(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """A conversation for each phrasing of the instructions: what is said, and the picture that follows from it."""
    images, steps = [media.find(image) for image in row["image_list"]], row["instruction_list"]
    misfit = f"{len(images)} pictures need {len(images) - 1} instructions, got {len(steps)}"
    convertible(len(images) == len(steps) + 1, misfit)
    convertible(all(steps), misfit)
    for k in range(max(map(len, steps))):
        messages: list[dict[str, Any]] = []
        shown = [image_part(images[0])]  # before the first instruction
        for step, after in zip(steps, images[1:]):
            messages += [
                {"role": "user", "content": [*shown, text_part(step[k % len(step)])]},
                {"role": "assistant", "content": [image_part(after)]},
            ]
            shown = []
        yield {"id": f"{row.id}/{k}", "messages": messages}
