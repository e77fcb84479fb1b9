"""The engine under every pipeline: Stream, draw, draw_discrete, Writer, TextSampling, choose.

One cache, two moves. A discrete token is sampled and appended; a begin token opens a continuous span, which is
integrated from noise and then written to the cache clean. All rows of a batch move together, and rows that have nothing
to do are masked; so a batch may hold prompts of different lengths and documents that end at different times.

Shapes: R rows of the cache, N samples (R = branches * N under guidance), n tokens of a span, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.packing import pack_prompts, span_positions
from mot_gen.pipelines.samplers import Guidance, integrate, noise
from mot_gen.sequence import PADDING, Latents, Layout, Span

Grid = tuple[int, int]


class Stream:
    """R documents being continued, over one cache.

    hidden: (R, D) the backbone's output at each document's last token. time: (R,) the position of its next one.
    """

    def __init__(self, model, prompts: Sequence[Sequence[Span]], room: int, opens: Sequence[str | None] | None = None):
        """Read the prompts, clean, in one pass. room: slots for what will be written; opens: see `pack_prompts`."""
        self.model, self.device = model, model.embedding.weight.device
        batch, lengths = pack_prompts(prompts, model.modalities, opens)
        batch, self.rows = batch.to(self.device), len(prompts)
        for latents in batch.latents.values():
            latents.time = torch.zeros(len(latents.grids), device=self.device)
        lengths = lengths.to(self.device)
        last = (torch.arange(self.rows, device=self.device), lengths - 1)
        self.cache = model.backbone.init_cache(self.rows, batch.layout.shape[1] + room)
        hidden = self._forward(model.embed(batch)[0], batch.layout)
        self.cache.advance(lengths)
        self.hidden, self.time = hidden[last], batch.layout.position[..., 0][last] + 1
        self.spans = batch.layout.shape[1]  # a span number that no prompt has used

    def _forward(self, x: Tensor, layout: Layout) -> Tensor:
        return self.model.backbone(x, self.model.backbone.plan(layout, self.cache), self.cache)

    def append(self, ids: Tensor, alive: Tensor) -> None:
        """Write one discrete token, (R,) joint ids, in each row that is alive, (R,) bool."""
        zero = torch.zeros_like(self.time)
        layout = Layout(
            self.model.vocabulary.modality_of(ids)[:, None],
            torch.where(alive, 0, PADDING)[:, None],
            torch.full_like(ids, self.spans)[:, None],
            torch.stack([self.time, zero, zero], dim=-1)[:, None],
        )
        hidden = self._forward(self.model.embedding(ids)[:, None], layout)[:, 0]
        self.cache.advance(alive.long())
        self.time = self.time + alive
        self.hidden = torch.where(alive[:, None], hidden, self.hidden)
        self.spans += 1

    def open(self, modality: str, grids: Sequence[Grid], alive: Tensor) -> OpenSpan:
        """Make room for a continuous span in each row that is alive, after its begin token."""
        return OpenSpan(self, modality, grids, alive)


class OpenSpan:
    """A continuous span being drawn in the rows of a stream; its slots are overwritten until `close`."""

    def __init__(self, stream: Stream, modality: str, grids: Sequence[Grid], alive: Tensor):
        self.stream, self.alive, model = stream, alive, stream.model
        self.index, self.layers = model.index_of[modality], model.patch_layers[modality]
        kind = model.modalities[self.index].position
        self.advance_time = torch.tensor([1 if kind == "grid" else r * c for r, c in grids], device=stream.device)
        self.counts = torch.tensor([r * c for r, c in grids], device=stream.device)
        longest = int(self.counts.max())
        place = torch.arange(longest, device=stream.device)
        self.held = place < self.counts[:, None]  # (R, longest): the others pad shorter spans
        position = torch.zeros(stream.rows, longest, 3, dtype=torch.long, device=stream.device)
        for row, (grid, time) in enumerate(zip(grids, stream.time.tolist())):
            n = grid[0] * grid[1]
            position[row, :n] = span_positions(n, grid, time, kind).to(position)
        self.layout = Layout(
            torch.full_like(position[..., 0], self.index),
            torch.where(self.held & alive[:, None], 0, PADDING),
            torch.full_like(position[..., 0], stream.spans),
            position,
        )
        self.latents = Latents(
            values=torch.empty(0),
            slots=self.held.flatten().nonzero().flatten(),
            span=torch.arange(stream.rows, device=stream.device).repeat_interleave(self.counts),
            learned=alive,
            leads=torch.zeros_like(alive),
            grids=list(grids),
        )
        self.plan = model.backbone.plan(self.layout, stream.cache)

    def __call__(self, values: Tensor, time: Tensor) -> Tensor:
        """values (R, n, C) at one time in [0, 1] -> the network's output (R, n, C)."""
        return self._pass(values, time.expand(self.stream.rows))

    def _pass(self, values: Tensor, time: Tensor) -> Tensor:
        backbone, shape = self.stream.model.backbone, values.shape
        slots = self.latents.slots
        self.latents.values, self.latents.time = values.flatten(0, 1)[slots], time
        tokens, memory = self.layers.encode(self.latents)
        x = tokens.new_zeros(shape[0] * shape[1], tokens.shape[-1]).index_copy_(0, slots, tokens)
        hidden = backbone(x.view(*shape[:2], -1), self.plan, self.stream.cache).flatten(0, 1)
        output = self.layers.decode(hidden[slots], self.latents, memory)
        flat = values.new_zeros(shape[0] * shape[1], shape[2])
        return flat.index_copy_(0, slots, output.to(values.dtype)).view(shape)

    def close(self, values: Tensor, keep: Tensor) -> None:
        """Write the clean values (R, n, C) and the end token, in the rows to keep, (R,) bool."""
        stream, vocabulary = self.stream, self.stream.model.vocabulary
        keep = keep & self.alive
        self._pass(values, torch.zeros(stream.rows, device=stream.device))
        stream.cache.advance(torch.where(keep, self.counts, 0))
        stream.time = stream.time + torch.where(keep, self.advance_time, 0)
        stream.spans += 1
        end = vocabulary.end[stream.model.modality_names[self.index]]
        stream.append(torch.full((stream.rows,), end, device=stream.device), keep)


@dataclass
class Drawing:
    """How continuous spans are drawn: the scheduler and its steps, guidance, a generator a sample, grids by modality.

    on_step(step, timestep, x (N, n, C)) -> x is called after every step.
    """

    scheduler: object = None
    num_inference_steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    generators: list[torch.Generator] | None = None
    grids: dict[str, Grid] = field(default_factory=dict)
    on_step: Callable | None = None


def draw(span: OpenSpan, drawing: Drawing, start: Tensor | None = None) -> Tensor:
    """Integrate an open span, whose rows are the branches of N samples, from noise to a clean (N, n, C).

    start: (N, n, C) the noise to begin with; drawn from the generators when not given.
    """
    model, stream = span.stream.model, span.stream
    branches = len(drawing.guidance.branches)
    samples = stream.rows // branches
    modality = model.modalities[span.index]
    objective = model.objectives[modality.name]
    if start is None:
        shapes = [(int(n), modality.channels) for n in span.counts[:samples]]
        rows = noise(shapes, drawing.generators, stream.device, torch.float32)
        start = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        time = objective.scheduler_time(timestep, drawing.scheduler).to(x.device)
        output = span(x.repeat(branches, 1, 1), time)
        return objective.scheduler_output(drawing.guidance.combine(output), x, time)

    return integrate(
        predict, start, drawing.scheduler, drawing.num_inference_steps, drawing.generators, drawing.on_step
    )


@dataclass(frozen=True)
class TextSampling:
    """How discrete tokens are chosen: temperature 0 is greedy; top_k 0 and top_p 1 keep every token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be a number of at least 0 (0 = greedy), got {self.temperature}")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InputError(f"top_k must be >= 0 and 0 < top_p <= 1, got {self.top_k} and {self.top_p}")


def choose(logits: Tensor, sampling: TextSampling, generators: Sequence[torch.Generator] | None = None) -> Tensor:
    """(N, V) logits -> (N,) ids: greedy, or by top-k, nucleus (Holtzman et al. 2020) and temperature.

    Greedy choice draws no random number. Each row draws from its own generator.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    ordered, ids = (logits.float() / sampling.temperature).sort(dim=-1, descending=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = float("-inf")
    mass = ordered.softmax(-1).cumsum(-1)
    if sampling.top_p < 1:
        # Keep a token when the mass before it is below top_p; the first is always kept.
        before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
        mass = ordered.masked_fill(before >= sampling.top_p, float("-inf")).softmax(-1).cumsum(-1)
    generators = generators or [None] * len(logits)
    uniform = torch.stack([torch.rand((), generator=g, device=g.device if g else None) for g in generators]).to(
        mass.device
    )
    # The last token with mass stands where rounding leaves the total a little under 1.
    place = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:]).clamp_max(mass.shape[-1] - 1)
    return ids.gather(-1, place)[:, 0]


def draw_discrete(stream: Stream, modality: str, grid: Grid, sampling: TextSampling, drawing: Drawing) -> list[Span]:
    """Write a discrete span of rows * columns tokens in all rows of a stream that has just opened it; N spans.

    Guidance acts on the log-probabilities, as in Chameleon and LlamaGen; both branches are given the same token.
    """
    branches = len(drawing.guidance.branches)
    first, last = stream.model.vocabulary.range(modality)
    alive = torch.ones(stream.rows, dtype=torch.bool, device=stream.device)
    written = []
    for number in range(grid[0] * grid[1]):
        logits = stream.model.head(stream.hidden)[:, first:last].float().log_softmax(-1)
        written.append(choose(drawing.guidance.combine(logits), sampling, drawing.generators))
        stream.append((written[-1] + first).repeat(branches), alive)
        if drawing.on_step is not None:
            drawing.on_step(number, torch.tensor(number), torch.stack(written, 1))
    return [Span(modality, ids, grid) for ids in torch.stack(written, 1)]


@dataclass
class _Row:
    """What one document has been given so far. inside: the modality being written."""

    inside: str
    left: int  # text tokens that may still be written
    room: int  # slots that may still be filled
    spans: list[Span] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    waiting: str | None = None  # for this continuous modality to be drawn
    done: bool = False

    def end_span(self, offset: int, grid: Grid | None = None):
        if self.ids:
            self.spans.append(Span(self.inside, torch.tensor(self.ids) - offset, grid))
            self.ids = []


class Writer:
    """Continues N documents token by token; the rules of what may come next live here.

    may_open: modalities whose spans the model may begin; a document ends where it would begin another one. A discrete
    span of a modality in `drawing.grids` has exactly that many tokens, any other ends by its end token.
    room: slots that each document may fill, `max_new_tokens` when not given; a stream whose rows may stand still while
    others go on needs as many more as the longest span has.
    """

    def __init__(
        self,
        stream: Stream,
        samples: int,
        sampling: TextSampling,
        drawing: Drawing,
        may_open: Sequence[str],
        room: int | None = None,
    ):
        self.stream, self.samples, self.sampling, self.drawing = stream, samples, sampling, drawing
        self.model, self.vocabulary = stream.model, stream.model.vocabulary
        self.text = self.model.modality_names[0]
        self.may_open = set(may_open)
        left = sampling.max_new_tokens
        self.rows = [_Row(self.text, left, room or left) for _ in range(samples)]
        self.masks = {m.name: self._allowed(m.name) for m in self.model.modalities if m.discrete}

    def _allowed(self, inside: str) -> Tensor:
        """(V,) which ids may follow inside a span of that modality."""
        allowed = torch.zeros(self.vocabulary.size, dtype=torch.bool, device=self.stream.device)
        first, last = self.vocabulary.range(inside)
        allowed[first:last] = True
        if inside == self.text:
            allowed[[self.vocabulary.document_end, *self.vocabulary.begin.values()]] = True
        elif inside not in self.drawing.grids:
            allowed[self.vocabulary.end[inside]] = True
        return allowed

    def run(self) -> list[list[Span]]:
        """Write until every document has ended, been given `max_new_tokens` discrete tokens, or filled its room."""
        while not all(row.done for row in self.rows):
            if all(row.done or row.waiting for row in self.rows):
                self._draw_waiting()
            else:
                self._step()
        for row in self.rows:
            row.end_span(self.vocabulary.offset.get(row.inside, 0))
        return [row.spans for row in self.rows]

    def _step(self) -> None:
        moving = [number for number, row in enumerate(self.rows) if not (row.done or row.waiting)]
        logits = self.model.head(self.stream.hidden[moving])
        allowed = torch.stack([self.masks[self.rows[number].inside] for number in moving])
        # A row that stands still draws no random number, so that it does not depend on its batch.
        generators = self.drawing.generators and [self.drawing.generators[number] for number in moving]
        ids = choose(logits.masked_fill(~allowed, float("-inf")), self.sampling, generators).tolist()
        # Also a row that ends now is written to: its slot is its own, and it is never read again.
        self._append(dict(zip(moving, ids)))
        for number, token in zip(moving, ids):
            self._take(self.rows[number], token)
        self._end_full_spans()

    def _append(self, tokens: dict[int, int]) -> None:
        """Write a token in each of the given rows."""
        device = self.stream.device
        ids = torch.tensor([tokens.get(row, 0) for row in range(self.stream.rows)], device=device)
        self.stream.append(ids, torch.tensor([row in tokens for row in range(self.stream.rows)], device=device))

    def _take(self, row: _Row, token: int):
        opened = self.vocabulary.opened_by(token)
        row.left, row.room = row.left - 1, row.room - 1
        if token == self.vocabulary.document_end or (opened and not self._may_open(opened, row)):
            row.done = True
        elif opened:
            row.end_span(self.vocabulary.offset[row.inside])
            row.inside = opened
            row.waiting = None if opened in self.masks else opened
        elif token == self.vocabulary.end.get(row.inside):
            row.end_span(self.vocabulary.offset[row.inside])
            row.inside = self.text
        else:
            row.ids.append(token)
        self._settle(row)

    def _may_open(self, modality: str, row: _Row) -> bool:
        """Whether the model may begin this modality, and the row has room for its span and end token."""
        rows, columns = self.drawing.grids.get(modality, (0, 0))
        return modality in self.may_open and row.room > rows * columns

    def _settle(self, row: _Row) -> None:
        """A document ends when its tokens or its room are used up, but not inside a span of a given size."""
        row.done = row.done or (row.inside not in self.drawing.grids and min(row.left, row.room) <= 0)

    def _end_full_spans(self) -> None:
        """Close every discrete span of a given grid that is full."""
        full = {}
        for number, row in enumerate(self.rows):
            grid = self.drawing.grids.get(row.inside)
            if grid and not row.waiting and len(row.ids) == grid[0] * grid[1]:
                full[number] = self.vocabulary.end[row.inside]
                row.end_span(self.vocabulary.offset[row.inside], grid)
                row.inside, row.room = self.text, row.room - 1
                self._settle(row)
        if full:
            self._append(full)

    def _draw_waiting(self):
        """Draw one continuous modality in all rows that wait for it; the cache keeps it in the conditional rows."""
        modality = next(row.waiting for row in self.rows if row.waiting)
        ready = torch.tensor([row.waiting == modality for row in self.rows], device=self.stream.device)
        branches = len(self.drawing.guidance.branches)
        grid = self.drawing.grids[modality]
        span = self.stream.open(modality, [grid] * self.stream.rows, ready.repeat(branches))
        values = draw(span, self.drawing)
        conditional = torch.arange(self.stream.rows, device=self.stream.device) < self.samples
        span.close(values.repeat(branches, 1, 1), conditional)
        for number, row in enumerate(self.rows):
            if row.waiting == modality:
                row.spans.append(Span(modality, values[number].float().cpu(), grid))
                row.waiting, row.inside = None, self.text
                row.room -= grid[0] * grid[1] + 1
                self._settle(row)
