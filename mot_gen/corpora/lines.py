"""What `mot-gen data validate` and `stats` print: validate_lines, stats_lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from mot_gen.corpora.sample_checks import PROBLEMS
from mot_gen.corpora.stats import Stats
from mot_gen.corpora.tables import histogram, number, table
from mot_gen.corpora.validate import ValidationReport

SPREAD = ("count", "min", "5%", "median", "95%", "max", "mean")
SHOWN = 5  # samples of a kind that are named; --json names more


def validate_lines(report: ValidationReport) -> list[str]:
    """A table with a column a set, the lengths as bars, and the samples that are concerned by name."""
    found = report.as_dict()
    splits = found["splits"]
    header = ["", *map(_spaced, splits)]
    rows = [header, *_counts(splits), *_losses(splits), *_rows(splits)]
    lines = [*table(rows), *_lengths(report), *_names(splits, found["held_out_in_train"])]
    lines += _all_named(found["notices"])
    stops = ["", f"training would stop: {report.stops}"]
    return lines + stops if report.stops else lines


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _row(title: str, splits: Mapping[str, Any], *keys: str) -> list:
    """A row of the table: what each split holds under the keys, one inside the other, or 0."""
    return [title, *(_held(split, keys) for split in splits.values())]


def _held(split: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """What lies under the keys, one inside the other; 0 where there is nothing."""
    try:
        return reduce(getitem, keys, split)
    except KeyError:
        return 0


def _table_rows(splits: Mapping[str, Any], named: Mapping[str, Sequence[str]]) -> list[list]:
    """Rows by their titles and keys."""
    return [_row(title, splits, *keys) for title, keys in named.items()]


def _counts(splits: Mapping[str, Any]) -> list[list]:
    """Rows of how many samples there are, can be used, are dropped and come twice."""
    dropped = _table_rows(splits, {f"dropped: {problem}": ("dropped", problem, "count") for problem in PROBLEMS})
    return [
        *_table_rows(splits, {name: (name,) for name in ("samples", "checked", "usable")}),
        *(row for row in dropped if any(row[1:])),
        *_table_rows(
            splits,
            {
                "nothing carries loss": ("without_loss", "count"),
                "ids that come again": ("duplicates", "ids", "count"),
                "contents that come again": ("duplicates", "contents", "count"),
                "media that come again": ("duplicates", "media"),
            },
        ),
    ]


def _losses(splits: Mapping[str, Any]) -> Iterator[list]:
    """Rows of how many parts and tokens there are of each modality, and how many carry loss."""
    measured = _in_tokens(splits)
    unit = "tokens" if measured else "bytes"
    kinds = set().union(*(split["modalities"] for split in splits.values()))
    for kind in sorted(kinds):
        yield _row(f"{kind}: parts", splits, "modalities", kind, "parts")
        yield _row("  that carry loss", splits, "modalities", kind, "learned_parts")
        if measured or kind == "text":
            yield _row(f"{kind}: {unit}", splits, "modalities", kind, "tokens")
            yield _row("  that carry loss", splits, "modalities", kind, "learned_tokens")


def _in_tokens(splits: Mapping[str, Any]) -> bool:
    """Whether there were tokenizers, so that lengths and rows are known."""
    return any(split["rows"] for split in splits.values())


def _rows(splits: Mapping[str, Any]) -> list[list]:
    """Rows of lengths in tokens and of how full the rows of a batch get; none without tokenizers."""
    if not _in_tokens(splits):
        return []
    lengths = {f"tokens a sample, {name}": ("lengths", name) for name in ("min", "median", "95%", "max")}
    length = max(_row("", splits, "rows", "length")[1:])
    title, *fills = _row("how full they get", splits, "rows", "fill")
    return [
        *_table_rows(splits, lengths),
        _row(f"rows of {number(length)}", splits, "rows", "count"),
        [title, *map("{:.1%}".format, fills)],
    ]


def _lengths(report: ValidationReport) -> list[str]:
    if not report.first.checker.row_length:
        return ["", "lengths in tokens and full rows need tokenizers: mot-gen data validate RECIPE data.records=FILE"]
    return ["", "tokens a sample", *histogram(report.first.lengths)]


def _names(splits: Mapping[str, Any], leaked: Mapping[str, Any]) -> Iterator[str]:
    """The samples of each split that are dropped, useless or twice there, by name."""
    for name, split in splits.items():
        of = "" if name == "records" else f"{_spaced(name)}, "
        for problem, found in split["dropped"].items():
            yield from _named(f"{of}{problem}", found)
        yield from _named(f"{of}nothing carries loss", split["without_loss"])
        yield from _named(f"{of}ids that come again", split["duplicates"]["ids"])
        yield from _named(f"{of}contents that come again", split["duplicates"]["contents"])
    yield from _named("held out and trained on", leaked)
    if leaked["media"]:
        yield from ("", f"media held out and trained on, also with other texts: {number(leaked['media'])}")


def _named(title: str, found: Mapping[str, Any]) -> list[str]:
    """A title with a count, and below it the first names; nothing where nothing was found."""
    if not found["count"]:
        return []
    lines = ["", f"{title}: {number(found['count'])}"]
    lines += [f"  {name}" for name in found["samples"][:SHOWN]]
    if found["count"] > SHOWN:
        lines.append(f"  and {number(found['count'] - SHOWN)} more")
    return lines


def _all_named(notices: Mapping[str, Any]) -> Iterator[str]:
    for what, notice in notices.items():
        yield from _named(what, notice)


# ---------------------------------------------------------------- stats


def stats_lines(stats: Stats) -> list[str]:
    """Tables of counts and of spreads, and bars for the lengths of texts."""
    found = stats.as_dict()
    lines = [_headline(found)]
    lines += _block(["modality", "samples", "parts", "with loss"], list(_modalities(found)))
    if len(found["sources"]) > 1:
        lines += _block(["source", "samples"], [[name, count] for name, count in found["sources"].items()])
    lines += _block(["", *SPREAD], list(_spreads(found)))
    if found["images"]:
        lines += _block(["picture size", "pictures"], list(map(list, found["images"]["sizes"].items())))
        lines += _block(["picture kind", "pictures"], list(map(list, found["images"]["kinds"].items())))
    lines += ["", *_texts(stats), *_named("unreadable media", found["unreadable"])]
    lines += _named("unreadable records", found["broken"])
    lines += _all_named(found["notices"])
    return lines


def _headline(found: Mapping[str, Any]) -> str:
    """How many samples of which kind there are."""
    kinds = [f"{number(found[name])} {name}" for name in ("pairs", "documents") if found[name]]
    of = ""
    if found["counted"] != found["samples"]:
        of = f", of which {number(found['counted'])} were counted"
    return f"{number(found['samples'])} samples{of}: {' and '.join(kinds)}"


def _texts(stats: Stats) -> list[str]:
    if stats.pairs == stats.samples:
        return ["words a caption", *histogram(stats.caption_words)]
    return ["bytes of text a sample", *histogram(stats.text_bytes)]


def _block(header: list, rows: list[list]) -> list[str]:
    return ["", *table([header, *rows])] if rows else []


def _modalities(found: Mapping[str, Any]) -> Iterator[list]:
    for name, counts in found["modalities"].items():
        yield [name, counts["samples"], counts["parts"], counts["learned_parts"]]


def _spreads(found: Mapping[str, Any]) -> Iterator[list]:
    """Rows of the spread of everything that was measured."""
    images = found["images"]
    for title, values in (
        ("parts a sample", found["parts"]),
        ("bytes of text a sample", found["text_bytes"]),
        ("captions a pair", found["captions"]),
        ("words a caption", found["caption_words"]),
        ("bytes a caption", found["caption_bytes"]),
        ("picture width", images.get("width")),
        ("picture height", images.get("height")),
        ("width / height", images.get("aspect")),
        ("seconds of sound", found["seconds"]),
        ("tokens of a medium", found["tokens"]),
    ):
        if values:
            yield [title, *map(values.__getitem__, SPREAD)]
