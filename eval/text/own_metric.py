"""A metric of texts that a user wrote, named "package.module:Class": own_metric."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from mot_gen.errors import nearest, require
from mot_gen.eval.by_name import Builder
from mot_gen.files.own_modules import exists, imported, not_found

FED = ("texts", "transcripts", "predictions", "features")  # what `by_name.update_text` can give
OPEN = ("name", "statistics", "score")  # what a SegmentTable leaves to its subclasses


def own_metric(name: str) -> Builder:
    """The builder of a metric of your own. It is given the confidence, if its class takes one.

    InputError where there is none, or where it could not be fed, made or computed.
    """
    module, _, member = name.partition(":")
    require(exists("metrics", module), f"metrics: there is no module {module!r}{not_found(module, [])}")
    home = imported("metrics", module)
    metric: Any = getattr(home, member, None)
    classes = [each for each, value in vars(home).items() if getattr(value, "__module__", "") == module]
    require(metric is not None, f"metrics: module {module} has no {member!r}{nearest(member, classes)}")
    _check(metric, f"metrics: {name}")
    takes = "confidence" if _accepts(metric, "confidence") else ""
    return Builder(name, takes, package="")


def _check(metric: Any, what: str) -> None:
    """InputError for what is no metric of texts. what: how messages name it."""
    from mot_gen.eval.accumulator import Accumulator

    based = isinstance(metric, type) and issubclass(metric, Accumulator)
    require(based, f"{what} must be a class that is based on mot_gen.eval.text.segments.SegmentMetric")
    takes = getattr(metric, "takes", None)
    require(takes in FED, f"{what}.takes: {takes!r} is not known; one of: {', '.join(FED)}")
    missing = _missing(metric)
    require(not missing, f"{what} must define {', '.join(missing)}; see CONTRIBUTING.md, Add a metric")
    required = [each.name for each in _parameters(metric) if each.default is Parameter.empty]
    require(not required, f"{what} must be made without arguments; give {', '.join(required)} a default")


def _missing(metric: Any) -> list[str]:
    """What its bases leave to a class, and it does not define."""
    from mot_gen.eval.text.segments import SegmentTable

    missing = sorted(metric.__abstractmethods__)
    if issubclass(metric, SegmentTable):
        missing += [name for name in OPEN if getattr(metric, name, None) is getattr(SegmentTable, name, None)]
    return missing


def _parameters(metric: type) -> list[Parameter]:
    """What its constructor takes by name or place."""
    collecting = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [each for each in signature(metric).parameters.values() if each.kind not in collecting]


def _accepts(metric: type, option: str) -> bool:
    """Whether a class, or a class that it hands its options to, names an option in its constructor."""
    constructors = [vars(cls)["__init__"] for cls in metric.__mro__ if "__init__" in vars(cls)]
    return any(option in signature(constructor).parameters for constructor in constructors)
