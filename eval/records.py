"""Records: what a metric of texts reads, one dictionary an item, from a jsonl or from lists in memory.

    {"id", "prediction", "references": [...]}                   texts; also "reference" for one
    {"prediction_audio", "reference_audio"}                     sounds
    {"image", "text", "references"?}                            images with texts

`records` reads and checks them, `records_of` makes them from lists. Every record keeps where it came from, for
messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, require
from mot_gen.eval.jsonl import read_jsonl

Record = dict[str, Any]
SAID = {str: "a text", list: "a list", int: "a whole number", float: "a number"}  # of fields, for messages
Kind = type | tuple[type, ...]
Given = str | Path | Sequence[Mapping[str, Any]]


def records(source: Given, fields: Mapping[str, Kind], folder: str | Path | None = None) -> list[Record]:
    """Records of a jsonl, or of a sequence of dictionaries; InputError where a field is absent or of another type.

    Each gets "where", "line" (from 1), "folder" (where files that it names lie), and an "id" unless it has one.
    """
    numbered: Iterable[tuple[int, Mapping[str, Any]]]
    if isinstance(source, (str, Path)):
        numbered, name, prefix = read_jsonl(source), str(source), f"{source}:"
        folder = folder or Path(source).parent
    else:
        numbered, name, prefix = enumerate(source, 1), "records", "record "
        folder = folder or Path()
    rows: list[Record] = []
    for number, record in numbered:
        where = f"{prefix}{number}"
        is_one = isinstance(record, Mapping)
        require(is_one, f"{where}: is {type(record).__name__}; a record is a dictionary of {', '.join(fields)}")
        require_fields(record, fields, where)
        rows.append({"id": str(number), **record, "line": number, "where": where, "folder": Path(folder)})
    require(rows, f"{name}: holds no records; write one JSON object a line")
    return rows


def require_fields(record: Mapping[str, Any], fields: Mapping[str, Kind], where: str) -> None:
    """InputError for the first field that a record lacks, or that is of another type."""
    for key, kind in fields.items():
        require(key in record, f"{where}: field {key!r} is absent; every line needs it")
        if not isinstance(record[key], kind):
            wanted = " or ".join(SAID[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise InputError(f"{where}: field {key!r} is {type(record[key]).__name__}, and must be {wanted}")


def require_file_alone(predictions: object, references: object) -> None:
    """InputError for one text or path as predictions where references are given beside it."""
    is_alone = references is None or not isinstance(predictions, (str, Path))
    require(is_alone, "predictions: must be a list; or give the path of a jsonl, and no references")


def records_of(**columns: Sequence[Any] | None) -> list[Record]:
    """Dictionaries from columns of one length; a column that is None is left out."""
    for name, values in columns.items():
        require(not isinstance(values, str), f"{name}: must be a list, got a single text; put [ ] around it")
    given = {name: list(values) for name, values in columns.items() if values is not None}
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InputError(f"lists differ in length: {counted}; give one of each for every item")
    return [dict(zip(given, row)) for row in zip(*given.values())]


def references_of(row: Record) -> list[Any]:
    """The references of one record; InputError where it has none."""
    own = row.get("references", row.get("reference"))
    if isinstance(own, str):
        return [own]
    if not isinstance(own, list) or not own:
        raise InputError(f"{row['where']}: field 'references' is absent or empty; give a list of at least one")
    return own


def only_reference(row: Record, metric: str) -> Any:
    """The reference of a record for a metric that is defined with one."""
    own = references_of(row)
    if len(own) != 1:
        raise InputError(f"{row['where']}: {len(own)} references, but {metric} is defined with one; choose one")
    return own[0]
