"""One step of learning from rewards: GrpoStep. Sample, reward, compare, learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.reinforce.advantages import advantages, equal_groups
from mot_gen.reinforce.documents import Actions, Documents, Weighing
from mot_gen.reinforce.learner import Group, Learner
from mot_gen.reinforce.moe_grpo import Routes, recorded
from mot_gen.reinforce.policy import MEASURES, Policy, Said, unused
from mot_gen.reinforce.rewards import Samples
from mot_gen.sequence import PADDING
from mot_gen.training import parallel
from mot_gen.training.loop import Clock, autocast, average, close_step
from mot_gen.training.runs import Run


@dataclass
class _Batch:
    """A batch of choices with what was said of it before the first update of the step.

    routes: the experts that its tokens took, and the log-probability (B * S,) that they did. share: of the step.
    entropy: of its routers' scores.
    """

    actions: Actions
    old: Said | None = None
    reference: Said | None = None
    routes: tuple[list, Tensor] | None = None
    share: float = 1.0
    entropy: float = 0.0


class GrpoStep:
    """A step of `method: grpo`, as `training.loop.Hooks.step`."""

    def __init__(self):
        self._learner: Learner | None = None

    def __call__(self, run: Run) -> dict:
        """Sample groups, reward them, and make the optimizer's updates. Returns the line of metrics.jsonl."""
        clock, learner = Clock(), self._of(run)
        groups = learner.groups()
        rewards, scores = self._rewarded(learner, groups)
        made = self._batches(learner, groups, rewards)
        batches = [_Batch(actions, share=1 / (len(made) * run.world.size)) for actions in made]
        policy = Policy(learner.section, learner.ids, learner.sampler.flow, run.model)
        totals = _totals(run, batches)
        for _ in range(learner.section.updates):
            measures = [_backward(learner, policy, each, totals, each is batches[-1]) for each in batches]
            rate, norm = run.optimizer.step(run.step)
        average(run)
        return {**self._line(run, clock, batches, measures, totals, rewards, scores), "lr": rate, "grad_norm": norm}

    def _of(self, run: Run) -> Learner:
        if self._learner is None:
            self._learner = Learner(run)
        return self._learner

    def _rewarded(self, learner: Learner, groups: Sequence[Group]) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards (P, G) of this process's groups, and all scores by name."""
        samples = Samples.of([rollout for group in groups for rollout in group.rollouts])
        total, scores = learner.rewards(samples)
        return total.view(len(groups), -1), scores

    def _batches(self, learner: Learner, groups: Sequence[Group], rewards: Tensor) -> list[Actions]:
        """As many on every process, on its device."""
        run, section, flow = learner.run, learner.section, learner.sampler.flow
        gains = advantages(rewards, section.divide)
        rollouts, weighed = [], []
        for group, row, gained in zip(groups, rewards.tolist(), gains.tolist()):
            for rollout, number, reward, gain in zip(group.rollouts, group.numbers, row, gained):
                if math.isfinite(reward):
                    rollouts.append(rollout)
                    weighed.append(Weighing(gain, _learned_steps(learner, number)))
        times = flow.times(section.num_inference_steps) if flow else None
        documents = Documents(run.model, times, section.average == "answer", learner.shape)
        made = documents.batches(rollouts, weighed)
        (most,) = run.world.max([len(made)])
        made += [documents.empty()] * (int(most) - len(made))
        return [_to(actions, run.world.device) for actions in made]

    def _line(self, run, clock, batches, measures, totals, rewards, scores) -> dict:
        tokens = sum(int((b.actions.batch.layout.document != PADDING).sum()) for b in batches)
        flops = sum(3 * forward_flops(run.model, b.actions.batch) for b in batches)
        slots = sum(b.actions.batch.ids.numel() for b in batches)
        learned = [name for name in ("text", "image") if totals[name]]
        sums = [float(sum(found[name][what] for found in measures)) for name in learned for what in MEASURES]
        known = rewards.isfinite()
        sums += [float(rewards[known].sum()), float(known.sum()), equal_groups(rewards)]
        sums += [sum(batch.entropy * batch.share for batch in batches)]
        for values in scores.values():
            sums += [float(values.nansum()), float(values.isfinite().sum())]
        line, sums = close_step(run, clock, [tokens, flops, slots], sums)
        found = iter(sums)
        shares = {name: {what: next(found) / totals[name] for what in MEASURES} for name in learned}
        reward, count, equal, entropy = (next(found) for _ in range(4))
        line["losses"] = {name: each["loss"] for name, each in shares.items()}
        line["reward"] = reward / max(count, 1)
        line["rewards"] = {name: next(found) / max(next(found), 1) for name in scores}
        line["penalty"] = {name: each["penalty"] for name, each in shares.items()}
        line["clipped"] = {name: each["clipped"] for name, each in shares.items()}
        if run.recipe.reinforce.experts:
            line["routing_entropy"] = entropy
        return line | {"equal_groups": int(equal), "without_reward": rewards.numel() * run.world.size - int(count)}


def _learned_steps(learner: Learner, number: int) -> list[int]:
    """The steps of a sample's picture that are learned from; those without noise chose nothing."""
    section, flow = learner.section, learner.sampler.flow
    if flow is None:
        return []
    noisy = section.num_inference_steps - (flow.kind == "cps")
    count = min(section.learned_steps or noisy, noisy)
    return sorted(torch.randperm(noisy, generator=learner.generator("steps", number))[:count].tolist())


def _totals(run: Run, batches: Sequence[_Batch]) -> dict[str, float]:
    """The weights of all choices on all processes, by modality."""
    mine = [sum(float(getattr(b.actions, name).sum()) for b in batches) for name in ("token_weight", "weight")]
    return dict(zip(("text", "image"), run.world.sum(mine)))


def _backward(learner: Learner, policy: Policy, batch: _Batch, totals: dict[str, float], last: bool) -> dict:
    """Forward and backward of one batch; what `Policy.loss` measured. In the first update of a step the old policy is
    the one that learns, so that its ratio is exactly 1."""
    run, actions = learner.run, batch.actions
    with parallel.accumulating(run.network, last):
        with autocast(run):
            with recorded(run.model) if learner.section.experts else nullcontext(Routes()) as routes:
                output = run.network(actions.batch)
            if batch.reference is None and learner.section.penalty:
                with torch.no_grad():
                    batch.reference = policy.says(actions, learner.reference(actions.batch)).detached()
        now = policy.says(actions, output)
        if batch.old is None:
            batch.old = now.detached()
        found = policy.loss(actions, now, batch.old, batch.reference)
        if routes.scores:
            _add_routes(learner, policy, batch, routes, found)
        loss = sum(each["loss"] / max(totals[name], 1e-12) for name, each in found.items())
        (loss + unused(output) + batch.share * run.model.backbone.auxiliary_loss()).backward()
    return {name: {what: value.detach() for what, value in each.items()} for name, each in found.items()}


def _add_routes(learner: Learner, policy: Policy, batch: _Batch, routes: Routes, found: dict) -> None:
    """Add the loss of the experts that were chosen to that of each modality, and the entropy of the choice."""
    layout = batch.actions.batch.layout
    routing = learner.run.model.backbone.plan(layout, None).routing
    experts = batch.routes[0] if batch.routes else routes.experts()
    log_probs = routing.unsort(routes.log_probs(experts))
    if batch.routes is None:
        batch.routes = experts, log_probs.detach()
    for name, loss in policy.route_loss(batch.actions, log_probs - batch.routes[1]).items():
        found[name]["loss"] = found[name]["loss"] + learner.section.experts * loss
    batch.entropy = routes.entropy()


def _to(actions: Actions, device: torch.device) -> Actions:
    return Actions(*(value.to(device) for value in vars(actions).values()))
