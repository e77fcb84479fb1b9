"""How a span of masked tokens is drawn, a few passes for all of them: reveal, draw_masked, OpenTokens.

All tokens begin as masks. Each pass says what may stand in every place; the surest are kept, and the others are masked
again (MaskGIT, Chang et al. 2022, arXiv 2202.04200). The last pass keeps all.

Shapes: N samples, n tokens of a span, K ids of the modality, R rows of the stream (the branches of N samples).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mot_gen.objectives.masked import Objective
from mot_gen.pipelines.engine.decoding import TextSampling, choose_each, uniform_rows
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.open_span import OpenSpan
from mot_gen.pipelines.engine.token_spans import MASKED, Pass
from mot_gen.sequence.moving import upload


class OpenTokens(OpenSpan):
    """A span of masked tokens being drawn in the rows of a stream. Its slots are overwritten until `close`, which takes
    the ids that it ended with and lets the cache keep them, unmasked."""

    def __call__(self, ids: Tensor) -> Tensor:  # type: ignore[override]  # ids and no time: tokens are not noised
        """ids (r, n) of the first r rows, MASKED where hidden -> logits (r, n, K) of the modality's own ids."""
        return self._pass(ids)[0]

    def _pass(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (r, n, K), and the hidden states (r, n, D)."""
        model = self.stream.model
        name = self.modality.name
        first, end = model.vocabulary.range(name)
        joint = torch.where(ids == MASKED, model.vocabulary.mask[name], ids + first)
        plan, cache, _ = self._plan(len(ids))
        hidden = model.backbone(model.embed_ids(joint), plan, cache)
        return model.logits(hidden)[..., first:end], hidden


def draw_masked(
    span: OpenTokens,
    drawing: Drawing,
    sampling: TextSampling,
    known: Tensor | None = None,
    on_pass: Callable[[Pass], None] | None = None,
) -> Tensor:
    """Draw an open span in `drawing.num_inference_steps` passes, or one for each token if that is less: ids (N, n).

    sampling: temperature, top_k and top_p of the tokens. known: (N, n) ids that are given, MASKED where not.
    Guidance bears on the logits. All spans are of one size.
    """
    guidance = drawing.guidance
    branches = len(guidance.branches)
    samples, n = span.stream.rows // branches, span.sizes[0]
    objective = span.stream.model.objectives[span.modality.name]
    if known is None:
        known = torch.full((samples, n), MASKED)

    def predict(ids: Tensor) -> Tensor:
        return guidance.combine(span(ids.repeat(branches, 1)).float())

    steps, generators = drawing.num_inference_steps, drawing.generators
    begun = upload(known, span.stream.device)
    ids, _ = reveal(predict, begun, objective, steps, sampling, generators, on_pass, drawing.stopped)
    return ids


def reveal(
    predict: Callable[[Tensor], Tensor],
    ids: Tensor,
    objective: Objective,
    steps: int,
    sampling: TextSampling,
    generators: Sequence[torch.Generator] | None = None,
    on_pass: Callable[[Pass], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Tensor]:
    """ids (N, n), MASKED where unknown -> all ids (N, n), and (N,) the log-probability of those that were revealed.

    predict: ids (N, n) -> logits (N, n, K). After pass s of T the masked share is the objective's m(1 - s / T), rounded
    down, and every pass reveals a token at least. With as many passes as tokens every pass reveals one, given all that
    were revealed before, so that the sum of their log-probabilities is the chain rule's. stopped: asked before every
    pass; if it is true, that pass is the last and reveals all.
    """
    unknown = (ids == MASKED).sum(1)
    most = max(1, int(unknown.max()))
    one_by_one, steps = steps >= most, min(steps, most)
    total = torch.zeros(len(ids), device=ids.device)
    for number in range(1, steps + 1):
        logits = predict(ids)
        drawn = choose_each(logits, sampling, generators)
        log_p = logits.float().log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        hidden = ids == MASKED
        time = 1 - number / steps
        left = (hidden.sum(1) - 1).clamp_min(0)  # that stay masked
        if not one_by_one:
            share = float(objective.masked_share(torch.tensor(time)))
            left = torch.minimum(left, torch.floor(share * unknown + 1e-6).long())
        rank = _rank(log_p, hidden, objective, time, generators)
        ends = stopped()
        shown = hidden if ends else hidden & (rank < (hidden.sum(1) - left)[:, None])
        ids = torch.where(shown, drawn, ids)
        total = total + torch.where(shown, log_p, 0.0).sum(1)
        if on_pass is not None:
            on_pass(Pass(number - 1, ids.detach))
        if ends:
            break
    return ids, total


def _rank(log_p: Tensor, hidden: Tensor, objective: Objective, time: float, generators) -> Tensor:
    """(N, n) the place of each hidden token in the order of revealing, from 0; the others come after them.

    The confidence is the log-probability of the drawn token, and noise (Gumbel's) that falls to 0 with the last pass.
    """
    if objective.order == "position":
        score = -torch.arange(log_p.shape[1], device=log_p.device).expand_as(log_p).float()
    else:
        score = log_p
        if objective.choice_temperature * time > 0:
            uniform = _uniform(log_p, generators).clamp(1e-9, 1 - 1e-7)
            score = score - objective.choice_temperature * time * (-uniform.log()).log()
    score = score.masked_fill(~hidden, float("-inf"))
    order = score.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def _uniform(like: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """(N, n) uniform numbers, each row from its own generator."""
    if generators is None:
        return torch.rand_like(like)
    return uniform_rows(like.shape[1], generators).to(like)
