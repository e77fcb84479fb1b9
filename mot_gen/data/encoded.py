"""Media that were tokenised before, in records: Encoded, fixed_grid, fixed_length, is_encoded, parse_encoded,
outline_of, columns.

In a record such a medium is an object in the place of its path:

    {"tokens": [5, 17, ...], "grid": [4, 4], "fingerprint": "ab12..."}
    {"latents": [[0.1, ...], ...], "shape": [16, 4], "grid": [4, 4], "fingerprint": "ab12..."}

These are ids of a discrete tokenizer, or latents of a continuous one, either as a list or as bytes. Bytes are
little-endian int32 and float32, row by row. Lists need no `shape`. `grid` is for what has two dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mot_gen.errors import InputError, expect, require

if TYPE_CHECKING:  # torch takes seconds to import, and records without tokens do without
    import torch

    from mot_gen.sequence import Span

KEYS = {"tokens": np.dtype("<i4"), "latents": np.dtype("<f4")}
DIMENSIONS = {"tokens": 1, "latents": 2}
MOST = 2**31 - 1  # an id


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer made of a medium.

    values: (n,) int64 ids or (n, C) float32 latents; None where they are not read yet. fingerprint: of the tokenizer.
    count: n, where it is known without values.
    """

    values: torch.Tensor | None
    grid: tuple[int, int] | None
    fingerprint: str
    count: int | None = None

    def __len__(self) -> int:
        return len(self.read())

    def read(self) -> torch.Tensor:
        """The values of a medium that was read."""
        assert self.values is not None, "the values of an outline are not read"
        return self.values

    def span(self, modality: str, learned: bool = True) -> Span:
        """The span as the tokenizer itself would have made it."""
        from mot_gen.sequence import Span

        return Span(modality, self.read(), self.grid, learned)


def fixed_grid(tokenizer: Any) -> tuple[int, int] | None:
    """The grid of every span of a tokenizer that gives all the same; None for any other."""
    return getattr(tokenizer, "grid", None) or None


def fixed_length(tokenizer: Any) -> int | None:
    """Tokens of every span of a tokenizer that gives all the same grid; None for any other."""
    grid = fixed_grid(tokenizer)
    return None if grid is None else grid[0] * grid[1]


def is_encoded(value: Any) -> bool:
    """Whether what a record says of a medium are its tokens."""
    return isinstance(value, Mapping) and any(value.get(key) is not None for key in KEYS)


def parse_encoded(value: Mapping[str, Any], field: str) -> Encoded:
    """The object of a record -> tokens; `field` begins every error."""
    import torch

    key = "tokens" if value.get("tokens") is not None else "latents"
    fingerprint = value.get("fingerprint") or None
    expect(isinstance(fingerprint, str), f"{field}.fingerprint must say which tokenizer made the {key}", fingerprint)
    values = _array(value[key], key, value.get("shape"), f"{field}.{key}")
    shape = f"{field}.{key} must be (n,) ids or (n, C) latents, got shape {values.shape}"
    require(values.ndim == DIMENSIONS[key], shape)
    require(values.size, shape)
    tensor = torch.from_numpy(_BOUNDED[key](values, f"{field}.{key}"))
    return Encoded(tensor, _grid(value.get("grid"), len(values), field), str(fingerprint))


def _array(given: Any, key: str, shape: Any, field: str) -> np.ndarray:
    """The numbers of a list or of bytes, in their shape."""
    expect(_whole_numbers(shape or ()), f"{field}: its shape must be a list of whole numbers", shape)
    try:
        values = np.frombuffer(given, KEYS[key]) if isinstance(given, bytes) else np.asarray(given)
        return values if shape is None else values.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{field}: cannot be read ({error})") from None


def _ids(values: np.ndarray, field: str) -> np.ndarray:
    """int64 ids, none of which is beyond what a vocabulary can hold."""
    unread = f"{field}: cannot be read (ids are whole numbers from 0 to {MOST})"
    require(values.dtype.kind in "iu", unread)
    require(values.min() >= 0 and values.max() <= MOST, unread)
    return values.astype(np.int64)


def _latents(values: np.ndarray, field: str) -> np.ndarray:
    """float32 latents, all of them finite."""
    require(values.dtype.kind in "iuf", f"{field}: cannot be read (latents are numbers)")
    values = values.astype(np.float32)
    require(np.isfinite(values).all(), f"{field}: holds NaN or infinity")
    return values


_BOUNDED = {"tokens": _ids, "latents": _latents}


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(each) is int and each >= 0 for each in value)


def _grid(grid: Any, count: int, field: str) -> tuple[int, int] | None:
    """(rows, columns) of a picture's tokens; None where there is no grid."""
    if grid is None:
        return None
    misfit = f"{field}.grid {grid!r:.60} does not hold {count} tokens"
    require(_whole_numbers(grid), misfit)
    require(len(grid) == 2, misfit)
    require(grid[0] * grid[1] == count, misfit)
    return grid[0], grid[1]


def outline_of(value: Mapping[str, Any]) -> Encoded:
    """The object of a record of which the bytes were not read -> tokens without values."""
    shape = value.get("shape")
    return Encoded(None, None, value["fingerprint"], shape[0] if shape else None)


def columns(span: Span, fingerprint: str) -> dict[str, Any]:
    """The object of a record that holds a span; `parse_encoded` is the inverse."""
    key = "latents" if span.values.is_floating_point() else "tokens"
    values = span.values.cpu().numpy().astype(KEYS[key])
    grid = list(span.grid) if span.grid else None
    return {key: values.tobytes(), "shape": list(values.shape), "grid": grid, "fingerprint": fingerprint}
