"""Documents written token by token: Writer; Rules, what may be written; slots_of, what a whole span takes.

Shapes: N samples; the stream has B * N rows, one block of N for each branch of guidance, the sampled one first. M rows
that move, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel
from mot_gen.pipelines.engine.decoding import TextSampling, choose
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.open_span import Grid
from mot_gen.pipelines.engine.rules import DocumentState, Rules, WritingOptions
from mot_gen.pipelines.engine.samplers import held_still
from mot_gen.pipelines.engine.scores import ForbiddenTokens, ProcessedScores
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.engine.whole_spans import WholeSpans
from mot_gen.sequence import Span
from mot_gen.sequence.moving import upload

__all__ = ["Rules", "Writer", "slots_of"]


def slots_of(model: MultimodalModel, grids: Mapping[str, Grid]) -> dict[str, int]:
    """Modality -> how many slots a span of its grid takes, its begin and end not counted."""
    return {name: grid[0] * grid[1] + model.modality[name].framed(grid) for name, grid in grids.items()}


class Writer:
    """Continues N documents token by token, by the rules of what may come next.

    Spans of a given size (of a modality in `drawing.grids`) are drawn as a whole: the continuous ones by the scheduler,
    discrete ones by masking, scale by scale or token by token. Guidance bears on these alone: its branches are given
    the same tokens, and all but the first forget them when the span has ended. Any other discrete span ends by its end
    token.
    on_token(number of the sample, modality, id in the modality's own vocabulary) is called for every token of the
    latter.
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
        self.stream, self.sampling, self.drawing, self.on_token = stream, sampling, drawing, on_token
        vocabulary, modalities = stream.model.vocabulary, stream.model.modalities
        one_by_one = {m.name for m in modalities if m.one_by_one} - drawing.grids.keys()
        self.text, self.wraps, self.begins = modalities[0].name, vocabulary.wraps, vocabulary.document_begin
        self.apart: set[str | None] = {m.name for m in modalities if m.apart}
        slots = slots_of(stream.model, drawing.grids)
        writing = WritingOptions(rules, vocabulary, self.text, one_by_one, slots, sampling.max_new_tokens)
        self.rows = [DocumentState(writing, opened) for opened in stream.opens[:samples]]
        self.processed = ProcessedScores(sampling.processors, stream, samples)
        self.forbidden = ForbiddenTokens(vocabulary, stream.device)
        self.spans = WholeSpans(stream, samples, sampling)

    def run(self) -> list[list[Span]]:
        """Write until every document has ended, been given `max_new_tokens` discrete tokens, or filled its room, or
        until `drawing.stopped`."""
        while not self.drawing.stopped():
            moving = [number for number, row in enumerate(self.rows) if row.moves]
            waiting = [number for number, row in enumerate(self.rows) if row.waits]
            if moving:
                self._step(moving)
            elif waiting:
                self._draw(waiting)
            else:
                break
        return [row.ended() for row in self.rows]

    # ---------------------------------------------------------------- one token

    def _step(self, moving: list[int]) -> None:
        """Choose a token in each of these rows and write it, also where it ends a document: its slot is its own, and
        never read again."""
        rows = [self.rows[number] for number in moving]
        scores = self.processed(self._logits(moving), moving)
        scores = scores.masked_fill(self.forbidden([row.may_follow() for row in rows]), float("-inf"))
        # A row that stands still draws no random number, so that it does not depend on its batch.
        chosen = choose(scores, self.sampling, self._generators(moving))
        all_in_text = len(moving) == self.stream.rows and {row.inside for row in rows} == {self.text}
        if all_in_text:
            self.stream.append(chosen, None, self.text)  # before the host waits to read the tokens
        tokens = dict(zip(moving, chosen.tolist()))
        if not all_in_text:
            self._append(tokens)
        for number, token in tokens.items():
            self._take(number, token)

    def _logits(self, moving: list[int]) -> Tensor:
        """(M, V) of these rows."""
        hidden = self.stream.hidden
        if len(moving) < len(hidden):
            hidden = hidden.index_select(0, upload(moving, hidden.device))
        return self.stream.model.logits(hidden, only=self._only(moving))

    def _only(self, moving: list[int]) -> str | None:
        """The modality with ids apart that all of these rows write, None where they write anything else."""
        written = {self.rows[number].inside for number in moving}
        if len(written) > 1:
            return None
        [modality] = written
        return modality if modality in self.apart else None

    def _append(self, tokens: Mapping[int, int]) -> None:
        """Write a token in each of the given rows."""
        some = next(iter(tokens.values()))
        rows = range(self.stream.rows)
        self.stream.append([tokens.get(row, some) for row in rows], [row in tokens for row in rows])

    def _take(self, number: int, token: int) -> None:
        """Tell a row, and all who want to know, of its token."""
        modality = self.rows[number].inside
        own = self.rows[number].take(token)
        self.processed.add(number, token)
        if own is not None and self.on_token is not None:
            self.on_token(number, modality, own)

    def _generators(self, numbers: Collection[int]) -> list[torch.Generator] | None:
        generators = self.drawing.generators
        if not generators:
            return None
        return [generators[number] for number in numbers]

    # ---------------------------------------------------------------- a span that is drawn as a whole

    def _draw(self, waiting: list[int]) -> None:
        """Draw the modality that the first of these rows waits for, in all that wait for it."""
        modality = self.rows[waiting[0]].inside
        ready = [number for number in waiting if self.rows[number].inside == modality]
        grid = self.drawing.grids[modality]
        process = self.processed.after if self.sampling.processors else None
        drawn = [number in ready for number in range(len(self.rows))]
        drawing = replace(self.drawing, generators=held_still(self.drawing.generators, drawn))
        values, bounds = self.spans.draw(modality, grid, ready, drawing, process)
        values = values.cpu()
        for number in ready:
            self.rows[number].add(values[number], grid, bounds)
        if self.wraps:
            self._begin_texts([number for number in ready if not self.rows[number].done])

    def _begin_texts(self, numbers: list[int]) -> None:
        """Write the beginning of a text in each of these rows."""
        if not numbers:
            return
        self._append(dict.fromkeys(numbers, self.begins))
        for number in numbers:
            self.rows[number].room -= 1
