"""How a picture is drawn, under one name wherever it is asked for: PictureSettings; and what any setting may be: check,
check_given, is_number, is_count, is_natural, are_all, is_list_of_texts; listed_texts.

Commands, reports and pipelines all say it with this type. Nothing here imports torch, so that a command refuses a bad
value before anything heavy is loaded. The engine imports this file and no other of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeGuard

from mot_gen.errors import InputError, nearest, require

RENORMS = ("global", "channel", "text_channel")


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Steps and guidance of a picture. None stands for the checkpoint's own setting, else for the usual one (USUAL).

    num_inference_steps: how often the model is evaluated.
    guidance_scale: 1 is conditional, 0 unconditional, above 1 follows the prompt more strongly.
    guidance_interval: the times between which guidance acts, from 0 (clean) to 1 (noise).
    guidance_rescale, guidance_renorm, guidance_renorm_min: against overexposure, see `guidance.Guidance`.

    InputError for a value that cannot be.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    guidance_renorm: str | None = None
    guidance_renorm_min: float | None = None

    def __post_init__(self):
        check_given(**self.given())

    def given(self) -> dict[str, Any]:
        """The settings that are not None, as keyword arguments of a pipeline."""
        named = {field.name: getattr(self, field.name) for field in fields(PictureSettings)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def steps(self) -> int:
        """Evaluations of the model: as given, or else the usual number."""
        return USUAL["num_inference_steps"] if self.num_inference_steps is None else self.num_inference_steps

    def settled(self, own: Mapping[str, Any]) -> Self:
        """A copy without None: what is not given is taken from `own`, the checkpoint's settings, or else as usual."""
        known = {name: own.get(name, usual) for name, usual in USUAL.items()}
        return replace(self, **known | self.given())


USUAL: dict[str, Any] = {
    "num_inference_steps": 50,
    "guidance_scale": 3.0,
    "guidance_interval": (0.0, 1.0),
    "guidance_rescale": 0.0,
    "guidance_renorm": None,
    "guidance_renorm_min": 0.0,
}


def check(name: str, value: Any) -> None:
    """InputError where a setting cannot have this value. Names that are not in RULES may have any."""
    if name == "guidance_renorm" and value is not None and value not in RENORMS:
        raise InputError(f"guidance_renorm: {value!r} is not known{nearest(str(value), RENORMS)}")
    fits, what = RULES.get(name, (_anything, ""))
    require(fits(value), f"{name} must be {what}, got {value!r}")


def check_given(**settings: Any) -> None:
    """`check` each of these settings that is not None."""
    for name, value in settings.items():
        if value is not None:
            check(name, value)


def is_number(value: Any) -> bool:
    """Whether this is a plain number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _anything(value: Any) -> bool:
    return True


def is_count(value: Any) -> bool:
    """Whether this is a whole number of at least 1."""
    return isinstance(value, int) and is_number(value) and value >= 1


def is_natural(value: Any) -> bool:
    """Whether this is a whole number of at least 0."""
    return isinstance(value, int) and is_number(value) and value >= 0


def listed_texts(given: Any) -> Any:
    """One text as a list of one; anything else as it is."""
    if isinstance(given, str):
        return [given]
    return given


def is_list_of_texts(given: Any) -> TypeGuard[Sequence[str]]:
    """Whether this is a list of at least one text, none of them empty. One text alone is no list."""
    return not isinstance(given, str) and are_all(given, str) and all(given)


def are_all(given: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether this is a sequence of at least one thing, each of this type."""
    if not isinstance(given, Sequence) or not given:
        return False
    return all(isinstance(each, kind) for each in given)


def _is_finite(value: Any) -> bool:
    return is_number(value) and 0 <= value < float("inf")


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_positive_share(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


def _is_interval(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(map(_is_share, value)) and value[0] <= value[1]


# What each setting may be: a test, and its words.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_inference_steps": (is_count, "a positive integer"),
    "guidance_scale": (_is_finite, "a number of at least 0 (1 = off)"),
    "image_guidance_scale": (_is_finite, "a number of at least 0 (1 = off)"),
    "guidance_interval": (_is_interval, "two times, 0 <= low <= high <= 1"),
    "guidance_rescale": (_is_share, "a number from 0 to 1"),
    "guidance_renorm_min": (_is_share, "a number from 0 to 1"),
    "strength": (_is_share, "a number from 0 (nothing changes) to 1"),
    "max_new_tokens": (is_count, "at least 1"),
    "temperature": (_is_finite, "a number of at least 0 (0 = greedy)"),
    "top_k": (is_natural, "a whole number of at least 0 (0 = every token)"),
    "top_p": (_is_positive_share, "a number above 0, at most 1"),
}
