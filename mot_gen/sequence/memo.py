"""Memo: what follows from an object is derived once and kept under a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Memo:
    """Base of objects from which several readers derive the same values.

    made: name -> value. A name tells apart all values that can follow from the object.
    """

    made: dict[str, Any]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The value of this name. `make` is called when it is asked for the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]
