"""How a discrete span of a given size is drawn token by token: draw_tokens, BegunSpan, Pass, MASKED.

Nothing is decided between two tokens but the tokens themselves, so the host does not wait for any of them: they stay on
the device, and are read once the span is full.

Shapes: N samples, n tokens of a span, K ids of the modality, V joint vocabulary; a stream of B * N rows, one block of N
for each branch of guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.pipelines.engine.decoding import TextSampling, draws, pick
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.open_span import Grid
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.sequence.frame import Frame
from mot_gen.sequence.moving import upload

MASKED = -1  # stands for what is not known among a modality's own ids


@dataclass(frozen=True)
class Pass:
    """One pass as it is shown: its number, and what makes the ids so far."""

    number: int
    make: Callable[[], Tensor]

    @property
    def ids(self) -> Tensor:
        """(N, n), MASKED where nothing is kept yet; of tokens that come one by one, (N, those so far)."""
        return self.make()


Process = Callable[[Tensor, Tensor], Tensor]  # (scores (N, V), the joint ids (N, k) of the span so far) -> scores


@dataclass(frozen=True)
class BegunSpan:
    """A span of a discrete modality whose begin token is the last that a stream holds: its n tokens stand in a grid.

    alive: (N,) the samples in which it is written; all by default.
    """

    stream: Stream
    modality: str
    grid: Grid
    alive: Sequence[bool] | None = None


def draw_tokens(
    begun: BegunSpan,
    drawing: Drawing,
    sampling: TextSampling,
    *,
    known: Tensor | None = None,
    keep: bool = True,
    process: Process | None = None,
    on_pass: Callable[[Pass], None] | None = None,
) -> Tensor:
    """Write the tokens of a span that has begun: ids of its modality (N, n). Where the modality has a frame, its tokens
    are written between them.

    Guidance bears on the logits, and all branches are given the same tokens. known: (N, n) ids that are given, MASKED
    where not. keep: whether something follows the span, so that its last tokens are read too. process: applied to the
    scores of the first branch. If `drawing.stopped` says so, the tokens that are missing have the id 0.
    """
    span, n, device = _Branches(begun, drawing.guidance), begun.grid[0] * begun.grid[1], begun.stream.device
    uniform = draws(n, span.samples, sampling, device, drawing.generators)
    given = None if known is None else upload(known, device)
    frame = _frame_tokens(span.own.frame, begun.grid)
    written: list[Tensor] = []
    span.append_given(frame.get(0, []))
    while len(written) < n:
        number = len(written)
        chosen = pick(span.logits(process), sampling, uniform[:, number])
        if given is not None:
            chosen = torch.where(given[:, number] == MASKED, chosen, given[:, number])
        written.append(chosen)
        if keep or number + 1 < n:
            span.append(chosen)
            span.append_given(frame.get(number + 1, []))
        if on_pass is not None:
            on_pass(Pass(number, lambda: torch.stack(written, 1)))
        if drawing.stopped():
            break
    return F.pad(torch.stack(written, 1), (0, n - len(written)))


def _frame_tokens(frame: Frame | None, grid: Grid) -> dict[int, list[int]]:
    """The joint ids that stand after so many tokens of a framed picture."""
    if frame is None:
        return {}
    rows, columns = grid
    ends = {row * columns: [frame.row_end] for row in range(1, rows + 1)}
    return {0: frame.header(grid), **ends, rows * columns: [frame.row_end, frame.closed]}


class _Branches:
    """The rows of a stream as branches of N samples. joint: (N,) joint ids of what was written so far."""

    def __init__(self, begun: BegunSpan, guidance: Guidance):
        self.stream, self.modality, self.guidance = begun.stream, begun.modality, guidance
        self.branches = len(guidance.branches)
        self.samples = self.stream.rows // self.branches
        self.alive = [True] * self.stream.rows if begun.alive is None else list(begun.alive) * self.branches
        model = self.stream.model
        self.first, self.end = model.vocabulary.range(self.modality)
        self.own = model.modality[self.modality]
        self.only = self.modality if self.own.apart else None
        self.joint: list[Tensor] = []

    def logits(self, process: Process | None) -> Tensor:
        """(N, K) of the next token, with guidance."""
        logits, samples = self.stream.model.logits(self.stream.hidden, only=self.only), self.samples
        if process is not None:
            none = torch.zeros(samples, 0, dtype=torch.long)
            so_far = torch.stack(self.joint, 1) if self.joint else none
            logits = torch.cat([process(logits[:samples], so_far), logits[samples:]])
        own = logits[:, self.first : self.end]
        return self.guidance.combine(own.float()) if self.branches > 1 else own

    def append(self, chosen: Tensor) -> None:
        """Write tokens (N,) in all branches."""
        joint = chosen + self.first
        self.joint.append(joint)
        self.stream.append(joint.repeat(self.branches), self.alive, self.modality)

    def append_given(self, ids: Sequence[int]) -> None:
        """Write text tokens, the same in all rows."""
        for id in ids:
            row = upload([id] * self.stream.rows, self.stream.device)
            self.joint.append(row[: self.samples])
            self.stream.append(row, self.alive, self.stream.model.modality_names[0])
