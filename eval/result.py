"""MetricResult: a number that carries all that is needed to get it again; Results: several of them by name.

`plain`, `versions` and `checked_confidence` are what they are made with.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from typing import Any

import mot_gen
from mot_gen.errors import InputError

SHA256 = re.compile("[0-9a-f]{64}")


@dataclass
class MetricResult:
    """One measured number and where it came from.

    name: what was measured, with the extractor where there is one ("FID", "FD[dinov2-base]", "bleu").
    n: how many items each side had, by side: {"real": 50000, "fake": 10000}, {"pairs": 100}, {"bytes": 81234}.
    interval: (low, high) of a `provenance["confidence"]` confidence interval, or None where none was asked for.
    provenance: settings that change the number (extractor, sha256 of its weights, resize mode, seed, versions, ...).
    warnings: what a reader must know before quoting the number.
    details: further numbers of the same computation (precision by n-gram order, edit counts, ...).
    """

    name: str
    value: float
    n: dict[str, int]
    interval: tuple[float, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        self.provenance = {**self.provenance, "version": versions("mot-gen", "torch")}

    def add_provenance(self, facts: dict[str, Any], side: str):
        """Facts about one side's samples, under "side.name"."""
        self.provenance |= {f"{side}.{name}": value for name, value in facts.items()}

    @property
    def signature(self) -> str:
        """One line, in the manner of sacrebleu: `name|n.real:50000|...|version:mot-gen-0.1.0+torch-2.11.0`."""
        parts = [self.name]
        parts += [f"n.{side}:{count}" for side, count in self.n.items()]
        parts += [f"{key}:{_short(value)}" for key, value in self.provenance.items() if value is not None]
        return "|".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the value is not rounded, and a number that is not finite becomes None."""
        found = {key: getattr(self, key) for key in ("name", "value", "interval", "n", "signature", "provenance")}
        return plain({**found, "warnings": self.warnings, "details": self.details})

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        """The value by a format such as ".3f"; without one, as `str`."""
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        interval = ""
        if self.interval is not None:
            interval = " [{:.6g}, {:.6g}]".format(*self.interval)
        return f"{self.name} {self.value:.6g}{interval}  {self.signature}"


class Results(dict[str, MetricResult]):
    """Results by metric name. unreadable: "file: reason" of what could not be read and was left out."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unreadable: list[str] = []

    def add_provenance(self, facts: dict[str, Any], side: str) -> None:
        """Facts about one side's samples, to every result."""
        for result in self.values():
            result.add_provenance(facts, side)


def checked_confidence(confidence: float | None) -> float | None:
    """None, or a share strictly between 0 and 1."""
    if confidence is not None and not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise InputError(f"confidence {confidence!r} is not between 0 and 1; give a share such as 0.95")
    return confidence


def versions(*packages: str) -> str:
    """`"torch-2.11.0+sacrebleu-2.6.0"`, leaving out what is not installed."""
    found = []
    for package in packages:
        if package == "mot-gen":
            found.append(f"{package}-{mot_gen.__version__}")
            continue
        with suppress(PackageNotFoundError):
            found.append(f"{package}-{version(package)}")
    return "+".join(found)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples as lists, numbers that are not finite as None, anything else by `str`."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _short(value: Any) -> str:
    """A value in a signature: yes or no, the first digits of a sha256, no bar that would end the field."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if SHA256.fullmatch(text := str(value)):
        return text[:12]
    return text.replace("|", "/")
