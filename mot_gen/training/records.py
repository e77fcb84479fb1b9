"""The old address of `mot_gen.data.records`, which scripts of the first version import."""

from mot_gen.data.records import (
    Document,
    Joined,
    Pair,
    Part,
    Sample,
    Selection,
    Splits,
    open_all,
    open_records,
    parse_record,
    split,
)

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
