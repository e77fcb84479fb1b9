"""One step of learning from preferences: DpoStep. Pairs of a file, or of the model's own samples, judged.

Shapes: M targets of a batch, N continuous tokens of it, D documents, the two of a pair one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel, Output
from mot_gen.packing import document_length, pack_rows, plan_rows
from mot_gen.reinforce.documents import NEVER, choices
from mot_gen.reinforce.dpo import diffusion_margin, preference_loss, token_margin
from mot_gen.reinforce.grpo import token_log_probs
from mot_gen.reinforce.learner import Learner
from mot_gen.reinforce.policy import unused
from mot_gen.reinforce.preferences import Preference, Record, judged, read_preferences, tokenised
from mot_gen.reinforce.rewards import Samples
from mot_gen.sequence import PADDING, Latents, PackedBatch, Span
from mot_gen.training import parallel
from mot_gen.training.loop import Clock, autocast, average, close_step
from mot_gen.training.runs import Run


@dataclass
class _Side:
    """One answer as a document. allowed: the set of ids of each target. time, target: of a noised picture."""

    spans: list[Span]
    allowed: list[int]
    time: float = 0.0
    target: Tensor | None = None


@dataclass
class Compared:
    """A batch of pairs. allowed, of_target: (M,) the set of ids of each target, and its document; target, of_token:
    (N, C) what the network should say of each noised token, and its document. pairs: their number."""

    batch: PackedBatch
    allowed: Tensor
    of_target: Tensor
    target: Tensor
    of_token: Tensor
    pairs: int


class DpoStep:
    """A step of `method: dpo`, as `training.loop.Hooks.step`."""

    def __init__(self):
        self._learner: Learner | None = None
        self._records: list[Record] = []

    def __call__(self, run: Run) -> dict:
        """Take or make pairs, and make the optimizer's updates. Returns the line of metrics.jsonl."""
        clock, learner = Clock(), self._of(run)
        pairs, logged = self._pairs(learner)
        batches = self._batches(learner, pairs)
        (total,) = run.world.sum([sum(batch.pairs for batch in batches)])
        references: list[Tensor | None] = [None] * len(batches)
        for _ in range(learner.section.updates):
            measures = []
            for place, batch in enumerate(batches):
                last = place == len(batches) - 1
                references[place], found = _backward(learner, batch, references[place], total, last)
                measures.append(found)
            rate, norm = run.optimizer.step(run.step)
        average(run)
        return {**self._line(run, clock, batches, measures, total, logged), "lr": rate, "grad_norm": norm}

    def _of(self, run: Run) -> Learner:
        if self._learner is None:
            self._learner = Learner(run)
            if len(self._learner.section.writes) > 1:
                raise InputError("reinforce.writes: dpo compares texts, or pictures; name one of them")
            if self._learner.section.preferences:
                self._records = read_preferences(self._learner.section.preferences, self._pictures(self._learner))
        return self._learner

    @staticmethod
    def _pictures(learner: Learner) -> bool:
        return learner.section.writes == ["image"]

    def _pairs(self, learner: Learner) -> tuple[list[Preference], dict[str, Tensor]]:
        """This process's pairs of the step, and the scores of the samples that they are made of."""
        run, section = learner.run, learner.section
        if self._records:
            own = range(run.world.rank, section.prompts, run.world.size)
            numbers = [run.step * section.prompts + number for number in own]
            records = [self._records[number % len(self._records)] for number in numbers]
            return tokenised(learner.pipeline(), records, self._pictures(learner), numbers[0]), {}
        groups = learner.groups()
        total, scores = learner.rewards(Samples.of([rollout for group in groups for rollout in group.rollouts]))
        pairs: list[Preference] = []
        for group, rewards in zip(groups, total.view(len(groups), -1)):
            pairs += judged(group.rollouts, rewards, section.least_gap, group.numbers[0])
        return pairs, {"reward": total, **scores}

    def _batches(self, learner: Learner, pairs: Sequence[Preference]) -> list[Compared]:
        """As many on every process, on its device."""
        run = learner.run
        sides = [each for pair in pairs for each in _sides(learner, pair)]
        rows, slots = learner.shape
        modalities = run.model.modalities
        longest = max((document_length(one.spans, modalities) for both in sides for one in both), default=1)
        size = max(1, rows * max(1, slots // longest) // 2)  # pairs of a batch
        made = [_compared(run.model, sides[start : start + size], slots) for start in range(0, len(sides), size)]
        (most,) = run.world.max([len(made)])
        made += [_compared(run.model, [], slots)] * (max(1, int(most)) - len(made))
        return [_to(batch, run.world.device) for batch in made]

    def _line(self, run, clock, batches, measures, total, logged) -> dict:
        tokens = sum(int((b.batch.layout.document != PADDING).sum()) for b in batches)
        flops = sum(3 * forward_flops(run.model, b.batch) for b in batches)
        slots = sum(b.batch.ids.numel() for b in batches)
        names = list(measures[0])
        sums = [float(sum(found[name] for found in measures)) for name in names]
        for values in logged.values():
            sums += [float(values.nansum()), float(values.isfinite().sum())]
        line, sums = close_step(run, clock, [tokens, flops, slots], sums)
        found = iter(sums)
        means = {name: next(found) / max(total, 1) for name in names}
        line["losses"] = {run.recipe.reinforce.writes[0]: means.pop("loss")}
        scores = {name: next(found) / max(next(found), 1) for name in logged}
        if scores:
            line["reward"] = scores.pop("reward")
            line["rewards"] = scores
        return line | means | {"pairs": int(total)}


def _sides(learner: Learner, pair: Preference) -> Iterator[tuple[_Side, _Side]]:
    """The two documents of a pair, as often as it is compared: pictures that are denoised at several times."""
    model, prompt = learner.run.model, [replace(span, learned=False) for span in pair.prompt.spans]
    answers = [[replace(span, learned=True) for span in side] for side in (pair.chosen, pair.rejected)]
    modality = model.modalities[model.index_of[answers[0][-1].modality]]
    if modality.discrete:
        one, other = (_Side([*prompt, *answer], list(choices(model, answer, ended=True))) for answer in answers)
        yield one, other
        return
    objective = model.objectives[modality.name]
    for draw in range(learner.section.draws):
        generator = learner.generator("noise", pair.number * learner.section.draws + draw)
        time = objective.sample_time(_one_span(answers[0][-1]), generator)
        noise = generator.get_state()
        both = []
        for (picture,) in answers:
            generator.set_state(noise)  # the same noise for both
            noisy, target = objective.corrupt(picture.values, time.expand(len(picture)), generator)
            allowed = [NEVER] * len(list(choices(model, [picture], ended=False)))
            both.append(_Side([*prompt, replace(picture, values=noisy)], allowed, float(time), target))
        yield both[0], both[1]


def _one_span(span: Span) -> Latents:
    """A span by itself, learned, which nothing follows."""
    here = torch.zeros(len(span), dtype=torch.long)
    return Latents(span.values, here, here, torch.tensor([True]), torch.tensor([False]), [span.grid or (1, len(span))])


def _compared(model: MultimodalModel, pairs: Sequence[tuple[_Side, _Side]], slots: int) -> Compared:
    sides = [side for pair in pairs for side in pair]
    plan = plan_rows([document_length(side.spans, model.modalities) for side in sides], slots) or [[]]
    order = [place for row in plan for place in row]
    batch = pack_rows([[sides[place].spans for place in row] for row in plan], model.modalities, slots)
    allowed = [each for place in order for each in sides[place].allowed]
    of_target = [place for place in order for _ in sides[place].allowed]
    assert len(allowed) == len(batch.target_ids), "the packer writes other targets than were counted"
    for name, latents in batch.latents.items():
        times = [sides[p].time if s.learned else 0.0 for p in order for s in sides[p].spans if s.modality == name]
        batch.latents[name] = replace(latents, time=torch.tensor(times, dtype=torch.float32))
    target, of_token = _noised(batch, [sides[place] for place in order], order)
    return Compared(batch, torch.tensor(allowed).long(), torch.tensor(of_target).long(), target, of_token, len(pairs))


def _noised(batch: PackedBatch, sides: Sequence[_Side], order: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of each continuous token of the pictures: what the network should say, and its document, -1 where it is given."""
    latents = batch.latents.get("image")
    if latents is None:
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
    targets, of_token = [latents.values[:0]], [torch.zeros(0, dtype=torch.long)]
    for side, place in zip(sides, order):
        for span in side.spans:
            if span.modality == "image":
                noised = span.learned and side.target is not None
                targets.append(side.target if noised and side.target is not None else span.values)
                of_token.append(torch.full((len(span),), place if noised else -1))
    return torch.cat(targets), torch.cat(of_token)


def _scores(learner: Learner, compared: Compared, output: Output) -> Tensor:
    """(D,) of each document: the log-probability of its answer; or minus the error of denoising its picture."""
    batch, documents = compared.batch, 2 * compared.pairs
    chosen = compared.allowed != NEVER
    tokens = token_log_probs(output.logits, batch.target_ids, learner.ids[compared.allowed])
    total = tokens.new_zeros(documents).index_add(0, compared.of_target, torch.where(chosen, tokens, 0.0))
    latents = batch.latents.get("image")
    if latents is None or latents.time is None or learner.section.writes != ["image"]:
        return total
    objective: Any = learner.run.model.objectives["image"]
    error = objective.loss(output.latents["image"], compared.target, latents.per_token(latents.time))
    own = compared.of_token >= 0
    counts = torch.bincount(compared.of_token[own], minlength=documents).clamp_min(1)
    errors = total.new_zeros(documents).index_add(0, compared.of_token[own], error[own])
    return total - errors / counts


def _backward(
    learner: Learner, compared: Compared, reference: Tensor | None, total: float, last: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward of one batch; what the reference says of it; and sums over its pairs."""
    run, section = learner.run, learner.section
    with parallel.accumulating(run.network, last):
        with autocast(run):
            output = run.network(compared.batch)
            if reference is None:
                with torch.no_grad():
                    reference = _scores(learner, compared, learner.reference(compared.batch))
            now = _scores(learner, compared, output)
        won, lost, won_before, lost_before = now[0::2], now[1::2], reference[0::2], reference[1::2]
        if run.model.modalities[run.model.index_of[section.writes[0]]].discrete:
            margin = token_margin(won, lost, won_before, lost_before, section.beta)
        else:
            margin = diffusion_margin(-won, -lost, -won_before, -lost_before, section.image_beta)
        each = preference_loss(margin)
        (each.sum() / max(total, 1.0) + unused(output)).backward()
    gained = won.detach() - won_before
    right, margin = (margin > 0).float(), margin.detach()
    measures = {"loss": each.detach(), "margin": margin, "chosen_gain": gained, "preferred": right}
    return reference, {name: value.sum() for name, value in measures.items()}


def _to(compared: Compared, device: torch.device) -> Compared:
    values = [value.to(device) if hasattr(value, "to") else value for value in vars(compared).values()]
    return Compared(*values)
