"""Media that were tokenised before, in records: Encoded, is_encoded, parse_encoded, outlined, columns.

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

from mot_gen.errors import InputError

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
        """As the tokenizer itself would have given it."""
        from mot_gen.sequence import Span

        return Span(modality, self.read(), self.grid, learned)


def is_encoded(value: Any) -> bool:
    """Whether what a record says of a medium are its tokens."""
    return isinstance(value, Mapping) and any(value.get(key) is not None for key in KEYS)


def parse_encoded(value: Mapping[str, Any], field: str) -> Encoded:
    """The object of a record -> tokens; `field` begins every error."""
    import torch

    key = "tokens" if value.get("tokens") is not None else "latents"
    fingerprint, grid, shape = value.get("fingerprint"), value.get("grid"), value.get("shape")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise InputError(f"{field}.fingerprint must say which tokenizer made the {key}, got {fingerprint!r:.60}")
    values = _array(value[key], key, shape, f"{field}.{key}")
    if values.ndim != DIMENSIONS[key] or not values.size:
        raise InputError(f"{field}.{key} must be (n,) ids or (n, C) latents, got shape {values.shape}")
    tensor = torch.from_numpy(values)
    return Encoded(tensor, _grid(grid, len(values), field), fingerprint)


def _array(given: Any, key: str, shape: Any, field: str) -> np.ndarray:
    """int64 ids or float32 latents of a list or bytes, within their bounds."""
    if shape is not None and not _whole_numbers(shape):
        raise InputError(f"{field}: its shape must be a list of whole numbers, got {shape!r:.60}")
    try:
        values = np.frombuffer(given, KEYS[key]) if isinstance(given, bytes) else np.asarray(given)
        if shape is not None:
            values = values.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{field}: cannot be read ({error})") from None
    return _ids(values, field) if key == "tokens" else _latents(values, field)


def _ids(values: np.ndarray, field: str) -> np.ndarray:
    whole = values.dtype.kind in "iu"
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) > MOST:
        raise InputError(f"{field}: cannot be read (ids are whole numbers from 0 to {MOST})")
    return values.astype(np.int64)


def _latents(values: np.ndarray, field: str) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        raise InputError(f"{field}: cannot be read (latents are numbers)")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{field}: holds NaN or infinity")
    return values


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(each) is int and each >= 0 for each in value)


def _grid(grid: Any, count: int, field: str) -> tuple[int, int] | None:
    if grid is None:
        return None
    if not _whole_numbers(grid) or len(grid) != 2 or grid[0] * grid[1] != count:
        raise InputError(f"{field}.grid {grid!r:.60} does not hold {count} tokens")
    return grid[0], grid[1]


def outlined(value: Mapping[str, Any]) -> Encoded:
    """The object of a record of which the bytes were not read -> tokens without values."""
    shape = value.get("shape")
    return Encoded(None, None, value["fingerprint"], shape[0] if shape else None)


def columns(span: Span, fingerprint: str) -> dict[str, Any]:
    """The object of a record that holds a span; `parse_encoded` is the inverse."""
    key = "latents" if span.values.is_floating_point() else "tokens"
    values = span.values.cpu().numpy().astype(KEYS[key])
    grid = list(span.grid) if span.grid else None
    return {key: values.tobytes(), "shape": list(values.shape), "grid": grid, "fingerprint": fingerprint}
