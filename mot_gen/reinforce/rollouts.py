"""Samples to be learned from: Rollout, Sampler.

They are written by the engine of the pipelines, without guidance, so that samples are those of the model alone.
Texts and discrete pictures are drawn at `reinforce.temperature` from all ids that may come. GRPO draws continuous
pictures by a `StochasticFlow`, whose steps are kept; the other methods draw them by `reinforce.solver`, or by the
model's own scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel
from mot_gen.objectives.flow import Objective as Flow
from mot_gen.objectives.straight_path import StraightPath
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.engine import Drawing, Grid, Rules, Stream, TextSampling, Writer
from mot_gen.recipes.sections import Reinforce
from mot_gen.reinforce.flow_grpo import FlowPath, StochasticFlow
from mot_gen.reinforce.prompts import Prompt
from mot_gen.sequence import Span, only_read

WRITABLE = ("text", "image")
ORDERS = (("text",), ("image",), ("text", "image"))  # in which they are written


BOUNDS = {"text": 2, "image": 3}  # special tokens that may stand around what is written


@dataclass(frozen=True)
class Rollout:
    """One sample.

    spans: what was written.
    ended: whether the model chose the end of its text; else the text was cut after the most tokens that are allowed.
    noisy, after: (T, n, C), x before and after each step of its continuous picture, or None.
    steps: those steps that were drawn at random, from which the model can learn.
    text, image: the spans decoded, a text and a picture (C, H, W) in [0, 1]; None where there is none.
    """

    prompt: Prompt
    spans: Sequence[Span]
    ended: bool
    noisy: Tensor | None = None
    after: Tensor | None = None
    steps: Sequence[int] = ()
    text: str | None = None
    image: Tensor | None = None

    @property
    def read(self) -> list[Span]:
        """What the model read, as spans that are not learned."""
        return only_read(self.prompt.spans)


class Sampler:
    """Writes what a recipe's section asks for. InputError where the model cannot, or its pictures are of a kind whose
    sampler has no likelihood."""

    def __init__(self, pipe: MultimodalPipeline, section: Reinforce):
        self.section, self.writes = section, tuple(section.writes)
        self.text = pipe.model.modality_names[0]
        self._check(pipe.model)
        self.grids: dict[str, Grid] = {}
        self.flow: StochasticFlow | None = None
        if "image" in self.writes:
            self.grids = {"image": next(iter(pipe.image_tokenizer.grids.values()))}
            objective = pipe.model.objectives["image"]
            if _is_flow(objective) and section.method == "grpo":
                self.flow = StochasticFlow(section.sampler, section.noise, objective.shift)
        self.solver = _solver(pipe.model, section.solver)

    def _check(self, model: MultimodalModel) -> None:
        """InputError where the model cannot write what is asked for, or the method cannot learn it."""
        writes = self.writes
        have = [name for name in model.modality_names if name in WRITABLE]
        unknown = [name for name in writes if name not in have]
        if unknown:
            raise InputError(
                f"reinforce.writes: {unknown[0]!r} cannot be sampled here; this model has {', '.join(have)}"
            )
        if writes not in ORDERS:
            raise InputError(f"reinforce.writes: {list(writes)} is none of [text], [image] and [text, image]")
        if self.section.method == "nft":
            self._check_denoised(model)
        if self.section.method == "grpo" and "image" in writes:
            self._check_likelihood(model)

    def _check_likelihood(self, model: MultimodalModel) -> None:
        """InputError for pictures that are drawn without a likelihood of each step."""
        modality = model.modality["image"]
        one_by_one = modality.discrete and not modality.bidirectional
        if not one_by_one and not _is_flow(model.objectives["image"]):
            raise InputError(
                f"objectives.image.kind: what {modality.objective} draws has no likelihood step by step; rewards need "
                "flow or next_token, and method dpo takes the others too"
            )

    def _check_denoised(self, model: MultimodalModel) -> None:
        """InputError for anything but pictures that are denoised."""
        written = model.modalities[model.index_of[self.writes[-1]]]
        if self.writes != ("image",) or written.discrete:
            raise InputError(
                "reinforce.method: nft learns continuous pictures alone; give writes=[image] and a model whose "
                "pictures are learned by flow or diffusion, or method=grpo"
            )

    @torch.no_grad()
    def __call__(
        self,
        pipe: MultimodalPipeline,
        prompts: Sequence[Prompt],
        generators: list[torch.Generator],
        steps: Sequence[Sequence[int]] | None = None,
    ) -> list[Rollout]:
        """A sample of each prompt, from its own generator, all in one batch. steps: of each one's continuous picture,
        those that are drawn at random; none of them where that is not given."""
        section = self.section
        steps = steps or [()] * len(prompts)
        path = self._path(steps)
        scheduler = path or self.solver or pipe.scheduler
        sampling = TextSampling(section.max_new_tokens, section.temperature)
        drawing = Drawing(scheduler, section.num_inference_steps, generators=generators, grids=dict(self.grids))
        room = self._room()
        read = [prompt.spans for prompt in prompts]
        pipe._check_context(read, room)
        opens = [self._opens(pipe.model)] * len(prompts)
        stream = Stream(pipe.model, read, room + self._picture_tokens, opens)
        written = Writer(stream, len(prompts), sampling, drawing, Rules(order=self.writes, room=room)).run()
        return self._collected(pipe, prompts, written, path, steps)

    @property
    def _picture_tokens(self) -> int:
        """Tokens of a picture, 0 where none is drawn."""
        return sum(rows * columns for rows, columns in self.grids.values())

    def _room(self) -> int:
        """Slots that a sample may take beyond its prompt."""
        lengths = {"text": self.section.max_new_tokens, "image": self._picture_tokens}
        return sum(lengths[name] + BOUNDS[name] for name in self.writes)

    def _opens(self, model: MultimodalModel) -> str | None:
        """The modality whose span a sample begins in; None for a text that no token opens."""
        first = self.writes[0]
        if first == self.text and not model.vocabulary.wraps:
            return None
        return first

    def _path(self, steps: Sequence[Sequence[int]]) -> FlowPath | None:
        if self.flow is None:
            return None
        drawn = torch.zeros(len(steps), self.section.num_inference_steps, dtype=torch.bool)
        for row, own in zip(drawn, steps):
            row[list(own)] = True
        return self.flow.begin(self.section.num_inference_steps, drawn)

    def _collected(
        self,
        pipe: MultimodalPipeline,
        prompts: Sequence[Prompt],
        written: list[list[Span]],
        path: FlowPath | None,
        steps: Sequence[Sequence[int]],
    ) -> list[Rollout]:
        """What was written, with the texts and pictures that it says."""
        rollouts = []
        for prompt, spans, drawn, image in zip(prompts, written, steps, _pictures(pipe, written)):
            texts = [span for span in spans if span.modality == self.text]
            text = None
            if self.text in self.writes:
                text = "".join(pipe.text_tokenizer.decode(span) for span in texts)
            rollouts.append(Rollout(prompt, spans, self._ended(texts), steps=drawn, text=text, image=image))
        if path is None or not path.noisy:
            return rollouts
        noisy, after = torch.stack(path.noisy, 1).cpu(), torch.stack(path.after, 1).cpu()
        return [replace(rollout, noisy=noisy[i], after=after[i]) for i, rollout in enumerate(rollouts)]

    def _ended(self, texts: Sequence[Span]) -> bool:
        """Whether the end of these texts was chosen, and not forced by the most tokens that are allowed."""
        return sum(map(len, texts)) < self.section.max_new_tokens


def _pictures(pipe: MultimodalPipeline, written: Sequence[Sequence[Span]]) -> list[Tensor | None]:
    """The picture of each sample, (C, H, W) in [0, 1], None where none was drawn; all are decoded in one batch."""
    drawn: dict[int, Span] = {}
    for number, spans in enumerate(written):
        for span in spans:
            if span.modality == "image":
                drawn[number] = span
    if not drawn:
        return [None] * len(written)
    images = pipe.image_tokenizer.decode_batch(list(drawn.values()))
    by_number = {number: image.cpu().float() for number, image in zip(drawn, images)}
    return [by_number.get(number) for number in range(len(written))]


def _solver(model: MultimodalModel, name: str | None) -> Any:
    """The scheduler of `reinforce.solver`; None where it names none. InputError where the pictures are no flow's."""
    if name is None:
        return None
    objective: Any = model.objectives["image"]
    if not isinstance(objective, Flow):
        kind = model.modality["image"].objective
        raise InputError(f"reinforce.solver: {name!r} draws what was learned by flow; leave it out for {kind}")
    return replace(objective, solver=name).scheduler()


def _is_flow(objective: Any) -> bool:
    """Whether an objective's network predicts a velocity at a time, and is not given the sampler's step."""
    return isinstance(objective, StraightPath) and not getattr(objective, "takes_step", False)
