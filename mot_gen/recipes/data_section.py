"""The section `data` of a recipe: Data, with Records, Rehearsal and Augment."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from mot_gen.recipes.values import Count, Decay, NonNegative, Positive, Section, Share, Switch, Whole


class Augment(Section):
    """How far a picture may be changed at most, each drawn uniformly and of either sign."""

    degrees: Annotated[float, Field(strict=True, ge=0, le=180)] = 0.0  # turned about the centre
    shift: NonNegative = 0.0  # moved, as a share of the width and of the height
    scale: Decay = 0.0  # made larger or smaller, as a share of the size
    variants: Whole = 0  # different ones of each picture, kept; 0 = always new ones

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.degrees or self.shift or self.scale)


class Records(Section):
    """In a recipe: a file or folder of records, and how often an epoch shows each of its samples."""

    path: str
    weight: Positive = 1.0  # passes an epoch


class Rehearsal(Section):
    """Data that a checkpoint was trained with, shown beside new data, so that what it knew is not forgotten."""

    source: str = "records"  # as in `data`
    records: list[Records] = []
    options: dict[str, Any] = {}
    share: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.3  # of the samples that are shown

    @model_validator(mode="before")
    @classmethod
    def _one_or_many_records(cls, given: Any) -> Any:
        if isinstance(given, dict) and "records" in given:
            return {"source": "records", **given, "records": listed(given["records"])}
        return given

    @model_validator(mode="after")
    def _has_data(self) -> Rehearsal:
        if self.source == "records" and not self.records:
            raise ValueError("rehearsal needs old data: give its records, or another source")
        return self


def one_or_many(value: Any) -> Any:
    """A list as it is, a single thing as a list of one."""
    return value if isinstance(value, list) else [value]


def listed(value: Any) -> Any:
    """One path, or a list of paths and {path, weight}, as what `Records` are made of."""
    found = []
    for each in one_or_many(value):
        known = isinstance(each, (str, dict, Records)) and each != ""
        if not known:
            raise ValueError(f"give the path of a file or folder, or {{path, weight}}, not {each!r}")
        if isinstance(each, str):
            each = {"path": each}
        found.append(each)
    return found


class Data(Section):
    """Where samples come from, how they are split, arranged and planned."""

    source: str = "digits"  # digits, emoji, records, or a dotted path to a module with `load(data: Data) -> Splits`
    records: Annotated[list[Records], BeforeValidator(listed)] = []  # jsonl, parquet or tar files, or folders of image
    # and caption pairs, each a path or {path, weight}; sets source: records
    held_out_records: Annotated[
        list[str], BeforeValidator(one_or_many)
    ] = []  # paths likewise, to be held out; then nothing of `records` is
    outside_media: Switch = False  # records may name media outside of the folder that they lie in
    options: dict[str, Any] = {}  # whatever a source of your own wants to know
    rehearsal: Rehearsal | None = None  # old data beside it, against forgetting: {source: openmoji, share: 0.3}
    caption_first: Share = 0.5  # probability that a pair's caption stands before its image (Transfusion: 0.8)
    caption_dropout: Share = 0.1  # probability that a pair loses its caption, for classifier-free guidance
    augment: Augment = Field(default_factory=Augment)  # of training pictures: degrees, shift, scale, variants
    held_out: Share = 0.15  # share of the samples that training never sees
    split_seed: Whole = 0
    window: Count = 4096  # samples that are shuffled, tokenised and packed together: memory against row fill
    block: Count = 1  # neighbours that the shuffle keeps together, for files that are slow to read here and there
    cache_mb: Whole = 256  # tokenised spans kept in memory between epochs, in MiB
    accept_changed: Switch = False  # resume although the samples changed; the epoch then begins anew

    @model_validator(mode="after")
    def _records_are_a_source(self):
        if self.records:
            self.source = "records"
        if self.source == "records" and not self.records:
            raise ValueError("source 'records' needs data.records=FILE")
        if self.held_out_records and not self.records:
            raise ValueError("held_out_records holds out beside records; give data.records=FILE too")
        if self.held_out == 1:
            raise ValueError("held_out 1 leaves nothing to train on; give less")
        return self
