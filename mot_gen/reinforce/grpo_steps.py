"""One step of learning from rewards: GrpoStep. Sample, reward, compare, learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.reinforce.actions import ActionBuilder, Actions, TrainedSample
from mot_gen.reinforce.advantages import advantages
from mot_gen.reinforce.learner import Learner, RewardedSamples
from mot_gen.reinforce.lines import Sums, means_of, rewards_of
from mot_gen.reinforce.moe_grpo import Experts, Routes, record_routes
from mot_gen.reinforce.policy import MEASURES, Measures, Policy, PolicyOutput, detach_measures, zero_of_unused
from mot_gen.reinforce.updates import Step, make_updates
from mot_gen.sequence import PackedBatch
from mot_gen.training import parallel
from mot_gen.training.runs import Run
from mot_gen.training.step import Clock, autocast, close_step


@dataclass
class _Batch:
    """A batch of choices, and how likely they were before the first update of the step.

    share: its share of the step. old, reference: by the model that sampled, and by the reference.
    experts, routes: the experts that its tokens took, and the log-probability (B * S,) of that.
    entropy: of its routers' scores.
    """

    actions: Actions
    share: float
    old: PolicyOutput | None = None
    reference: PolicyOutput | None = None
    experts: Experts | None = None
    routes: Tensor | None = None
    entropy: float = 0.0

    @property
    def batch(self) -> PackedBatch:
        """What the model reads."""
        return self.actions.batch


class GrpoStep(Step):
    """A step of `method: grpo`, as `training.loop.Hooks.step`."""

    def __call__(self, run: Run) -> dict[str, Any]:
        """Sample groups, reward them, and make the optimizer's updates. Returns the line of metrics.jsonl."""
        clock, learner = Clock(), self.learner(run)
        rewarded = learner.rewarded()
        batches = _batches(learner, rewarded)
        policy = Policy(learner.section, learner.ids, learner.sampler.flow, run.model)
        totals = _totals(run, batches)

        def backward(batch: _Batch, last: bool) -> Measures:
            return _backward(learner, policy, batch, totals, last)

        made = make_updates(run, learner.section, batches, backward)
        numbers = dict(rewarded.sums)
        if learner.section.experts:
            numbers["step", "routing_entropy"] = sum(each.entropy * each.share for each in batches)
        learned = {name: weight for name, weight in totals.items() if weight}
        for name in learned:
            numbers |= _summed(made.measures, name)
        line, sums = close_step(run, clock, made.spent, numbers)
        return line | _logged(sums, learned) | made.line


def _batches(learner: Learner, rewarded: RewardedSamples) -> list[_Batch]:
    """The batches of a step, as many on every process, on its device."""
    run, section, flow = learner.run, learner.section, learner.sampler.flow
    gains = advantages(rewarded.rewards, section.divide)
    chosen: list[TrainedSample] = []
    for group, sample in rewarded.rewards.isfinite().nonzero().tolist():
        rollout = rewarded.groups[group].rollouts[sample]
        chosen.append(TrainedSample(rollout, gains[group, sample].item(), rollout.steps))
    times = flow.times(section.num_inference_steps) if flow else None
    weighing = ActionBuilder(run.model, times, per_answer=section.average == "answer")
    rows, slots = learner.shape
    made = learner.as_many_everywhere(weighing.batches(chosen, rows, slots), lambda: weighing.empty(slots))
    share = 1 / (len(made) * run.world.size)
    return [_Batch(actions.to(run.world.device), share) for actions in made]


def _totals(run: Run, batches: Sequence[_Batch]) -> dict[str, float]:
    """The weights of all choices on all processes, by modality."""
    text = sum(float(each.actions.token_weight.sum()) for each in batches)
    image = sum(float(each.actions.weight.sum()) for each in batches)
    return dict(zip(("text", "image"), run.world.sum([text, image])))


def _summed(measures: Sequence[Measures], modality: str) -> Sums:
    """Sums of what was measured of a modality over the batches of this process."""
    return {(what, modality): float(sum(each[modality][what] for each in measures)) for what in MEASURES}


def _logged(sums: Sums, totals: Mapping[str, float]) -> dict[str, Any]:
    """Part of the line of metrics.jsonl, of sums over all processes. totals: the weight of each modality."""
    line: dict[str, Any] = {}
    for what in MEASURES:
        line[what] = {modality: sums[what, modality] / total for modality, total in totals.items()}
    line["losses"] = line.pop("loss")
    line |= rewards_of(sums, means_of(sums))
    if ("step", "routing_entropy") in sums:
        line["routing_entropy"] = sums["step", "routing_entropy"]
    return line


def _backward(learner: Learner, policy: Policy, batch: _Batch, totals: Mapping[str, float], last: bool) -> Measures:
    """Forward and backward of one batch; what `Policy.loss` measured. In the first update of a step the old policy is
    the one that learns, so that its ratio is exactly 1."""
    run, actions = learner.run, batch.actions
    recording = record_routes(run.model) if learner.section.experts else nullcontext(Routes())
    with parallel.accumulating(run.network, last):
        with autocast(run), recording as routes:
            output = run.network(actions.batch)
        if batch.reference is None and learner.section.penalty:
            batch.reference = _by_reference(learner, policy, actions)
        now = policy.evaluate(actions, output)
        if batch.old is None:
            batch.old = now.detached()
        found = policy.loss(actions, now, batch.old, batch.reference)
        if routes.scores:
            _add_routes(learner, policy, batch, routes, found)
        loss = sum(each["loss"] / max(totals[name], 1e-12) for name, each in found.items())
        (loss + zero_of_unused(output) + batch.share * run.model.backbone.auxiliary_loss()).backward()
    return detach_measures(found)


@torch.no_grad()
def _by_reference(learner: Learner, policy: Policy, actions: Actions) -> PolicyOutput:
    """How likely the reference finds the choices of a batch."""
    with autocast(learner.run):
        output = learner.reference(actions.batch)
    return policy.evaluate(actions, output).detached()


def _add_routes(learner: Learner, policy: Policy, batch: _Batch, routes: Routes, found: Measures) -> None:
    """Add the loss of the experts that were chosen to that of each modality, and note the entropy of the choice."""
    routing = learner.run.model.backbone.plan(batch.actions.batch.layout, None).routing
    if batch.experts is None:
        batch.experts = routes.experts()
    log_probs = routing.unsort(routes.log_probs(batch.experts))
    if batch.routes is None:
        batch.routes = log_probs.detach()
    for name, loss in policy.route_loss(batch.actions, log_probs - batch.routes).items():
        found[name]["loss"] = found[name]["loss"] + learner.section.experts * loss
    batch.entropy = routes.entropy()
