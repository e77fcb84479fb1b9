"""integer_options: the options of data sets that are made by a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mot_gen.errors import expect


def integer_options(source: str, given: Mapping[str, Any], defaults: Mapping[str, int]) -> dict[str, int]:
    """The options of a data source: those of `data.options` that are given, else the defaults.

    InputError for an option that the source does not have, or that is no integer.
    """
    for name, value in given.items():
        known = name in defaults and type(value) is int
        expect(known, f"data.options.{name}: {source} takes integers ({', '.join(defaults)})", value)
    return {**defaults, **given}
