"""Plain numbers in records, such as actions, poses and time series: is_vector, parse_vector.

    {"vector": [[0.1, -2.0], [0.3, 1.5], ...]}

is n tokens of d numbers each. A part of a document may have any modality's name in the place of `vector`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mot_gen.errors import expect, require


def is_vector(value: Any) -> bool:
    """Whether what a record says in the place of a medium are numbers; a list of names is not."""
    return isinstance(value, list) and not any(isinstance(each, (str, bytes)) for each in value)


def parse_vector(value: Any, field: str) -> np.ndarray:
    """A list of lists -> (n, d) float32. InputError, which begins with `field`, unless all rows are equally long and
    all numbers finite."""
    expect(_is_table(value), f"{field} must be a list of lists of numbers, such as [[0.1, 0.2]]", value)
    widths = sorted({len(row) for row in value})
    alike = f"{field}: its rows have {widths[0]} and {widths[-1]} numbers; give all the same"
    require(widths[0] == widths[-1], alike)
    kinds = {type(number) for row in value for number in row}
    expect(kinds <= {int, float}, f"{field} must be a list of lists of numbers", value)
    numbers = np.asarray(value, dtype=np.float32)
    require(np.isfinite(numbers).all(), f"{field}: holds NaN or infinity")
    return numbers


def _is_table(value: Any) -> bool:
    """Whether this is a list of lists, none of them empty."""
    return isinstance(value, list) and value != [] and all(isinstance(row, list) and row for row in value)
