"""Plain numbers in records, such as actions, poses and time series: is_vector, parse_vector.

    {"vector": [[0.1, -2.0], [0.3, 1.5], ...]}

is n tokens of d numbers each. A part of a document may have any modality's name in the place of `vector`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mot_gen.errors import InputError


def is_vector(value: Any) -> bool:
    """Whether what a record says in the place of a medium are numbers."""
    return isinstance(value, list)


def parse_vector(value: Any, field: str) -> np.ndarray:
    """A list of lists -> (n, d) float32. InputError, which begins with `field`, unless all rows are equally long and
    all numbers finite."""
    listed = isinstance(value, list) and value and all(isinstance(row, list) and row for row in value)
    if not listed:
        raise InputError(f"{field} must be a list of lists of numbers, such as [[0.1, 0.2]], got {value!r:.60}")
    widths = sorted({len(row) for row in value})
    if len(widths) > 1:
        raise InputError(f"{field}: its rows have {widths[0]} and {widths[-1]} numbers; give all the same")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for row in value for number in row):
        raise InputError(f"{field} must be a list of lists of numbers, got {value!r:.60}")
    numbers = np.asarray(value, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise InputError(f"{field}: holds NaN or infinity")
    return numbers
