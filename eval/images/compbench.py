"""T2I-CompBench's scores of one picture (Huang et al. 2023): attribute_score and spatial_score.

Attributes are bound if each noun phrase of the prompt ("a green bench and a blue bowl") is there: the product of how
likely the answer to "a green bench?" is yes. Places are judged by boxes: their centres must lie apart in the direction
that the prompt names, and the boxes may overlap little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.images.vqa import Answer

CATEGORIES = {
    "color": "questions",
    "shape": "questions",
    "texture": "questions",
    "spatial": "detections",
    "non_spatial": "clip",
}
NEAR = ("next to", "on side of", "near")
SIDES = {  # sign of (x, y) of the second centre less the first's
    "on the left of": (1, 0),
    "on the right of": (-1, 0),
    "on the top of": (0, 1),
    "on the bottom of": (0, -1),
}
OVERLAP, DISTANCE = 0.1, 150.0  # of boxes (intersection over union); pixels of a picture of 512
LEAST_SCORE = 0.0


def noun_phrases(prompt: str) -> list[str]:
    """Both of "a green bench and a blue bowl". The published program asks spaCy, which finds the same there."""
    parts = re.split(r"\s*(?:,|\band\b|\bwith\b|\bon\b|\bin\b)\s*", prompt.strip().rstrip("."))
    return [part for part in parts if part]


def attribute_score(prompt: str, image: Tensor, answer: Answer) -> float:
    """Product over the noun phrases of the probability of "yes"."""
    score = 1.0
    for phrase in noun_phrases(prompt):
        score *= answer(image, f"{phrase}?", ["yes"])[0]
    return score


def parsed_place(prompt: str) -> tuple[str, str, str]:
    """(first object, relation, second object) of "a girl on the top of a frog"."""
    for relation in (*SIDES, *NEAR):
        first, found, second = prompt.strip().rstrip(".").partition(f" {relation} ")
        if found:
            return _noun(first), relation, _noun(second)
    raise InputError(f"{prompt!r}: names no place; one of: {', '.join((*SIDES, *NEAR))}")


def _noun(phrase: str) -> str:
    return re.sub(r"^(a|an|the)\s+", "", phrase.strip().lower())


def spatial_score(prompt: str, detections: Sequence[dict[str, Any]]) -> float:
    """Between 0 and 1; 0 where either object is not seen. The surest detection of each counts."""
    first, relation, second = parsed_place(prompt)
    one, two = _surest(first, detections), _surest(second, detections)
    if one is None or two is None:
        return 0.0
    return place_score(relation, one["box"], two["box"])


def _surest(name: str, detections: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    found = [one for one in detections if one["class"].lower() == name and one["score"] > LEAST_SCORE]
    return max(found, key=lambda one: one["score"], default=None)


def place_score(relation: str, one: Sequence[float], two: Sequence[float]) -> float:
    """How well two boxes [x0, y0, x1, y1] stand in a relation; boxes are those of a picture of 512 x 512."""
    dx = (two[0] + two[2] - one[0] - one[2]) / 2
    dy = (two[1] + two[3] - one[1] - one[3]) / 2
    if relation in NEAR:
        if min(abs(dx), abs(dy)) < DISTANCE:
            return 1.0
        return DISTANCE / max(abs(dx), abs(dy))
    x, y = SIDES[relation]
    along, across = (dx * x, dy) if x else (dy * y, dx)
    if along <= 0 or along <= abs(across):
        return 0.0
    overlap = box_overlap(one, two)
    return 1.0 if overlap < OVERLAP else OVERLAP / overlap


def box_overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Intersection over union."""
    width = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    shared = width * height
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1])
    return shared / (areas - shared) if areas > shared else 0.0
