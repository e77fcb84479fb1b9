"""Pictures in folders that say what they show, as torchvision's `ImageFolder` has them (github.com/pytorch/vision).

    cat/1.jpg, cat/more/2.jpg, striped_dog/3.jpg

The caption is the name of the first folder, its underscores and hyphens as spaces: "cat", "cat", "striped dog". Each
picture becomes a pair. Where the folders are those of the splits, convert each for itself: `pictures/train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.corpora import foreign
from mot_gen.corpora.foreign import Media, Row
from mot_gen.files.suffixes import PICTURES

FIELDS = {"file_name", "caption"}


def rows(source: Path) -> Iterator[Row]:
    """A row for each picture, whose `file_name` is relative to `source`."""
    for image in foreign.files(source, sorted(PICTURES)):
        id = image.relative_to(source).as_posix()
        folder, _, inside = id.partition("/")
        caption = " ".join(re.split(r"[\s_-]+", folder)).strip()
        if inside and caption:
            yield Row(str(image), id, {"file_name": id, "caption": caption})
        else:
            yield Row(str(image), id, error="lies in no folder that says what it shows")


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One pair."""
    yield {"id": row.id, "image": media.find(row["file_name"]), "caption": row["caption"]}
