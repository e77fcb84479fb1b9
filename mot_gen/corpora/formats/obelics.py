"""OBELICS: web pages as two parallel lists, in parquet.

    images            an address, or null where a text stands
    texts             a text, or null where a picture stands
    metadata          JSON: what is known of each picture
    general_metadata  JSON: the page's `url`, where it stands in Common Crawl

Schema: huggingface.co/datasets/HuggingFaceM4/OBELICS; github.com/huggingface/OBELICS, build_obelics/
13_final_processing.py. Arxiv 2306.16527, A.1.2: where a page shifts to another topic, its texts hold a marker for the
end of a document; there it is split into records of their own.

The set has addresses alone: its card says to download the pictures by img2dataset, whose output folder is `--media`. A
picture that is gone is left out and counted; a page of which none is left cannot be converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from mot_gen.corpora.foreign import Media, Row, convertible, image_part, rows, text_part

__all__ = ["FIELDS", "records", "rows"]

FIELDS = {"images", "texts", "metadata", "general_metadata"}
END_OF_DOCUMENT = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """The documents of a page."""
    images, texts = row["images"], row["texts"]
    convertible(len(images) == len(texts), f"images and texts must be as many, got {len(images)} and {len(texts)}")
    documents = _documents(images, texts, media)
    named = len(images) - images.count(None)
    shown = any(part["type"] == "image" for part in chain.from_iterable(documents))
    convertible(shown, f"none of its {named} pictures is there")
    id = _url(row) or row.id
    names = [id] if len(documents) == 1 else [f"{id}/{number}" for number in range(len(documents))]
    for name, parts in zip(names, documents):
        yield {"id": name, "content": parts}


def _documents(images: list[Any], texts: list[Any], media: Media) -> list[list[dict[str, Any]]]:
    """The parts of each document of a page."""
    documents: list[list[dict[str, Any]]] = [[]]
    for image, text in zip(images, texts):
        found = None if image is None else media.seek(image)
        if found is not None:
            documents[-1].append(image_part(found))
        first, *after = (text or "").split(END_OF_DOCUMENT)
        documents[-1] += _paragraph(first)
        documents += map(_paragraph, after)
    return list(filter(None, documents))


def _paragraph(text: str) -> list[dict[str, Any]]:
    """A text without the blanks around it; nothing if it is blank."""
    text = text.strip()
    return [text_part(text)] if text else []


def _url(row: Row) -> str | None:
    try:
        return json.loads(row.fields["general_metadata"])["url"]
    except (KeyError, TypeError, ValueError):
        return None
