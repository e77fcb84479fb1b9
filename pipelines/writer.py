"""Documents written token by token: Rules, Writer.

Shapes: N samples; the stream has B * N rows, one block of N for each branch of guidance, the sampled one first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mot_gen.pipelines.decoding import TextSampling, choose
from mot_gen.pipelines.drawing import Drawing, draw
from mot_gen.pipelines.masked import OpenTokens, draw_masked
from mot_gen.pipelines.scales import OpenScales, draw_scales
from mot_gen.pipelines.stream import Grid, OpenSpan, Stream
from mot_gen.sequence import Span


@dataclass(frozen=True)
class Rules:
    """What may be written, and when a document ends.

    may_open: modalities whose spans the model may begin; a document ends where it would begin another one.
    at_most: {modality: how many spans of it}; after them its begin token is never chosen.
    order: the modalities of the spans, the first being that which the prompt left open; the model then chooses only
    their content and how long its texts are, and may_open and at_most say nothing.
    room: slots that each document may fill, `max_new_tokens` when not given; a stream whose rows may stand still while
    others go on needs as many more as the longest span has.
    known: (N, n) ids of the discrete span that the prompt left open, where they are given, and -1 where not.
    stop: whether a text of these ids, of text alone, ends the document.
    """

    may_open: Sequence[str] = ()
    at_most: Mapping[str, int] = field(default_factory=dict)
    order: Sequence[str] | None = None
    room: int | None = None
    known: Tensor | None = None
    stop: Callable[[Sequence[int]], bool] | None = None


@dataclass
class _Row:
    """What one document has been given so far. inside: the modality being written."""

    inside: str
    left: int  # text tokens that may still be written
    room: int  # slots that may still be filled
    place: int = 0  # of the span being written among `Rules.order`; -1 before the first
    begun: dict[str, int] = field(default_factory=dict)  # how many spans of each modality
    spans: list[Span] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)  # joint ids of all discrete tokens, kept for processors alone
    given: list[int] = field(default_factory=list)  # joint ids that come next whatever the model says, as of a frame
    waiting: str | None = None  # for this continuous modality to be drawn
    done: bool = False

    def end_span(self, offset: int, grid: Grid | None = None):
        if self.ids:
            self.spans.append(Span(self.inside, torch.tensor(self.ids) - offset, grid))
            self.ids = []


class Writer:
    """Continues N documents token by token; the rules of what may come next live here.

    A discrete span of a modality in `drawing.grids` has exactly that many tokens, any other ends by its end token. In
    spans of a given size the branches of guidance bear on the logits, as in Chameleon and LlamaGen: every branch is
    given the same tokens, and all but the first are taken back when the span has ended.
    on_token(number of the sample, modality, id in the modality's own vocabulary) is told of every token.
    """

    def __init__(
        self,
        stream: Stream,
        samples: int,
        sampling: TextSampling,
        drawing: Drawing,
        rules: Rules,
        on_token: Callable[[int, str, int], None] | None = None,
    ):
        self.stream, self.samples, self.sampling, self.drawing = stream, samples, sampling, drawing
        self.rules, self.on_token = rules, on_token
        self.vocabulary = stream.model.vocabulary
        self.text = stream.model.modality_names[0]
        self.discrete = {m.name for m in stream.model.modalities if m.one_by_one}
        self.apart = {m.name for m in stream.model.modalities if m.apart}
        self.branches = stream.rows // samples
        self.begin = stream.snapshot() if self.branches > 1 else None
        self.frames = {m.name: m.frame for m in stream.model.modalities if m.frame is not None}
        self.rows = [self._first_row(number) for number in range(samples)]
        self._masks: dict[tuple, Tensor] = {}

    def _first_row(self, number: int) -> _Row:
        inside, left = self.stream.opens[number] or self.text, self.sampling.max_new_tokens
        row = _Row(inside, left, self.rules.room or left)
        row.begun = {} if inside == self.text else {inside: 1}
        order = self.rules.order
        if order is not None and order[0] != inside:
            row.place = -1
        if self.sampling.processors:
            row.history = self.stream.prompt_ids(number)
        row.waiting = None if inside in self.discrete else inside
        row.given = self._header(inside)
        return row

    def _header(self, modality: str) -> list[int]:
        """What stands between a picture's begin token and its first row, where its modality has frames."""
        frame, grid = self.frames.get(modality), self.drawing.grids.get(modality)
        return frame.header(grid) if frame is not None and grid is not None else []

    def run(self) -> list[list[Span]]:
        """Write until every document has ended, been given `max_new_tokens` discrete tokens, or filled its room, or
        until `drawing.stopped`."""
        while not all(row.done for row in self.rows) and not self.drawing.stopped():
            if all(row.done or row.waiting for row in self.rows):
                self._draw_waiting()
            else:
                self._step()
        for row in self.rows:
            row.end_span(self.vocabulary.offset.get(row.inside, 0))
        return [row.spans for row in self.rows]

    # ------------------------------------------------------------ one token

    def _step(self) -> None:
        able = [n for n, row in enumerate(self.rows) if not (row.done or row.waiting)]
        if any(self.rows[n].given for n in able):
            self._write_given([n for n in able if self.rows[n].given])
            return
        moving, logits = self._logits(able)
        if self.sampling.processors:
            logits = torch.cat([self._processed(self.rows[n], scores) for n, scores in zip(moving, logits.split(1))])
        logits = logits.masked_fill(self._forbidden(moving), float("-inf"))
        # A row that stands still draws no random number, so that it does not depend on its batch.
        generators = self.drawing.generators and [self.drawing.generators[number] for number in moving]
        chosen = zip(moving, choose(logits, self.sampling, generators).tolist())
        tokens = {number: self._known(number, token) for number, token in chosen}
        # Also a row that ends now is written to: its slot is its own, and it is never read again.
        self._append(tokens)
        for number, token in tokens.items():
            self._take(number, token)
        self._end_full_spans()

    def _write_given(self, numbers: list[int]) -> None:
        """One token in each of these rows, of those that are given there."""
        tokens = {number: self.rows[number].given.pop(0) for number in numbers}
        self._append(tokens)
        for number, token in tokens.items():
            row = self.rows[number]
            row.room -= 1
            if self.sampling.processors:
                row.history.append(token)
        self._end_full_spans()

    def _logits(self, moving: list[int]) -> tuple[list[int], Tensor]:
        """(M, V) of the rows that move, those first that guidance bears on; and the rows in that order."""
        guided = [n for n in moving if self.branches > 1 and self.rows[n].inside in self.drawing.grids]
        free = [n for n in moving if n not in guided]
        rows = [n + branch * self.samples for branch in range(self.branches) for n in guided] + free
        hidden = self.stream.hidden
        hidden = hidden if rows == list(range(self.stream.rows)) else hidden[rows]
        inside = {self.rows[n].inside for n in moving}
        apart = inside & self.apart
        logits = self.stream.model.logits(hidden, only=apart.pop() if apart and len(inside) == 1 else None)
        if not guided:
            return free, logits
        both = logits.split([len(guided) * self.branches, len(free)])
        return guided + free, torch.cat([self.drawing.guidance.combine(both[0].float()), both[1].float()])

    def _processed(self, row: _Row, scores: Tensor) -> Tensor:
        ids = torch.tensor([row.history], device=scores.device)
        for processor in self.sampling.processors:
            scores = processor(ids, scores)
        return scores

    def _known(self, number: int, token: int) -> int:
        """The token that is given at this place, else the one that was chosen."""
        row, known = self.rows[number], self.rules.known
        if known is None or row.spans or row.inside == self.text:
            return token
        given = int(known[number, len(row.ids)])
        return token if given < 0 else given + self.vocabulary.offset[row.inside]

    def _append(self, tokens: Mapping[int, int]) -> None:
        """Write a token in each of the given rows, and in the other branches of a row that guidance bears on."""
        ids, alive = [0] * self.stream.rows, [False] * self.stream.rows
        for number, token in tokens.items():
            guided = self.rows[number].inside in self.drawing.grids
            for row in range(number, self.stream.rows if guided else number + 1, self.samples):
                ids[row], alive[row] = token, True
        device = self.stream.device
        self.stream.append(torch.tensor(ids, device=device), torch.tensor(alive, device=device))

    # ------------------------------------------------------------ what may come

    def _forbidden(self, moving: list[int]) -> Tensor:
        """(M, V) or (1, V) bool: the ids that may not follow."""
        keys = [self._may_follow(self.rows[number]) for number in moving]
        for key in {*keys} - self._masks.keys():
            self._masks[key] = self._mask(*key)
        same = all(key == keys[0] for key in keys)
        return self._masks[keys[0]][None] if same else torch.stack([self._masks[key] for key in keys])

    def _may_follow(self, row: _Row) -> tuple[str | None, tuple[int, ...]]:
        """What may follow in a row: the modality whose tokens may, or None, and the special tokens that may."""
        vocabulary, order = self.vocabulary, self.rules.order
        if row.inside != self.text:
            return row.inside, () if row.inside in self.drawing.grids else (vocabulary.end[row.inside],)
        if order is None:
            full = {name for name, most in self.rules.at_most.items() if row.begun.get(name, 0) >= most}
            if vocabulary.wraps:  # a text's own end comes before another span
                return self.text, (vocabulary.document_end,)
            begins = (token for name, token in vocabulary.opens.items() if name not in full)
            return self.text, (vocabulary.document_end, *begins)
        following = self._following(row)
        ends = (vocabulary.begin[following] if following and not vocabulary.wraps else vocabulary.document_end,)
        if row.place < 0 or order[row.place] != self.text or row.left <= 0:
            return None, ends
        return self.text, ends if row.ids else ()

    def _following(self, row: _Row) -> str | None:
        order = self.rules.order
        assert order is not None  # nothing asks without one
        return order[row.place + 1] if row.place + 1 < len(order) else None

    def _mask(self, modality: str | None, special: tuple[int, ...]) -> Tensor:
        forbidden = torch.ones(self.vocabulary.size, dtype=torch.bool)
        if modality is not None:
            forbidden = ~self.vocabulary.writable(modality)
        forbidden[list(special)] = False
        return forbidden.to(self.stream.device)

    # ------------------------------------------------------------ what a token means

    def _take(self, number: int, token: int) -> None:
        row = self.rows[number]
        opened = self._opened(row, token)
        row.left, row.room = row.left - (row.inside not in self.drawing.grids), row.room - 1
        if self.sampling.processors:
            row.history.append(token)
        if (token == self.vocabulary.document_end and not opened) or (opened and not self._may_open(opened, row)):
            row.done = True
        elif opened:
            row.end_span(self.vocabulary.offset[row.inside])
            row.inside, row.place = opened, row.place + 1
            row.begun[opened] = row.begun.get(opened, 0) + 1
            row.waiting = None if opened in self.discrete else opened
            row.given = self._header(opened)
        elif token == self.vocabulary.end.get(row.inside):
            row.end_span(self.vocabulary.offset[row.inside])
            self._back_to_text(row)
        else:
            row.ids.append(token)
            own = token - self.vocabulary.offset[row.inside]
            if self.on_token is not None:
                self.on_token(number, row.inside, own)
            row.given = self._row_end(row)
            row.done = row.inside == self.text and self.rules.stop is not None and self.rules.stop(row.ids)
        self._settle(row)

    def _row_end(self, row: _Row) -> list[int]:
        """What follows a token of a framed picture: at the end of a row its mark, at that of the last the frame's."""
        frame, grid = self.frames.get(row.inside), self.drawing.grids.get(row.inside)
        if frame is None or grid is None or len(row.ids) % grid[1]:
            return []
        return [frame.row_end, frame.closed] if len(row.ids) == grid[0] * grid[1] else [frame.row_end]

    def _opened(self, row: _Row, token: int) -> str | None:
        """The modality whose span begins after this token; where texts are wrapped, their end leads on to the next."""
        if row.inside != self.text:
            return None
        if self.vocabulary.wraps:
            return self._following(row) if self.rules.order and token == self.vocabulary.document_end else None
        return self.vocabulary.opened_by(token)

    def _may_open(self, modality: str, row: _Row) -> bool:
        """Whether the model may begin this modality, and the row has room for its span and end token."""
        rows, columns = self.drawing.grids.get(modality, (0, 0))
        allowed = self.rules.may_open if self.rules.order is None else self.rules.order
        frame = self.frames.get(modality)
        extra = frame.length((rows, columns)) if frame is not None else 0
        return modality in allowed and row.room > rows * columns + extra

    def _back_to_text(self, row: _Row) -> None:
        """After a span's end: a text begins, or the document is as ordered."""
        row.inside = self.text
        if self.rules.order is not None:
            row.done = self._following(row) is None
            row.place += self._following(row) == self.text

    def _settle(self, row: _Row) -> None:
        """A document ends when its tokens or its room are used up, but not inside a span of a given size, nor before
        the last span that was ordered."""
        ordered = self.rules.order is not None and any(name != self.text for name in self.rules.order[row.place + 1 :])
        used_up = row.room <= 0 or (row.left <= 0 and not ordered)
        row.done = row.done or (row.inside not in self.drawing.grids and used_up)

    def _end_full_spans(self) -> None:
        """Close every discrete span of a given grid that is full."""
        full = {}
        for number, row in enumerate(self.rows):
            grid = self.drawing.grids.get(row.inside)
            if grid and not (row.waiting or row.done or row.given) and len(row.ids) == grid[0] * grid[1]:
                full[number] = self.vocabulary.end[row.inside]
                row.end_span(self.vocabulary.offset[row.inside], grid)
                self._back_to_text(row)
                row.room -= 1
                self._settle(row)
        if any(not self.rows[number].done for number in full):
            self._append(full)
        if full and self.begin is not None:
            again = torch.zeros(self.stream.rows, dtype=torch.bool, device=self.stream.device)
            for branch in range(1, self.branches):
                again[[number + branch * self.samples for number in full]] = True
            self.stream.restore(self.begin, again)

    # ------------------------------------------------------------ a span that is drawn as a whole

    def _draw_waiting(self) -> None:
        """Draw a continuous or masked modality in all rows that wait for it; the cache keeps it in the first branch."""
        modality = next(row.waiting for row in self.rows if row.waiting and not row.done)
        ready = [row.waiting == modality for row in self.rows]
        grid = self.drawing.grids[modality]
        device = self.stream.device
        alive = torch.tensor(ready * self.branches, device=device)
        drawing = replace(self.drawing, generators=self._generators(ready))
        first = torch.arange(self.stream.rows, device=device) < self.samples
        grids = [grid] * self.stream.rows
        span: OpenSpan
        if modality in self.vocabulary.mask:
            span = tokens = OpenTokens(self.stream, modality, grids, alive)
            values = draw_masked(tokens, drawing, drawing.tokens or self.sampling)
        elif modality in self.stream.model.scale_inputs:
            span = scales = OpenScales(self.stream, modality, alive)
            values = draw_scales(scales, drawing, drawing.tokens or self.sampling)
        else:
            span = self.stream.open(modality, grids, alive)
            values = draw(span, drawing).float()
        span.close(torch.cat([values] * self.branches), first)
        texts = {}
        for number, row in enumerate(self.rows):
            if ready[number]:
                row.spans.append(Span(modality, values[number].cpu(), grid))
                row.waiting = None
                self._back_to_text(row)
                row.room -= grid[0] * grid[1] + 1 + (span.bounds > 0)
                self._settle(row)
                if self.vocabulary.wraps and not row.done:
                    texts[number] = self.vocabulary.document_begin
                    row.room -= 1
        if texts:
            self._append(texts)

    def _generators(self, ready: list[bool]) -> list[torch.Generator] | None:
        """The generators of the rows that are drawn; the others' are not advanced, so that a row does not depend on
        its batch."""
        own = self.drawing.generators
        return own and [g if drawn else torch.Generator(g.device) for g, drawn in zip(own, ready)]
