"""The loss of a batch of choices: Policy, with what the sampler and the reference said of it.

Shapes: M targets of a batch, N continuous tokens of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel, Output
from mot_gen.recipes.sections import Reinforce
from mot_gen.reinforce.actions import Actions
from mot_gen.reinforce.documents import Ids
from mot_gen.reinforce.flow_grpo import StochasticFlow, gaussian_kl, log_prob
from mot_gen.reinforce.grpo import clipped, k3, token_log_probs, was_clipped
from mot_gen.reinforce.unigrpo import velocity_penalty

MEASURES = ("loss", "penalty", "clipped")


@dataclass
class Said:
    """What a model says of the choices of a batch: tokens (M,) and steps (N,) log-probabilities; of the sampler's
    Gaussians the mean (N, C), and the deviation (N, 1); and the velocity (N, C)."""

    tokens: Tensor
    steps: Tensor
    mean: Tensor
    std: Tensor
    velocity: Tensor

    def detached(self) -> Said:
        """The same without gradients."""
        return Said(*(value.detach() for value in vars(self).values()))


class Policy:
    """How likely choices are, and what is lost. flow: how continuous pictures are sampled, if any are. times: of its
    steps."""

    def __init__(self, section: Reinforce, ids: Ids, flow: StochasticFlow | None, model: MultimodalModel):
        self.section, self.ids, self.flow = section, ids, flow
        self.times = flow.times(section.num_inference_steps) if flow else torch.zeros(2)
        self.objective: Any = model.objectives.get("image")

    def says(self, actions: Actions, output: Output) -> Said:
        """What the output of a model means for the choices of a batch."""
        logits, batch = output.logits, actions.batch
        tokens = token_log_probs(logits, batch.target_ids, self.ids[actions.allowed], self.section.temperature)
        if self.flow is None:
            none = logits.new_zeros(0)
            return Said(tokens, none, none[:, None], none[:, None], none[:, None])
        return Said(tokens, *self._of_steps(self.flow, actions, output.latents["image"].float()))

    def _of_steps(self, flow: StochasticFlow, actions: Actions, output: Tensor) -> tuple[Tensor, ...]:
        latents, times = actions.batch.latents["image"], self.times.to(output)
        number = actions.number
        time, after = times[number, None], times[number + 1, None]
        velocity = self.objective.scheduler_output(output, latents.values, time)
        mean, std = flow.step_of(latents.values, velocity, time, after, times[1])
        std = torch.where(actions.weight[:, None] > 0, std, 1.0)  # what was no choice may have no deviation
        return log_prob(actions.after, mean, std), mean, std, velocity

    def loss(self, actions: Actions, now: Said, old: Said, reference: Said | None) -> dict[str, dict[str, Tensor]]:
        """Sums over the choices, weighted: of text and image each the `loss` to be minimised with its penalty, and of
        those the `penalty` and the share that was `clipped`."""
        ratio = {"text": now.tokens - old.tokens, "image": now.steps - old.steps}
        advantage = {"text": actions.token_advantage, "image": actions.advantage}
        weight = {"text": actions.token_weight, "image": actions.weight}
        found = {}
        for name in ("text", "image"):
            if name == "image" and self.flow is None:
                continue
            limits = (self.section.clip, self.section.clip_high)
            each = clipped(ratio[name], advantage[name], *limits)
            penalty = self._penalty(name, now, reference) if reference else torch.zeros_like(each)
            terms = (each + self.section.penalty * penalty, penalty, was_clipped(ratio[name], advantage[name], *limits))
            found[name] = {what: (weight[name] * term).sum() for what, term in zip(MEASURES, terms)}
        return found

    def route_loss(self, actions: Actions, log_ratio: Tensor) -> dict[str, Tensor]:
        """Sums over the choices, weighted, of the clipped loss of the experts that they went through (MoE-GRPO).
        log_ratio: (B * S,) of the routes, by slot."""
        limits = (self.section.clip, self.section.clip_high)
        batch = actions.batch
        of_tokens = clipped(log_ratio[batch.target_slots], actions.token_advantage, *limits)
        found = {"text": (actions.token_weight * of_tokens).sum()}
        if self.flow is not None:
            of_steps = clipped(log_ratio[batch.latents["image"].slots], actions.advantage, *limits)
            found["image"] = (actions.weight * of_steps).sum()
        return found

    def _penalty(self, name: str, now: Said, reference: Said) -> Tensor:
        if name == "text":
            return k3(now.tokens, reference.tokens)
        if self.section.velocity_penalty:
            return velocity_penalty(now.velocity, reference.velocity)
        return gaussian_kl(now.mean, reference.mean, now.std)


def unused(output: Output) -> Tensor:
    """0, by way of every output that the loss may not touch, so that all processes have all gradients."""
    parts = [output.logits.sum(), *(values.sum() for values in output.latents.values())]
    return 0.0 * torch.stack(parts).sum()
