"""PictureWatch counts the pictures that a tokenizer makes smaller, larger or grey, from their headers alone.

`opening_lines` says this, and what else a user should know of the samples, before training begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from mot_gen.data import records
from mot_gen.data.notices import Notices
from mot_gen.data.samples import UNUSABLE, Sample
from mot_gen.files.image_files import Header, cut_to, header

LOOKED_AT = 64  # records
SHOWN = 3  # broken records that a line names


def _header(raw: Any) -> Header | None:
    """The header of a picture; None for tokens, and where it cannot be read. Reading the picture will say why."""
    try:
        return header(raw)
    except UNUSABLE:
        return None


def opening_lines(samples: Sequence[Sample], tokenizers: Mapping[str, Any], watch: PictureWatch) -> list[str]:
    """What to say of samples before they are learned from, a line of each kind; of data that ship, nothing.

    tokenizers: modality -> tokenizer; one of a modality that is only read comes with its pictures and is not missed.
    watch: counts the pictures of the first samples that lose size or colour.
    """
    kinds, broken = records.kinds(samples), records.broken(samples)
    lines = records.notices(samples).lines()
    if broken.count:
        lines.append(f"{broken.count:,} records that cannot be read: {broken.first(SHOWN)}")
    asked = [name for name, tokenizer in tokenizers.items() if not tokenizer.modality.input_only]
    missing = [name for name in asked if kinds and not kinds[name]]  # of a plain list nothing is counted
    lines += [f"no sample holds {name}, so nothing is learned of it" for name in missing]
    looked_at = min(LOOKED_AT, len(samples)) if watch.active else 0
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

    @property
    def active(self) -> bool:
        """Whether there are sizes to hold pictures to."""
        return bool(self._sizes)

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
            for what, picture in self.changes(raw, name):
                self.notices.note(what, picture)

    def changes(self, raw: Any, name: str) -> Iterator[tuple[str, str]]:
        """What becomes of a picture, and its name with its size."""
        found = _header(raw) if self._sizes else None
        if found is None:
            return
        width, height = self._size_for(found)
        across, down = cut_to((found.width, found.height), (width, height))
        loses_colour = self._grey and not found.grey
        changes = {
            f"pictures shrunk to {width} x {height}": across > width,
            f"pictures enlarged to {width} x {height}": across < width,
            f"pictures cut to the shape of {width} x {height}": (across, down) != (found.width, found.height),
            "pictures whose colour is taken away (tokenizers.image.color_channels is 1)": loses_colour,
            "pictures of several frames, of which the first is taken": found.many,
        }
        picture = f"{name} ({found.width} x {found.height})"
        yield from ((what, picture) for what, applies in changes.items() if applies)

    def _size_for(self, found: Header) -> tuple[int, int]:
        """(width, height) that a picture is brought to: of those that the tokenizer takes, the nearest in shape."""
        shape = found.width / found.height
        height, width = min(self._sizes, key=lambda size: abs(size[1] / size[0] - shape))
        return width, height
