"""What pictures and texts are before they are learned from: first_look, Look, PictureWatch.

`first_look` reads the first records, of pictures their headers alone: from that a recipe's defaults can be chosen.
`PictureWatch` counts the pictures that a tokenizer makes smaller, larger or grey.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

from mot_gen.data.encoded import Encoded
from mot_gen.data.notices import Notices
from mot_gen.data.samples import UNUSABLE, Document, Part, Sample, texts_of
from mot_gen.files.image_files import Header, header

LOOKED_AT = 64  # records


@dataclass
class Look:
    """What the first records hold.

    records: how many were looked at. kinds: parts by modality. pictures: the headers of those that can be read.
    text_bytes: length in bytes of UTF-8 of every caption and text.
    """

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    pictures: list[Header] = field(default_factory=list)
    text_bytes: list[int] = field(default_factory=list)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that most pictures have; None where there is no picture."""
        sizes = Counter((picture.height, picture.width) for picture in self.pictures)
        return sizes.most_common(1)[0][0] if sizes else None

    @property
    def of_one_size(self) -> bool:
        """Whether all pictures have the same size."""
        return len({(picture.height, picture.width) for picture in self.pictures}) <= 1

    @property
    def color_channels(self) -> int:
        """1 where every picture is grey, else 3."""
        grey = self.pictures and all(picture.grey for picture in self.pictures)
        return 1 if grey else 3

    @property
    def longest_text(self) -> int:
        """Bytes of the longest text; 0 where there is none."""
        return max(self.text_bytes, default=0)


def first_look(samples: Sequence[Sample], count: int = LOOKED_AT) -> Look:
    """Look at the first `count` samples. What cannot be read is passed over; `mot-gen data validate` tells of it."""
    look = Look()
    for sample in islice(samples, count):
        look.records += 1
        texts = texts_of(sample)
        look.kinds["text"] += len(texts)
        look.text_bytes += [len(text.encode()) for text in texts]
        for part in media_of(sample):
            look.kinds[part.kind] += 1
            found = _header(part.value) if part.kind == "image" else None
            if found is not None:
                look.pictures.append(found)
    return look


def media_of(sample: Sample) -> list[Part]:
    """The pictures and sounds of a sample."""
    if isinstance(sample, Document):
        return [part for part in sample.parts if part.kind != "text"]
    return [Part("image", sample.image)]


def _header(raw: Any) -> Header | None:
    """None for what is no picture that can be read; reading it will say why."""
    if isinstance(raw, Encoded):
        return None
    try:
        return header(raw)
    except UNUSABLE:
        return None


class PictureWatch:
    """Counts, in `notices`, the pictures that lose or gain size, or lose colour, each once.

    tokenizers: modality -> tokenizer; that of images may have `color_channels` and `grids`, whose keys are the sizes
    (height, width) that it takes. count: samples there are.
    """

    def __init__(self, tokenizers: Mapping[str, Any], count: int):
        tokenizer = tokenizers.get("image")
        self.notices = Notices()
        self._sizes: list[tuple[int, int]] = list(getattr(tokenizer, "grids", ()))
        self._grey = getattr(tokenizer, "color_channels", 3) == 1
        self._lock = Lock()
        self._seen = bytearray(count if self._sizes else 0)

    def look(self, raw: Any, index: int) -> None:
        """Count the picture of sample `index`, unless one of it was counted already."""
        if not self._sizes or self._seen[index]:
            return
        self._seen[index] = 1
        name = str(raw) if isinstance(raw, str) or hasattr(raw, "read_bytes") else f"sample {index}"
        with self._lock:
            for what, told in self.changes(raw, name):
                self.notices.note(what, told)

    def changes(self, raw: Any, name: str) -> list[tuple[str, str]]:
        """What becomes of a picture, and its name with its size."""
        found = _header(raw)
        if found is None or not self._sizes:
            return []
        height, width = min(self._sizes, key=lambda size: abs(size[1] / size[0] - found.width / found.height))
        cropped = min(found.width, max(1, round(found.height * width / height)))
        told = f"{name} ({found.width} x {found.height})"
        changes = []
        if cropped > width:
            changes.append((f"pictures shrunk to {width} x {height}", told))
        elif cropped < width:
            changes.append((f"pictures enlarged to {width} x {height}", told))
        if self._grey and not found.grey:
            changes.append(("pictures whose colour is taken away (tokenizers.image.color_channels is 1)", name))
        return changes
