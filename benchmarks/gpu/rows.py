"""What a measurement gives: Row; and measured, which makes a row of whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.gpu.setting import Setting, Skipped

Figures = Mapping[str, float | str]
Measurement = Callable[[Setting], Figures]


@dataclass(frozen=True)
class Row:
    """A measurement's figures by what they say, or why there are none."""

    title: str
    figures: Figures = field(default_factory=dict)
    skipped: str = ""
    error: str = ""


def measured(title: str, measurement: Measurement, setting: Setting) -> Row:
    """The row of one measurement. An error is its row: it does not end the others."""
    try:
        setting.free()
        return Row(title, measurement(setting))
    except Skipped as reason:
        return Row(title, skipped=str(reason))
    except Exception as error:
        return Row(title, error=f"{type(error).__name__}: {error}".splitlines()[0])


def difference(found, wanted) -> float:
    """The largest difference of two tensors over the largest value of the second."""
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).abs().max() / wanted.abs().max()).item()
