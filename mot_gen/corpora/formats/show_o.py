"""Show-o's annotations, in JSON or JSON lines, told apart by their fields.

    pairs          {"path": "a.jpg", "prompt": "a cat"}
    stories        {"images": ["a", "b"], "captions": ["One day", "it rained"]}; .jpg is added to a name without it
    conversations  as LLaVA's

Schema: github.com/showlab/Show-o, show-o2/datasets/image_text_dataset.py, vist_dataset.py, mmu_dataset.py. The tar
shards of its first version (training/data.py) are WebDataset, which training reads as they are.

A story's captions stand before their pictures, and all of it carries loss, as in its `format_interleaved_sequence`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mot_gen.corpora.foreign import Media, Row, convertible, image_part, rows, text_part
from mot_gen.corpora.formats import llava

__all__ = ["FIELDS", "records", "rows"]

FIELDS = llava.FIELDS | {"path", "prompt", "images", "captions"}


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """A pair, a story or a conversation."""
    if "conversations" in row.fields:
        yield from llava.records(row, media)
    elif "images" in row.fields:
        yield {"id": row.id, "content": list(_story(row, media))}
    else:
        yield {"id": row.id, "image": media.find(row["path"]), "caption": row["prompt"]}


def _story(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """Each caption, then its picture."""
    images, captions = row["images"], row["captions"]
    mismatch = f"images and captions must be as many, got {len(images)} and {len(captions)}"
    convertible(len(images) == len(captions), mismatch)
    for image, caption in zip(images, captions):
        yield text_part(caption)
        yield image_part(media.find(f"{image.removesuffix('.jpg')}.jpg"))
