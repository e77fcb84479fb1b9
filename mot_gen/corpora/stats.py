"""What a corpus holds: stats, Stats. Of media only headers are read, so it is quick; `validate` decodes them."""

from __future__ import annotations

import io
import operator
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mot_gen.corpora.inputs import NAMED, sample_indices
from mot_gen.corpora.tables import summary
from mot_gen.data import records
from mot_gen.data.encoded import Encoded
from mot_gen.data.notices import Notice, Notices
from mot_gen.data.samples import UNUSABLE, Pair, Part, Sample, kinds_of, media_of
from mot_gen.errors import one_line
from mot_gen.files.image_files import header
from mot_gen.files.progress import Progress

WHOLE = partial(array, "L")


@dataclass
class Stats:
    """Counts, and a list of numbers for each thing that is measured.

    sources: samples by file or folder.
    modalities: parts, learned parts, and the samples that have any.
    kinds: pictures by file format and mode.
    tokens: of media that are tokens already.
    unreadable: media without a readable header.
    broken, notices: records that cannot be read, and what the reader left out or changed.
    """

    total: int = 0
    samples: int = 0
    pairs: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    modalities: dict[str, Counter[str]] = field(default_factory=dict)
    parts: array = field(default_factory=WHOLE)
    text_bytes: array = field(default_factory=WHOLE)  # of a sample
    captions: array = field(default_factory=WHOLE)  # of a pair
    caption_words: array = field(default_factory=WHOLE)
    caption_bytes: array = field(default_factory=WHOLE)
    widths: array = field(default_factory=WHOLE)
    heights: array = field(default_factory=WHOLE)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: array = field(default_factory=partial(array, "d"))
    tokens: array = field(default_factory=WHOLE)
    unreadable: Notice = field(default_factory=Notice)
    broken: Notice = field(default_factory=Notice)
    notices: Notices = field(default_factory=Notices)

    def add(self, sample: Sample, source: str) -> None:
        """Count a sample."""
        self.samples += 1
        self.sources[source] += 1
        parts = list(sample.parts)
        if isinstance(sample, Pair):
            self._pair(sample)
            parts += [Part("text", caption) for caption in sample.captions]
        self.parts.append(len(parts))
        self.text_bytes.append(sum(len(text.encode()) for text in sample.texts))
        for kind in kinds_of(sample):
            losses = [part.loss for part in parts if part.kind == kind]
            counts = self.modalities.setdefault(kind, Counter())
            counts.update(samples=1, parts=len(losses), learned_parts=sum(losses))
        for part in media_of(sample):
            self._medium(sample, part)

    def _pair(self, pair: Pair) -> None:
        """Count the captions of a pair, their words and their bytes."""
        self.pairs += 1
        self.captions.append(len(pair.captions))
        for caption in pair.captions:
            self.caption_words.append(len(caption.split()))
            self.caption_bytes.append(len(caption.encode()))

    def _medium(self, sample: Sample, part: Part) -> None:
        """Count a medium by what its header says."""
        try:
            if isinstance(part.value, Encoded):
                self.tokens.append(len(part.value))
            elif part.kind == "image":
                found = header(part.value)
                self.widths.append(found.width)
                self.heights.append(found.height)
                self.kinds[found.kind] += 1
            elif part.kind == "speech":
                self.seconds.append(_seconds(part.value))
        except (*UNUSABLE, RuntimeError) as error:  # RuntimeError: soundfile's
            self.unreadable.note(f"{sample.id}: {one_line(error)}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "samples": self.total,
            "counted": self.samples,
            "pairs": self.pairs,
            "documents": self.samples - self.pairs,
            "sources": dict(self.sources),
            "modalities": {name: dict(counts) for name, counts in sorted(self.modalities.items())},
            "parts": summary(self.parts),
            "text_bytes": summary(self.text_bytes),
            "captions": summary(self.captions),
            "caption_words": summary(self.caption_words),
            "caption_bytes": summary(self.caption_bytes),
            "images": self._images() if self.widths else {},
            "seconds": summary(self.seconds),
            "tokens": summary(self.tokens),
            "unreadable": self.unreadable.as_dict(),
            "broken": self.broken.as_dict(),
            "notices": self.notices.as_dict(),
        }

    def _images(self) -> dict[str, Any]:
        """What `as_dict` says of pictures."""
        sizes = Counter(map("{} x {}".format, self.widths, self.heights))
        return {
            "width": summary(self.widths),
            "height": summary(self.heights),
            "aspect": summary(list(map(operator.truediv, self.widths, self.heights))),
            "sizes": dict(sizes.most_common(10)),
            "kinds": dict(self.kinds.most_common()),
        }


def _seconds(value: Any) -> float:
    import soundfile

    return soundfile.info(io.BytesIO(value) if isinstance(value, bytes) else str(value)).duration


def stats(sets: dict[str, Sequence[Sample]], limit: int = 0) -> Stats:
    """Count all samples of all sets, or `limit` of each drawn at random."""
    found = Stats(total=sum(map(len, sets.values())))
    chosen = {name: sample_indices(len(samples), limit) for name, samples in sets.items()}
    count = sum(map(len, chosen.values()))
    with Progress(count, unit="sample", shown=count > NAMED) as bar:
        for name, samples in sets.items():
            sources = records.source_names(samples) or [name]
            for index in chosen[name]:
                with found.unreadable.catching():
                    found.add(samples[index], sources[records.source_of(samples, index)])
                bar.update(bar.done + 1)
    first = next(iter(sets.values()))
    found.broken.add(records.broken(first))
    found.notices.add([records.notices(first)])
    return found
