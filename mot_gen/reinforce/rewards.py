"""Rewards of samples: RewardInputs, NamedReward, Rewards, check_rewards, make_rewards.

A reward is named in the recipe. It is a file of `mot_gen/reinforce/reward_kinds`, a metric of `mot-gen eval` that
scores one sample by itself, or a function of your own, `package.module:name`. It is given the samples of a batch and
returns a number for each. A file of `reward_kinds` has `reward`, which makes such a function, and `ASKS`, the fields of
`RewardInputs` that must be written for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mot_gen.data.records import Splits
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.own_modules import imported
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Reward

if TYPE_CHECKING:
    from mot_gen.reinforce.rollouts import Rollout

Score = Callable[..., Sequence[float]]
HOME = "mot_gen.reinforce.reward_kinds"
OWN_KINDS = ("judge", "length")
GIVEN = ("where", "recipe", "splits")  # what a module of `reward_kinds` is given beside its options
WRITTEN = {"images": "image", "texts": "text"}  # fields of RewardInputs -> the modality that must have been written


@dataclass(frozen=True)
class RewardInputs:
    """N samples. A reward is given those of these fields that its arguments name.

    prompts: the captions that were asked for.
    texts: the texts that were written.
    images: the pictures that were drawn, (N, C, H, W) in [0, 1].
    references: all captions of the data sample from which each prompt was taken.
    names: the names of these data samples.
    """

    prompts: Sequence[str]
    texts: Sequence[str]
    images: Tensor | None
    references: Sequence[Sequence[str]]
    names: Sequence[str]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> RewardInputs:
        """The samples of rollouts, of which all have a picture, or none has."""
        prompts = [rollout.prompt for rollout in rollouts]
        drawn = [rollout.image for rollout in rollouts if rollout.image is not None]
        return cls(
            prompts=[prompt.text for prompt in prompts],
            texts=[rollout.text or "" for rollout in rollouts],
            images=torch.stack(drawn) if drawn else None,
            references=[prompt.references for prompt in prompts],
            names=[prompt.name for prompt in prompts],
        )

    def one(self, number: int) -> RewardInputs:
        """A single sample."""
        own = slice(number, number + 1)
        images = None if self.images is None else self.images[own]
        return RewardInputs(self.prompts[own], self.texts[own], images, self.references[own], self.names[own])


@dataclass(frozen=True)
class NamedReward:
    """A reward of a recipe. asks: which fields of `RewardInputs` it is given."""

    name: str
    weight: float
    score: Score
    asks: Sequence[str]

    def __call__(self, samples: RewardInputs, failed: Callable[[str, str], None]) -> Tensor:
        """(N,) scores, NaN where it failed. failed: called with the name of such a sample, and why."""
        try:
            return self._of(samples)
        except Exception:  # one of your own functions may raise anything; which sample it was is found one by one
            return torch.cat([self._alone(samples.one(number), failed) for number in range(len(samples.names))])

    def _of(self, samples: RewardInputs) -> Tensor:
        found = self.score(**{name: getattr(samples, name) for name in self.asks})
        scores = torch.as_tensor(found, dtype=torch.float32).flatten().cpu()
        require(len(scores) == len(samples.names), f"gave {len(scores)} numbers for {len(samples.names)} samples")
        require(scores.isfinite().all(), "is not finite")
        return scores

    def _alone(self, sample: RewardInputs, failed: Callable[[str, str], None]) -> Tensor:
        try:
            return self._of(sample)
        except Exception as error:
            failed(sample.names[0], f"reward {self.name} failed: {error or type(error).__name__}")
            return torch.tensor([math.nan])


class Rewards:
    """The rewards of a run, those that are watched among them.

    skipped: samples that a reward failed on, in this sitting, with the reason; more than `most` are an InputError.
    """

    def __init__(self, rewards: Sequence[NamedReward], watched: Sequence[NamedReward], most: int):
        self.rewards, self.watched, self.most = list(rewards), list(watched), most
        self.skipped: list[str] = []

    def __call__(self, samples: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum (N,), NaN where a reward failed; and every score by name, (N,) each."""
        scores = {each.name: each(samples, self._skip) for each in self.rewards}
        total = torch.stack([each.weight * scores[each.name] for each in self.rewards]).sum(0)
        scores |= {each.name: each(samples, lambda name, why: None) for each in self.watched}
        return total, scores

    def _skip(self, name: str, why: str) -> None:
        self.skipped.append(f"{name}: {why}")
        if len(self.skipped) > self.most:
            raise InputError(
                f"{self.skipped[-1]}; {len(self.skipped)} samples have no reward, and training.max_corrupt allows "
                f"{self.most}"
            )


def check_rewards(recipe: Recipe) -> None:
    """InputError for a reward that cannot be made, as far as is known without data and models."""
    section = recipe.reinforce
    assert section is not None
    for field, named in {"rewards": section.rewards, "watched": section.watched}.items():
        for name, given in named.items():
            where = f"reinforce.{field}.{name}"
            _check_written(where, section.writes, _needed_by(where, given))


def _needed_by(where: str, given: Reward) -> Sequence[str]:
    """The fields of `RewardInputs` that a reward needs; InputError for one that cannot be made."""
    if ":" in given.kind:
        return _asked(where, _own_score(where, given))
    shipped = _shipped(where, given.kind)
    if shipped:
        _check_options(where, shipped.reward, given.options)
        return shipped.ASKS
    from mot_gen.reinforce.metric_rewards import asked_by

    return asked_by(where, given.kind, given.options, OWN_KINDS)


def make_rewards(recipe: Recipe, splits: Splits) -> Rewards:
    """The rewards that a recipe names; InputError for one that is unknown, or needs what is not written."""
    section = recipe.reinforce
    assert section is not None
    rewards = [make_reward(recipe, splits, "rewards", *named) for named in section.rewards.items()]
    watched = [make_reward(recipe, splits, "watched", *named) for named in section.watched.items()]
    return Rewards(rewards, watched, recipe.training.max_corrupt)


def make_reward(recipe: Recipe, splits: Splits, field: str, name: str, given: Reward) -> NamedReward:
    """One of the recipe's section. field: rewards or watched."""
    where = f"reinforce.{field}.{name}"
    section = recipe.reinforce
    assert section is not None
    score = _score(where, recipe, splits, given)
    asks = _asked(where, score)
    _check_written(where, section.writes, asks)
    return NamedReward(name, given.weight, score, asks)


def _check_written(where: str, writes: Sequence[str], asks: Sequence[str]) -> None:
    """InputError for a reward that asks for what a run does not write."""
    for argument, modality in WRITTEN.items():
        if argument in asks and modality not in writes:
            raise InputError(
                f"{where}: needs what is not written: {argument}; this run writes {', '.join(writes)}, so take "
                "another reward, or another reinforce.writes"
            )


def _score(where: str, recipe: Recipe, splits: Splits, given: Reward) -> Score:
    """The function behind a reward's kind: your own, one of `reward_kinds`, or a metric."""
    if ":" in given.kind:
        return _own_score(where, given)
    shipped = _shipped(where, given.kind)
    if shipped:
        _check_options(where, shipped.reward, given.options)
        return shipped.reward(where, recipe, splits, **given.options)
    from mot_gen.reinforce.metric_rewards import metric_reward

    return metric_reward(where, given.kind, given.options, OWN_KINDS)


def _shipped(where: str, kind: str) -> ModuleType | None:
    """The module of `reward_kinds` that is named so; None where there is none. InputError for a dotted name."""
    path, _, name = kind.rpartition(".")
    require(not path, f"{where}: {kind!r} is not a reward; a function of your own is named '{path}:{name}'")
    module = f"{HOME}.{kind}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def _own_score(where: str, given: Reward) -> Score:
    """A function of a user's own, with its options."""
    function = _own_function(where, given.kind)
    _check_options(where, function, given.options)
    return partial(function, **given.options)


def _own_function(where: str, kind: str) -> Score:
    module, _, name = kind.partition(":")
    found: Any = getattr(imported(where, module), name, None)
    require(callable(found), f"{where}: module {module} has no function {name!r}")
    return found


def _check_options(where: str, function: Callable, options: Mapping[str, Any]) -> None:
    """InputError for an option that a reward's function does not take."""
    taken = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return
    names = [parameter.name for parameter in taken if parameter.name not in GIVEN]
    for option in options:
        require(option in names, f"{where}: the function takes no option {option!r}{nearest(option, names)}")


def _asked(where: str, score: Score) -> list[str]:
    """The arguments of a reward that are still open, each a field of `RewardInputs`."""
    known = [field.name for field in fields(RewardInputs)]
    given: Mapping[str, Any] = getattr(score, "keywords", {})
    asks = []
    for parameter in inspect.signature(score).parameters.values():
        if parameter.name in given or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.name in known:
            asks.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise InputError(f"{where}: asks for {parameter.name!r}{nearest(parameter.name, known)}")
    return asks
