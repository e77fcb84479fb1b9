"""GenEval-style scoring of compositional text-to-image from a file of detections (Ghosh et al. 2023): GenEval.

A record is one generated image: {"tag", "include": [{"class", "count", "color"?, "position"?: [relation, index]}],
"exclude"?: [{"class", "count"}], "detections": [{"class", "score", "box": [x0, y0, x1, y1], "color"?}]}.
The detector is yours: record which, since it decides the numbers. Boxes are pixels, y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.segments import SegmentTable

SCORE, COUNTING_SCORE = 0.3, 0.9  # detections below are not seen; counting needs surer ones
POSITION_MARGIN = 0.1  # of the boxes' size, by which centres must differ to be left of, above, ...
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def is_correct(record: dict[str, Any]) -> bool:
    """Whether the detections of one image satisfy what its prompt asks for."""
    seen = _seen(record)
    matched: list[list[dict]] = []
    for wanted in record["include"]:
        found = seen.get(wanted["class"], [])[: wanted["count"]]
        enough = len(found) >= wanted["count"]
        if not (enough and _has_color(wanted, found) and _has_position(wanted, found, matched)):
            return False
        matched.append(found)
    excluded = record.get("exclude", [])
    return all(len(seen.get(other["class"], [])) < other["count"] for other in excluded)


def _seen(record: dict[str, Any]) -> dict[str, list[dict]]:
    """Detections above the threshold by class, the surest first."""
    threshold = COUNTING_SCORE if record["tag"] == "counting" else SCORE
    seen: dict[str, list[dict]] = {}
    for detection in sorted(record["detections"], key=lambda one: -one["score"]):
        if detection["score"] > threshold:
            seen.setdefault(detection["class"], []).append(detection)
    return seen


def _has_color(wanted: dict, found: list[dict]) -> bool:
    if "color" not in wanted:
        return True
    coloured = [one for one in found if one.get("color") == wanted["color"]]
    return len(coloured) >= wanted["count"]


def _has_position(wanted: dict, found: list[dict], matched: list[list[dict]]) -> bool:
    if not wanted.get("position"):
        return True
    relation, target = wanted["position"]
    return all(relation in relations(one["box"], other["box"]) for one in found for other in matched[target])


def relations(box: Sequence[float], other: Sequence[float]) -> set[str]:
    """Where `box` lies from `other`: "left of", "right of", "above", "below"; empty where they are too close."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = box, other
    apart = torch.tensor([(x0 + x1 - u0 - u1) / 2, (y0 + y1 - v0 - v1) / 2], dtype=torch.float64)
    margin = POSITION_MARGIN * torch.tensor([x1 - x0 + u1 - u0, y1 - y0 + v1 - v0], dtype=torch.float64)
    clear = apart.sign() * (apart.abs() - margin).clamp(min=0)
    if not clear.any():
        return set()
    # Direction is judged by the distance that remains beyond the margin; a diagonal has two relations.
    dx, dy = (clear / apart.norm()).tolist()
    found = {"right of": dx > 0.5, "left of": dx < -0.5, "below": dy > 0.5, "above": dy < -0.5}
    return {name for name, holds in found.items() if holds}


def geneval_update(records: Sequence[dict[str, Any]]) -> Tensor:
    """(N, 12): for each tag whether the image is correct, then for each tag whether the image is of it."""
    rows = torch.zeros(len(records), 2 * len(TAGS), dtype=torch.float64)
    for i, record in enumerate(records):
        column = _checked(record, i)
        rows[i, column], rows[i, len(TAGS) + column] = float(is_correct(record)), 1.0
    return rows


def geneval_compute(total: Tensor) -> float:
    """Mean over the tags that occur of their shares of correct images."""
    correct, images = total.split(len(TAGS))
    return (correct[images > 0] / images[images > 0]).mean().item()


def _checked(record: dict[str, Any], i: int) -> int:
    require(isinstance(record, dict), f"detections record {i}: must be a dict in a list of them, got {record!r:.40}")
    absent = {"tag", "include", "detections"} - record.keys()
    if absent:
        raise InputError(
            f"detections record {i}: lacks {', '.join(sorted(absent))}; see the format in mot_gen.eval.images.geneval"
        )
    if record["tag"] not in TAGS:
        raise InputError(f"detections record {i}: tag {record['tag']!r} is not one of {', '.join(TAGS)}")
    return TAGS.index(record["tag"])


class GenEval(SegmentTable):
    """`update(records)`; `compute()` gives the overall score and one result a tag that occurs.

    detector: what made the detections, for the signature.
    """

    name = "geneval"
    unit = "images"
    takes = "detections"
    higher_is_better = True

    def __init__(self, *, detector: str = "unstated", **kwargs):
        super().__init__(**kwargs)
        self.detector = detector

    def statistics(self, records: Sequence[dict[str, Any]]) -> Tensor:
        return geneval_update(records)

    def score(self, total: Tensor) -> float:
        return geneval_compute(total)

    def compute(self) -> dict[str, MetricResult]:
        rows = self.rows("table")
        found = {"geneval": self.result("geneval", geneval_compute)}
        for i, tag in enumerate(TAGS):
            if len(rows) and rows[:, len(TAGS) + i].any():
                found[f"geneval_{tag}"] = self.result(f"geneval_{tag}", tag_share(i))
        return found

    def provenance(self) -> dict:
        return {"detector": self.detector, "threshold": SCORE, "counting_threshold": COUNTING_SCORE}

    def cautions(self, rows: Tensor) -> list[str]:
        absent = [tag for i, tag in enumerate(TAGS) if not rows[:, len(TAGS) + i].any()]
        if not absent:
            return []
        return [f"no images of: {', '.join(absent)}; the mean is over the others"]


def tag_share(i: int):
    """Share of correct images of the i-th tag; the metric of one tag is this function of the summed rows."""
    return lambda total: (total[i] / total[len(TAGS) + i]).item()
