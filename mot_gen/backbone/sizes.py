"""Named sizes as data: SIZES, of the Mixture-of-Transformers paper (arXiv 2411.04996), by activated parameters;
MAMBA_SIZES, of the published Mambas (arXiv 2312.00752), by all parameters; fill_size; and what numbers of a config must
be: is_count, require_counts, require_at_least_0."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mot_gen.errors import InputError, nearest

SIZES = {
    "37M": {"dim": 256, "layers": 4, "heads": 8},
    "94M": {"dim": 512, "layers": 8, "heads": 8},
    "163M": {"dim": 768, "layers": 16, "heads": 12},
    "443M": {"dim": 1024, "layers": 24, "heads": 16},
    "760M": {"dim": 1536, "layers": 24, "heads": 24},
    "880M": {"dim": 1536, "layers": 24, "heads": 24},
    "1.4B": {"dim": 2048, "layers": 24, "heads": 16},
    "1.5B": {"dim": 2048, "layers": 24, "heads": 16},
    "7B": {"dim": 4096, "layers": 32, "heads": 32},
}

MAMBA_SIZES = {
    "130M": {"dim": 768, "layers": 24},
    "370M": {"dim": 1024, "layers": 48},
    "790M": {"dim": 1536, "layers": 48},
    "1.4B": {"dim": 2048, "layers": 48},
    "2.8B": {"dim": 2560, "layers": 64},
}


def fill_size(config, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Set what a config's `size` stands for, where it is not given beside it."""
    if config.size is None:
        return
    if config.size not in sizes:
        raise InputError(f"backbone.size: {config.size!r} is not a named size" + nearest(config.size, sizes))
    for name, value in sizes[config.size].items():
        if getattr(config, name) is None:
            setattr(config, name, value)


def is_count(value: object) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int) and value > 0


def require_counts(config, *names: str, remedy: str = "") -> None:
    """InputError for the first of these fields that is no positive integer."""
    for name in names:
        value = getattr(config, name)
        if not is_count(value):
            raise InputError(f"backbone.{name}: must be a positive integer{remedy}, got {value!r}")


def require_at_least_0(name: str, *values: float) -> None:
    """InputError for the first of a field's values that is negative or not finite."""
    for value in values:
        if not 0 <= value < math.inf:
            raise InputError(f"backbone.{name}: must be finite and at least 0, got {value!r}")
