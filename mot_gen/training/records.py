"""The old address of `mot_gen.data.records`, which scripts of the first version import."""

from mot_gen.data.records import ConcatSamples as Joined
from mot_gen.data.records import (
    Document,
    Pair,
    Part,
    Sample,
    Splits,
    open_all,
    open_records,
    parse_record,
    split,
)
from mot_gen.data.records import SubsetSamples as Selection

__all__ = [
    "Document",
    "Joined",
    "Pair",
    "Part",
    "Sample",
    "Selection",
    "Splits",
    "open_all",
    "open_records",
    "parse_record",
    "split",
]
