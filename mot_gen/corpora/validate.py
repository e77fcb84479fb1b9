"""What training would make of data, before it runs: validate, ValidationReport, SplitSummary.

Every sample is read and its media decoded, as training would. `ValidationReport` has a `SplitSummary` for each split
of a recipe, or one for records: what carries loss, lengths, what is dropped and why, what comes twice, how full the
rows get.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mot_gen.corpora.inputs import NAMED, CorpusInputs, sample_indices
from mot_gen.corpora.sample_checks import PROBLEMS, CheckedPart, CheckedSample, SampleChecker
from mot_gen.corpora.tables import summary
from mot_gen.data import records
from mot_gen.data.notices import Notice, Notices
from mot_gen.data.samples import Sample
from mot_gen.files.progress import Progress

AHEAD = 256  # samples that are read ahead
COUNTED = ("parts", "learned_parts", "tokens", "learned_tokens")


class SplitSummary:
    """What was found in one set of samples, gathered by `add`. Of each sample a few numbers are kept."""

    def __init__(self, samples: Sequence[Sample], checker: SampleChecker, broken: Notice):
        """broken: records that could not be read to begin with."""
        self.samples, self.checker = samples, checker
        self.broken = broken
        self.checked = self.broken.count
        self.dropped: dict[str, Notice] = {}
        if self.broken.count:
            self._drop("unreadable record").add(self.broken)
        self.without_loss = Notice()
        self.changes = Notices()
        self.modalities: dict[str, dict[str, int]] = {}
        self.lengths, self._empty = array("L"), array("L")  # of samples, and of places that stay empty in rows
        self._index, self._ids, self.contents, self._media = array("L"), array("Q"), array("Q"), array("Q")

    def add(self, index: int, found: CheckedSample) -> None:
        """Sample `index` was measured."""
        self.checked += 1
        if found.content:
            self._index.append(index)
            self._ids.append(found.id)
            self.contents.append(found.content)
            self._media.extend(found.media)
        if found.problem:
            self._drop(found.problem).note(f"{found.name}: {found.reason}")
            self._empty.extend([found.length] if found.length else [])
        else:
            self._use(found)

    def _use(self, found: CheckedSample) -> None:
        """Count what training would learn from."""
        self.lengths.append(found.length)
        for what, name in found.changes:
            self.changes.note(what, name)
        for part in found.parts:
            self._count(part)
        if not any(part.learned for part in found.parts):
            self.without_loss.note(found.name)

    def _count(self, part: CheckedPart) -> None:
        """Count a part and its tokens under its modality."""
        counts = self.modalities.setdefault(part.modality, dict.fromkeys(COUNTED, 0))
        counts["parts"] += 1
        counts["tokens"] += part.tokens
        counts["learned_parts"] += part.learned
        counts["learned_tokens"] += part.tokens * part.learned

    def _drop(self, problem: str) -> Notice:
        return self.dropped.setdefault(problem, Notice())

    @property
    def usable(self) -> int:
        return len(self.lengths)

    @property
    def first_problem(self) -> str:
        """The first sample that cannot be used, with the reason."""
        found = [self.dropped[name].samples[0] for name in PROBLEMS if name in self.dropped]
        return found[0] if found else ""

    def rows(self) -> dict[str, Any]:
        """How full rows get where samples come in any order and are packed a window at a time, as in training; the
        place of one whose media are broken stays empty."""
        if not self.checker.row_length or not self.usable:
            return {}
        from mot_gen.packing import plan_rows

        length, window, count = self.checker.row_length, self.checker.window, 0
        lengths = [*self.lengths, *self._empty]
        random.Random(0).shuffle(lengths)
        for start in range(0, len(lengths), window):
            count += len(plan_rows(lengths[start : start + window], length))
        return {"length": length, "count": count, "fill": sum(self.lengths) / (count * length)}

    def duplicates(self) -> dict[str, Any]:
        """Samples with the id, and samples with all the content, of one before; and how many media come again."""
        return {
            "ids": self._named(_again(self._ids)).as_dict(),
            "contents": self._named(_again(self.contents)).as_dict(),
            "media": len(self._media) - len(np.unique(np.asarray(self._media))),
        }

    def shared(self, other: SplitSummary) -> Notice:
        """Samples with all the content of one of another split."""
        return self._named(np.flatnonzero(np.isin(np.asarray(self.contents), np.asarray(other.contents))))

    def shared_media(self, other: SplitSummary) -> int:
        """How many of the media stand in samples of another split too."""
        return int(np.isin(np.asarray(self._media), np.asarray(other._media)).sum())

    def _named(self, places: np.ndarray) -> Notice:
        first = [self.samples[self._index[place]].id for place in places[:NAMED].tolist()]
        return Notice(len(places), first)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "samples": len(self.samples) + self.broken.count,
            "checked": self.checked,
            "usable": self.usable,
            "dropped": {name: self.dropped[name].as_dict() for name in PROBLEMS if name in self.dropped},
            "without_loss": self.without_loss.as_dict(),
            "modalities": self.modalities,
            "lengths": summary(self.lengths) if self.checker.row_length else {},
            "rows": self.rows(),
            "duplicates": self.duplicates(),
        }


def _again(keys: array) -> np.ndarray:
    """The places of keys that stand at an earlier place too."""
    values = np.asarray(keys)
    order = np.argsort(values, kind="stable")
    return np.sort(order[1:][values[order[1:]] == values[order[:-1]]])


@dataclass
class ValidationReport:
    """What was found.

    splits: "train" and "held_out" of a recipe, or "records". notices: what the reader left out or changed. max_corrupt:
    how many unusable samples training takes; None where there is no recipe.
    """

    splits: dict[str, SplitSummary]
    notices: Notices
    max_corrupt: int | None = None

    @property
    def first(self) -> SplitSummary:
        return next(iter(self.splits.values()))

    @property
    def leaked(self) -> Notice:
        """Held-out samples that are trained on too."""
        return self._held_out.shared(self.first)

    @property
    def leaked_media(self) -> int:
        """Held-out media that are trained on too, perhaps with other texts."""
        return self._held_out.shared_media(self.first)

    @property
    def _held_out(self) -> SplitSummary:
        """What is held out; without a recipe, nothing."""
        return self.splits.get("held_out") or SplitSummary([], self.first.checker, Notice())

    @property
    def stops(self) -> str:
        """Why training would stop, or empty."""
        dropped = self.first.dropped
        fatal = dropped.get("no tokenizer") or dropped.get("other tokenizer")
        if fatal is not None:
            return fatal.samples[0]
        count = sum(found.count for found in dropped.values())
        most = count if self.max_corrupt is None else self.max_corrupt
        return f"{count} samples are unusable, more than training.max_corrupt={most}" if count > most else ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        splits = {name: split.as_dict() for name, split in self.splits.items()}
        leaked = self.leaked.as_dict() | {"media": self.leaked_media}
        return {
            "splits": splits,
            "held_out_in_train": leaked,
            "notices": self.notices.as_dict(),
            "training_stops": self.stops,
        }


def validate(source: CorpusInputs, limit: int = 0, workers: int = 1) -> ValidationReport:
    """Measure every sample, or `limit` of each set drawn at random, in `workers` threads."""
    recipe = source.recipe
    if recipe is None:
        checker, most = SampleChecker(), None
    else:
        checker, most = SampleChecker.of(recipe, source.splits), recipe.training.max_corrupt
    splits = _splits(source, checker)
    with ThreadPoolExecutor(workers) as pool:
        for split in splits.values():
            for index, found in _measured(split.samples, checker, limit, pool):
                split.add(index, found)
    return ValidationReport(splits, _notices(source, splits), most)


def _splits(source: CorpusInputs, checker: SampleChecker) -> dict[str, SplitSummary]:
    """A summary of each set. Where what is held out is a share of the records, the broken ones count for training."""
    broken = {name: records.broken(source.sets[name]) for name in source.own}
    return {name: SplitSummary(samples, checker, broken.get(name, Notice())) for name, samples in source.sets.items()}


def _notices(source: CorpusInputs, splits: Mapping[str, SplitSummary]) -> Notices:
    """What the readers left out or changed, what becomes of pictures, and which modalities are missing."""
    found = Notices()
    found.add(records.notices(source.sets[name]) for name in source.own)
    found.add(split.changes for split in splits.values())
    first = next(iter(splits.values()))
    tokenizers = first.checker.tokenizers
    asked = [name for name in tokenizers if not tokenizers[name].modality.input_only]  # the others come with pictures
    missing = [name for name in asked if name not in first.modalities]
    found.note_all("modalities of the recipe that no sample holds", missing)
    return found


def _measured(
    samples: Sequence[Sample], checker: SampleChecker, limit: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, CheckedSample]]:
    """Index and measures of the samples that are looked at, read in threads."""
    chosen = sample_indices(len(samples), limit)
    ahead = iter(chosen)
    with Progress(len(chosen), unit="sample", shown=len(chosen) > NAMED) as bar:
        while some := list(islice(ahead, AHEAD)):
            yield from zip(some, pool.map(partial(checker.measure, samples), some))
            bar.update(bar.done + len(some))
