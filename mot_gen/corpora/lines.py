"""What `mot-gen data validate` and `stats` print: validate_lines, stats_lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from mot_gen.corpora.sample_checks import PROBLEMS
from mot_gen.corpora.stats import Stats
from mot_gen.corpora.tables import histogram, number, table
from mot_gen.corpora.validate import Report

SPREAD = ("count", "min", "5%", "median", "95%", "max", "mean")
SHOWN = 5  # samples of a kind that are named; --json names more


def validate_lines(report: Report) -> list[str]:
    """A table with a column a set, the lengths as bars, and the samples that are concerned by name."""
    found = report.as_dict()
    sides = found["sides"]
    header = ["", *map(_spaced, sides)]
    rows = [header, *_counts(sides), *_losses(sides), *_rows(sides)]
    lines = [*table(rows), *_lengths(report), *_names(sides, found["held_out_in_train"])]
    lines += _all_named(found["notices"])
    stops = ["", f"training would stop: {report.stops}"]
    return lines + stops if report.stops else lines


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _row(title: str, sides: Mapping[str, Any], *keys: str) -> list:
    """A row of the table: what each side holds under the keys, one inside the other, or 0."""
    return [title, *(_held(side, keys) for side in sides.values())]


def _held(side: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """What lies under the keys, one inside the other; 0 where there is nothing."""
    try:
        return reduce(getitem, keys, side)
    except KeyError:
        return 0


def _table_rows(sides: Mapping[str, Any], named: Mapping[str, Sequence[str]]) -> list[list]:
    """Rows by their titles and keys."""
    return [_row(title, sides, *keys) for title, keys in named.items()]


def _counts(sides: Mapping[str, Any]) -> list[list]:
    """Rows of how many samples there are, can be used, are dropped and come twice."""
    dropped = _table_rows(sides, {f"dropped: {problem}": ("dropped", problem, "count") for problem in PROBLEMS})
    return [
        *_table_rows(sides, {name: (name,) for name in ("samples", "checked", "usable")}),
        *(row for row in dropped if any(row[1:])),
        *_table_rows(
            sides,
            {
                "nothing carries loss": ("without_loss", "count"),
                "id of another": ("duplicates", "ids", "count"),
                "content of another": ("duplicates", "contents", "count"),
                "media that come again": ("duplicates", "media"),
            },
        ),
    ]


def _losses(sides: Mapping[str, Any]) -> Iterator[list]:
    """Rows of how many parts and tokens there are of each modality, and how many carry loss."""
    measured = _in_tokens(sides)
    unit = "tokens" if measured else "bytes"
    kinds = set().union(*(side["modalities"] for side in sides.values()))
    for kind in sorted(kinds):
        yield _row(f"{kind}: parts", sides, "modalities", kind, "parts")
        yield _row("  that carry loss", sides, "modalities", kind, "learned_parts")
        if measured or kind == "text":
            yield _row(f"{kind}: {unit}", sides, "modalities", kind, "tokens")
            yield _row("  that carry loss", sides, "modalities", kind, "learned_tokens")


def _in_tokens(sides: Mapping[str, Any]) -> bool:
    """Whether there were tokenizers, so that lengths and rows are known."""
    return any(side["rows"] for side in sides.values())


def _rows(sides: Mapping[str, Any]) -> list[list]:
    """Rows of lengths in tokens and of how full the rows of a batch get; none without tokenizers."""
    if not _in_tokens(sides):
        return []
    lengths = {f"tokens a sample, {name}": ("lengths", name) for name in ("min", "median", "95%", "max")}
    length = max(_row("", sides, "rows", "length")[1:])
    title, *fills = _row("how full they get", sides, "rows", "fill")
    return [
        *_table_rows(sides, lengths),
        _row(f"rows of {number(length)}", sides, "rows", "count"),
        [title, *map("{:.1%}".format, fills)],
    ]


def _lengths(report: Report) -> list[str]:
    if not report.first.ruler.row_length:
        return ["", "lengths in tokens and full rows need tokenizers: mot-gen data validate RECIPE data.records=FILE"]
    return ["", "tokens a sample", *histogram(report.first.lengths)]


def _names(sides: Mapping[str, Any], leaked: Mapping[str, Any]) -> Iterator[str]:
    """The samples of each side that are dropped, useless or twice there, by name."""
    for name, side in sides.items():
        of = "" if name == "records" else f"{_spaced(name)}, "
        for problem, found in side["dropped"].items():
            yield from _named(f"{of}{problem}", found)
        yield from _named(f"{of}nothing carries loss", side["without_loss"])
        yield from _named(f"{of}id of another", side["duplicates"]["ids"])
        yield from _named(f"{of}content of another", side["duplicates"]["contents"])
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
