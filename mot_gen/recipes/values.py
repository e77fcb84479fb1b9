"""What the sections of a recipe are made of: types of numbers, Section and Component."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# Numbers are strict, so that `steps: true` and `lr: "fast"` are errors and not 1 and a guess.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Component(BaseModel):
    """An implementation by `kind` and, beside it, the options that this kind takes."""

    model_config = ConfigDict(extra="allow")

    kind: str  # a module's name in the folder of its sort, or a dotted path

    @property
    def options(self) -> dict[str, Any]:
        """What the recipe gives to build it with."""
        assert self.model_extra is not None  # since extra is "allow"
        return dict(self.model_extra)
