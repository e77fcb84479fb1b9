"""Media that were tokenised before, in records: Encoded, is_encoded, parse_encoded, outlined, columns.

In a record such a medium is an object in the place of its path:

    {"tokens": [5, 17, ...], "grid": [4, 4], "fingerprint": "ab12..."}
    {"latents": [[0.1, ...], ...], "shape": [16, 4], "grid": [4, 4], "fingerprint": "ab12..."}

ids of a discrete tokenizer, or latents of a continuous one; either a list or bytes. Bytes are little-endian int32 and
float32, row by row; lists need no `shape`; `grid` only what has two dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mot_gen.errors import InputError
from mot_gen.sequence import Span

KEYS = {"tokens": np.dtype("<i4"), "latents": np.dtype("<f4")}


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer made of a medium. values: (n,) int64 ids or (n, C) float32 latents, None where they are not read
    yet; fingerprint: of who made them; count: n, where it is known without values."""

    values: torch.Tensor | None
    grid: tuple[int, int] | None
    fingerprint: str
    count: int | None = None

    def span(self, modality: str, learned: bool = True) -> Span:
        """As the tokenizer itself would have given it."""
        return Span(modality, self.values, self.grid, learned)


def is_encoded(value: Any) -> bool:
    """Whether what a record says of a medium are its tokens."""
    return isinstance(value, Mapping) and any(value.get(key) is not None for key in KEYS)


def parse_encoded(value: Mapping[str, Any], field: str) -> Encoded:
    """The object of a record -> tokens; `field` begins every error."""
    key = next(key for key in KEYS if value.get(key) is not None)
    fingerprint, grid, shape = (value.get(name) for name in ("fingerprint", "grid", "shape"))
    if not isinstance(fingerprint, str) or not fingerprint:
        raise InputError(f"{field}.fingerprint must say which tokenizer made the {key}, got {fingerprint!r}")
    try:
        given = np.frombuffer(value[key], KEYS[key]) if isinstance(value[key], bytes) else np.asarray(value[key])
        values = given.astype(KEYS[key], casting="same_kind").reshape(shape or given.shape)
    except (ValueError, TypeError) as error:
        raise InputError(f"{field}.{key}: cannot be read ({error})") from None
    if values.ndim != (1 if key == "tokens" else 2) or not len(values):
        raise InputError(f"{field}.{key} must be (n,) ids or (n, C) latents, got shape {values.shape}")
    if grid is not None and (len(grid) != 2 or grid[0] * grid[1] != len(values)):
        raise InputError(f"{field}.grid {grid} does not hold {len(values)} tokens")
    tensor = torch.from_numpy(values.copy())
    return Encoded(tensor.long() if key == "tokens" else tensor, tuple(grid) if grid else None, fingerprint)


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
