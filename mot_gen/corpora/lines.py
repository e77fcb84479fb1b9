"""What `mot-gen data validate` and `stats` print: validate_lines, stats_lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mot_gen.corpora.measured import PROBLEMS
from mot_gen.corpora.stats import Stats
from mot_gen.corpora.tables import histogram, number, table
from mot_gen.corpora.validate import Report

SHOWN = 5  # samples of a kind that are named; --json names more


def validate_lines(report: Report) -> list[str]:
    """A table with a column a set, the lengths as bars, and the samples that are concerned by name."""
    found = report.as_dict()
    sides = found["sides"]
    rows = [["", *(name.replace("_", " ") for name in sides)], *_counts(sides), *_losses(sides), *_rows(sides)]
    lines = [*table(rows), *_lengths(report), *_names(sides, found["held_out_in_train"])]
    for what, notice in found["notices"].items():
        lines += _named(what, notice)
    return [*lines, *_verdict(report)]


def _counts(sides: Mapping[str, Any]) -> Iterator[list]:
    for name in ("samples", "checked", "usable"):
        yield [name, *(side[name] for side in sides.values())]
    for problem in PROBLEMS:
        counts = [side["dropped"].get(problem, {"count": 0})["count"] for side in sides.values()]
        if any(counts):
            yield [f"dropped: {problem}", *counts]
    yield ["nothing carries loss", *(side["without_loss"]["count"] for side in sides.values())]
    again = [side["duplicates"] for side in sides.values()]
    yield ["id of another", *(found["ids"]["count"] for found in again)]
    yield ["content of another", *(found["contents"]["count"] for found in again)]
    yield ["media that come again", *(found["media"] for found in again)]


def _losses(sides: Mapping[str, Any]) -> Iterator[list]:
    measured = any(side["rows"] for side in sides.values())
    kinds: set[str] = set()
    for side in sides.values():
        kinds |= side["modalities"].keys()
    for kind in sorted(kinds):
        counts = [side["modalities"].get(kind, {}) for side in sides.values()]
        yield [f"{kind}: parts", *_each(counts, "parts")]
        yield ["  that carry loss", *_each(counts, "learned_parts")]
        if measured or kind == "text":
            yield [f"{kind}: {'tokens' if measured else 'bytes'}", *_each(counts, "tokens")]
            yield ["  that carry loss", *_each(counts, "learned_tokens")]


def _each(counts: Sequence[Mapping[str, int]], name: str) -> list[int]:
    return [count.get(name, 0) for count in counts]


def _rows(sides: Mapping[str, Any]) -> Iterator[list]:
    if not any(side["rows"] for side in sides.values()):
        return
    for name in ("min", "median", "95%", "max"):
        yield [f"tokens a sample, {name}", *(side["lengths"].get(name, 0) for side in sides.values())]
    (length,) = {side["rows"]["length"] for side in sides.values() if side["rows"]}
    yield [f"rows of {number(length)}", *(side["rows"].get("count", 0) for side in sides.values())]
    yield ["how full they get", *(f"{side['rows'].get('fill', 0):.1%}" for side in sides.values())]


def _lengths(report: Report) -> list[str]:
    if not report.first.ruler.row_length:
        return ["", "lengths in tokens and full rows need tokenizers: mot-gen data validate RECIPE data.records=FILE"]
    return ["", "tokens a sample", *histogram(report.first.lengths)]


def _names(sides: Mapping[str, Any], leaked: Mapping[str, Any]) -> Iterator[str]:
    for name, side in sides.items():
        of = "" if name == "records" else f"{name.replace('_', ' ')}, "
        for problem, found in side["dropped"].items():
            yield from _named(f"{of}{problem}", found)
        yield from _named(f"{of}nothing carries loss", side["without_loss"])
        yield from _named(f"{of}id of another", side["duplicates"]["ids"])
        yield from _named(f"{of}content of another", side["duplicates"]["contents"])
    yield from _named("held out and trained on", leaked)
    if leaked["media"]:
        yield from ("", f"media held out and trained on, also with other texts: {number(leaked['media'])}")


def _named(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    if found["count"]:
        yield ""
        yield f"{title}: {number(found['count'])}"
        yield from (f"  {name}" for name in found["samples"][:SHOWN])
        if found["count"] > SHOWN:
            yield f"  and {number(found['count'] - SHOWN)} more"


def _verdict(report: Report) -> Iterator[str]:
    if report.stops:
        yield ""
        yield f"training would stop: {report.stops}"


# ---------------------------------------------------------------- stats


def stats_lines(stats: Stats) -> list[str]:
    """Tables of counts and of spreads, and bars for the lengths of texts."""
    found = stats.as_dict()
    lines = [_headline(found)]
    lines += _block(["modality", "samples", "parts", "with loss"], list(_modalities(found)))
    if len(found["sources"]) > 1:
        lines += _block(["source", "samples"], [[name, count] for name, count in found["sources"].items()])
    lines += _block(["", "count", "min", "5%", "median", "95%", "max", "mean"], list(_spreads(found)))
    if found["images"]:
        lines += _block(["picture size", "pictures"], list(map(list, found["images"]["sizes"].items())))
        lines += _block(["picture kind", "pictures"], list(map(list, found["images"]["kinds"].items())))
    lines += ["", *_texts(stats), *_named("unreadable media", found["unreadable"])]
    lines += _named("unreadable records", found["broken"])
    for what, notice in found["notices"].items():
        lines += _named(what, notice)
    return lines


def _headline(found: Mapping[str, Any]) -> str:
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
            yield [title, *(values[name] for name in ("count", "min", "5%", "median", "95%", "max", "mean"))]
