"""What pictures and texts are before they are learned from: first_look, Look, opening_lines, PictureWatch.

`first_look` reads the first records, of pictures their headers alone: from that a recipe's defaults can be chosen.
`opening_lines` are what training says of its data before it begins.
`PictureWatch` counts the pictures that a tokenizer makes smaller, larger or grey.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

from mot_gen.data import records
from mot_gen.data.notices import Notices
from mot_gen.data.samples import UNUSABLE, Part, Sample, media_of
from mot_gen.files.image_files import Header, cut_to, header

LOOKED_AT = 64  # records
SHOWN = 3  # broken records that a line names
COLOURLESS = "pictures whose colour is taken away (tokenizers.image.color_channels is 1)"


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
        return self._sizes.most_common(1)[0][0] if self._sizes else None

    @property
    def of_one_size(self) -> bool:
        """Whether all pictures have the same size."""
        return len(self._sizes) <= 1

    @property
    def _sizes(self) -> Counter[tuple[int, int]]:
        """How many pictures have each size."""
        return Counter((picture.height, picture.width) for picture in self.pictures)

    @property
    def color_channels(self) -> int:
        """1 where every picture is grey, else 3."""
        grey = {picture.grey for picture in self.pictures}
        return 1 if grey == {True} else 3

    @property
    def longest_text(self) -> int:
        """Bytes of the longest text; 0 where there is none."""
        return max(self.text_bytes, default=0)


def first_look(samples: Sequence[Sample], count: int = LOOKED_AT) -> Look:
    """Look at the first `count` samples. What cannot be read is passed over; `mot-gen data validate` tells of it."""
    look = Look()
    for sample in islice(samples, count):
        look.records += 1
        look.kinds["text"] += len(sample.texts)
        look.text_bytes += [len(text.encode()) for text in sample.texts]
        media = media_of(sample)
        look.kinds.update(part.kind for part in media)
        look.pictures += _headers(media)
    return look


def _headers(parts: Iterable[Part]) -> list[Header]:
    """The headers of the pictures among some parts, without those that cannot be read; reading them will say why."""
    pictures = [part.value for part in parts if part.kind == "image"]
    found = []
    for raw in pictures:
        with suppress(*UNUSABLE):
            found.append(header(raw))  # which refuses tokens
    return found


def opening_lines(samples: Sequence[Sample], tokenizers: Mapping[str, Any], watch: PictureWatch) -> list[str]:
    """What to say of samples before they are learned from, a line of each kind; nothing if they are not from files.

    tokenizers: modality -> tokenizer; one of a modality that is only read comes with its pictures and is not missed.
    watch: counts the pictures of the first samples that lose size or colour.
    """
    kinds, broken = records.kinds(samples), records.broken(samples)
    if not kinds:
        return []
    lines = records.notices(samples).lines()
    if broken.count:
        lines.append(f"{broken.count:,} records that cannot be read: {broken.first(SHOWN)}")
    asked = [name for name, tokenizer in tokenizers.items() if not tokenizer.modality.input_only]
    lines += [f"no sample holds {name}, so nothing is learned of it" for name in asked if not kinds[name]]
    looked_at = min(LOOKED_AT, len(samples))
    for index in range(looked_at):
        watch.look_at_sample(samples, index)
    return lines + [f"of the first {looked_at} samples {line}" for line in watch.notices.lines(shown=1)]


class PictureWatch:
    """Counts, in `notices`, the pictures that lose or gain size, or lose borders, colour or motion, each once.

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

    def look_at_sample(self, samples: Sequence[Sample], index: int) -> None:
        """Count the pictures of a sample; one that cannot be read is passed over."""
        with suppress(*UNUSABLE):
            pictures = [part.value for part in samples[index].parts if part.kind == "image"]
            for raw in pictures:
                self.look(raw, index)

    def look(self, raw: Any, index: int) -> None:
        """Count the picture of sample `index`, unless one of it was counted already."""
        if not self._sizes or self._seen[index]:
            return
        self._seen[index] = 1
        is_place = isinstance(raw, str) or hasattr(raw, "read_bytes")
        name = str(raw) if is_place else f"sample {index}"
        with self._lock:
            for what, told in self.changes(raw, name):
                self.notices.note(what, told)

    def changes(self, raw: Any, name: str) -> Iterator[tuple[str, str]]:
        """What becomes of a picture, and its name with its size."""
        if not self._sizes:
            return
        for found in _headers([Part("image", raw)]):
            width, height = self._size_for(found)
            across, down = cut_to((found.width, found.height), (width, height))
            told = f"{name} ({found.width} x {found.height})"
            changes = {
                f"pictures shrunk to {width} x {height}": across > width,
                f"pictures enlarged to {width} x {height}": across < width,
                f"pictures cut to the shape of {width} x {height}": (across, down) != (found.width, found.height),
                "pictures whose colour is taken away (tokenizers.image.color_channels is 1)": self._grey
                and not found.grey,
                "pictures of several frames, of which the first is taken": found.many,
            }
            yield from ((what, told) for what, applies in changes.items() if applies)

    def _size_for(self, found: Header) -> tuple[int, int]:
        """(width, height) that a picture is brought to: of those that the tokenizer takes, the nearest in shape."""
        shape = found.width / found.height
        height, width = min(self._sizes, key=lambda size: abs(size[1] / size[0] - shape))
        return width, height
