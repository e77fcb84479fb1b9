"""Multimodal C4: documents as sentences, and pictures assigned to them; JSON lines, as they are downloaded also zipped.

    {"text_list": ["...", ...], "url": "...", "similarity_matrix": [[...]], "could_have_url_duplicate": 0,
     "image_info": [{"image_name": "b9040a0dbb22.jpg", "raw_url": "...", "matched_text_index": 2, "matched_sim": 0.28,
                     "face_detections": null}]}

Schema: github.com/allenai/mmc4, README.md. `--media` are the folders that its scripts/download_images.py filled.

A picture stands before the sentence that it is assigned to, as in OpenFlamingo (arxiv 2308.01390); the sentences
between two pictures become one text. A picture that is gone is left out and counted; a document of which none is left
cannot be converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mot_gen.corpora.foreign import Media, Row, convertible, image_part, rows, text_part

__all__ = ["FIELDS", "records", "rows"]

FIELDS = {
    "text_list",
    "url",
    "similarity_matrix",
    "could_have_url_duplicate",
    "image_info",
    "image_info.image_name",
    "image_info.raw_url",
    "image_info.matched_text_index",
    "image_info.matched_sim",
    "image_info.face_detections",
}


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One document."""
    sentences, pictures = row["text_list"], row["image_info"]
    places = range(len(sentences))
    before: list[list[dict[str, Any]]] = [[] for _ in sentences]
    for picture in pictures:
        index = picture.get("matched_text_index")
        convertible(index in places, f"matched_text_index {index!r} is none of its {len(sentences)} sentences")
        found = media.seek(picture.get("image_name"))
        if found is not None:
            before[index].append(image_part(found))
    convertible(any(before), f"none of its {len(pictures)} pictures is there")
    yield {"id": row.fields.get("url") or row.id, "content": _parts(before, sentences)}


def _parts(before: list[list[dict[str, Any]]], sentences: list[str]) -> list[dict[str, Any]]:
    """The sentences with the pictures that stand before each; those between two pictures become one text."""
    parts: list[dict[str, Any]] = []
    for images, sentence in zip(before, sentences):
        if images or not parts:
            parts += [*images, text_part(sentence)]
        else:
            parts[-1] = text_part(f"{parts[-1]['text']} {sentence}")
    return parts
