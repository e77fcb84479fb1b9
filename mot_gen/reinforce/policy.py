"""The loss of a batch of choices: Policy; PolicyOutput, how likely a model finds them; Measures of a batch.

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
from mot_gen.reinforce.grpo import clipped_loss, k3, token_log_probs, was_clipped
from mot_gen.reinforce.unigrpo import velocity_penalty

MEASURES = ("loss", "penalty", "clipped")
Measures = dict[str, dict[str, Tensor]]  # modality -> each of MEASURES -> its sum over the choices, weighted


@dataclass
class PolicyOutput:
    """How likely a model finds the choices of a batch.

    tokens, steps: (M,) and (N,), log-probabilities of tokens and of the sampler's steps.
    mean, std: (N, C) and (N, 1), of the Gaussians from which the sampler draws.
    velocity: (N, C).
    """

    tokens: Tensor
    steps: Tensor
    mean: Tensor
    std: Tensor
    velocity: Tensor

    def detached(self) -> PolicyOutput:
        """The same without gradients."""
        return PolicyOutput(*(value.detach() for value in vars(self).values()))


@dataclass(frozen=True)
class _Choices:
    """The choices of one modality.

    log_ratio: how much likelier each became. advantage: how much better its sample was. weight: how much it counts.
    """

    log_ratio: Tensor
    advantage: Tensor
    weight: Tensor


class Policy:
    """Evaluates choices and computes their loss. flow: the sampler of continuous pictures; None where there are
    none."""

    def __init__(self, section: Reinforce, ids: Ids, flow: StochasticFlow | None, model: MultimodalModel):
        self.section, self.ids, self.flow = section, ids, flow
        self.objective: Any = model.objectives.get("image")

    def evaluate(self, actions: Actions, output: Output) -> PolicyOutput:
        """How likely the choices of a batch are, by the output of a model."""
        logits, batch = output.logits, actions.batch
        tokens = token_log_probs(logits, batch.target_ids, self.ids[actions.allowed], self.section.temperature)
        if self.flow is None:
            none = logits.new_zeros(0)
            return PolicyOutput(tokens, none, none[:, None], none[:, None], none[:, None])
        return PolicyOutput(tokens, *self._of_steps(self.flow, actions, output.latents["image"].float()))

    def _of_steps(self, flow: StochasticFlow, actions: Actions, output: Tensor) -> tuple[Tensor, ...]:
        latents, times = actions.batch.latents["image"], flow.times(self.section.num_inference_steps).to(output)
        number = actions.number
        time, after = times[number, None], times[number + 1, None]
        velocity = self.objective.scheduler_output(output, latents.values, time)
        mean, std = flow.step_of(latents.values, velocity, time, after, times[1])
        std = torch.where(actions.weight[:, None] > 0, std, 1.0)  # what was no choice may have no deviation
        return log_prob(actions.after, mean, std), mean, std, velocity

    def loss(self, actions: Actions, now: PolicyOutput, old: PolicyOutput, reference: PolicyOutput | None) -> Measures:
        """The `loss` to be minimised with its penalty, the `penalty` alone, and the share that was `clipped_loss`."""
        choices = {"text": _Choices(now.tokens - old.tokens, actions.token_advantage, actions.token_weight)}
        penalties = {}
        if reference is not None:
            penalties["text"] = k3(now.tokens, reference.tokens)
        if self.flow is not None:
            choices["image"] = _Choices(now.steps - old.steps, actions.advantage, actions.weight)
            if reference is not None:
                penalties["image"] = self._penalty_of_steps(now, reference)
        return {name: self._measured(own, penalties.get(name)) for name, own in choices.items()}

    def _measured(self, choices: _Choices, penalty: Tensor | None) -> dict[str, Tensor]:
        """Each of MEASURES."""
        loss = clipped_loss(choices.log_ratio, choices.advantage, *self._limits)
        if penalty is None:
            penalty = torch.zeros_like(loss)
        beyond = was_clipped(choices.log_ratio, choices.advantage, *self._limits)
        terms = (loss + self.section.penalty * penalty, penalty, beyond)
        return {what: (choices.weight * term).sum() for what, term in zip(MEASURES, terms)}

    def route_loss(self, actions: Actions, log_ratio: Tensor) -> dict[str, Tensor]:
        """Sums over the choices, weighted, of the clipped loss of the experts that they went through (MoE-GRPO).
        log_ratio: (B * S,) of the routes, by slot."""
        batch = actions.batch
        of_tokens = clipped_loss(log_ratio[batch.target_slots], actions.token_advantage, *self._limits)
        found = {"text": (actions.token_weight * of_tokens).sum()}
        if self.flow is not None:
            of_steps = clipped_loss(log_ratio[batch.latents["image"].slots], actions.advantage, *self._limits)
            found["image"] = (actions.weight * of_steps).sum()
        return found

    @property
    def _limits(self) -> tuple[float, float | None]:
        return self.section.clip, self.section.clip_high

    def _penalty_of_steps(self, now: PolicyOutput, reference: PolicyOutput) -> Tensor:
        if self.section.velocity_penalty:
            return velocity_penalty(now.velocity, reference.velocity)
        return gaussian_kl(now.mean, reference.mean, now.std)


def detach_measures(measures: Measures) -> Measures:
    """The same without gradients."""
    return {name: {what: value.detach() for what, value in own.items()} for name, own in measures.items()}


def zero_of_unused(output: Output) -> Tensor:
    """0, by way of every output that the loss may not touch, so that all processes have all gradients."""
    parts = [output.logits.sum(), *(values.sum() for values in output.latents.values())]
    return 0.0 * torch.stack(parts).sum()
