"""Objectives by name. An objective owns the corruption, the target, the scaling and the loss of one modality.

Each module has a class `Objective(**options)`. One of discrete tokens has `loss(logits, ids)`, and perhaps:

- `replace(ids, span, size, generator)` and `replaced`, above 0, where training is to read other ids than it predicts;
- `bidirectional = True` where tokens are masked and a span sees all of itself (see `masked`). Then it also has
  `sample_time(learned, leads, generator)`, `mask(time, generator)` and `weigh(masked, time, bound)`: how much of a span
  is masked, which tokens, and how their losses count. Samplers ask for `masked_share(time)`, `order` and
  `choice_temperature`;
- `by_scales = True` where a span is predicted scale by scale (see `next_scale`), with the same three methods: a span at
  time 1 is predicted, one at time 0 is read.

One of continuous tokens works with one time in [0, 1] per span (0 clean, 1 noise). It has:

- `sample_time(latents, generator)` -> (n,);
- `corrupt(values, time, generator)` -> (input, target): values (N, C), time (N,), one per token;
- `loss(output, target, time)` -> (N,), unreduced and averaged over the channels;
- `scheduler()`: the diffusers scheduler it is sampled with;
- `scheduler_time(timestep, scheduler)`: a timestep of a scheduler as a time in [0, 1];
- `scheduler_output(output, noisy, time)`: the network's output in the form that the scheduler wants;
- `add_noise(values, noise, time)`: as `corrupt`, with the noise given; one time for all, (), or one per token;
- `clean(output, noisy, time)`: an estimate of the values, from what `scheduler_output` returned;
- `fits(scheduler)`: None, or for a scheduler of the wrong kind the name of the right one.

If its network is given the size of the sampler's step as well as the time, it sets `takes_step`, and also has:

- `fewest`: the fewest evaluations that it was trained for;
- `share`: the share of a batch's rows that learns steps;
- `sample_steps(latents, time, chosen, generator)`: the steps that they learn;
- `teach(latents, target, predict)`: the targets for them, from the flow's target (see `shortcut`);
- `teacher_passes`: how many forward passes over those rows `teach` costs;
- `step_size(timestep, scheduler)`: the step size that the network is given when a scheduler takes a step;
- perhaps `time_scale`: what times are multiplied by before they are embedded, where they are not embedded as usual.

An objective that makes further forward passes over a batch says how many, as `extra_passes`, so that their cost is
counted.

A module without an `Objective` is a part of others.

`load(kind, options)` finds one by module name in this folder or by dotted path, `load_all` all of a model.
`check_reading(modality, objective)` refuses one that needs a modality's spans to be read in another way.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, nearest, require
from mot_gen.files.own_modules import exists, imported, not_found

if TYPE_CHECKING:
    from mot_gen.sequence import Modality  # needs torch

NAMES = ("next_token", "diffusion", "flow", "shortcut", "mean_flow", "masked", "next_scale")


def load(kind: str, options: dict | None = None):
    """The objective of that name, with its options checked."""
    module_name = kind if "." in kind else f"mot_gen.objectives.{kind}"
    if not exists("objectives", module_name):
        raise InputError(f"objectives: {kind!r} is not an objective" + not_found(kind, NAMES))
    objective: Any = getattr(imported("objectives", module_name), "Objective", None)
    require(objective, f"objectives: module {module_name} has no Objective")
    allowed = inspect.signature(objective).parameters
    for name in options or {}:
        if name not in allowed:
            raise InputError(f"objectives: {kind} has no option {name!r}" + nearest(name, allowed))
    made = objective(**(options or {}))
    if "." in kind:
        _check_whole(made, kind)
    return made


# The methods that each objective has, with what they are given.
DISCRETE = {"loss": ("logits", "ids")}
CONTINUOUS = {
    "sample_time": ("latents", "generator"),
    "corrupt": ("values", "time", "generator"),
    "loss": ("output", "target", "time"),
    "scheduler": (),
    "scheduler_time": ("timestep", "scheduler"),
    "scheduler_output": ("output", "noisy", "time"),
    "add_noise": ("values", "noise", "time"),
    "clean": ("output", "noisy", "time"),
    "fits": ("scheduler",),
}


def _check_whole(objective: Any, kind: str) -> None:
    """InputError for an objective of a user's own that lacks a method, or has one that takes other arguments."""
    needed = CONTINUOUS if hasattr(objective, "corrupt") else DISCRETE
    missing = [name for name in needed if not callable(getattr(objective, name, None))]
    lacks = f"objectives: Objective of {kind} has no {', '.join(missing)}; see mot_gen/objectives/__init__.py"
    require(not missing, lacks)
    for name, given in needed.items():
        signature = inspect.signature(getattr(objective, name))
        try:
            signature.bind(*given)
        except TypeError:
            takes = ", ".join(("self", *given))
            raise InputError(f"objectives: {name} of {kind} must take ({takes}), not {signature}") from None


def load_all(modalities: "Sequence[Modality]", sections: Mapping[str, dict]) -> dict[str, Any]:
    """Modality name -> its objective, of all that are predicted.

    sections: by name, a kind in place of the modality's own, beside options. InputError for a kind, an option or a
    modality's fields that do not fit.
    """
    found = {}
    for modality in modalities:
        if modality.input_only:
            continue
        options = dict(sections.get(modality.name, {}))
        kind = options.pop("kind", modality.objective)
        found[modality.name] = load(kind, options)
    for modality in modalities:
        check_reading(modality, found.get(modality.name))
    return found


def check_reading(modality: "Modality", objective: Any) -> None:
    """InputError where an objective of discrete tokens needs spans that are read the other way. objective: None for a
    modality that is only read."""
    block = getattr(objective, "block", 0)
    if objective is not None:
        _check_block_and_scales(modality, block, getattr(objective, "by_scales", False))
    wanted = getattr(objective, "bidirectional", False) and not block
    if modality.discrete and modality.bidirectional != wanted:
        why = "masked tokens see all of their span" if wanted else "tokens come one by one"
        raise InputError(f"modality {modality.name!r}: bidirectional must be {str(wanted).lower()}: {why}")


def _check_block_and_scales(modality: "Modality", block: int, by_scales: bool) -> None:
    """InputError where the spans of a modality have other blocks, or scales, than its objective predicts."""
    name = f"modality {modality.name!r}"
    if modality.block_size != block:
        raise InputError(f"{name}: block_size must be masked.block, {block}")
    if modality.scales and not by_scales:
        raise InputError(f"{name}: has scales, which are predicted by next_scale")
    if by_scales and not modality.scales:
        raise InputError(f"{name}: next_scale needs its scales")
