"""LatentSpans: the continuous spans of one modality, collected while rows are written, and made into Latents."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mot_gen.sequence.batch import Latents
from mot_gen.sequence.modality import Span


@dataclass
class LatentSpans:
    """The spans written so far, in the order of their slots. channels: C of each token."""

    channels: int
    values: list[Tensor] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    leads: list[bool] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)

    def add(self, span: Span, start: int, leads: bool) -> None:
        """Note a span. start: its first slot among the B * S. leads: whether learned text follows in its document."""
        self.values.append(span.values.cpu())
        self.start.append(start)
        self.learned.append(span.learned)
        self.leads.append(leads)
        rows, columns = span.grid or (1, len(span))
        self.grids.append((rows, columns))

    def latents(self) -> Latents:
        """All spans as `Latents` on the CPU: N tokens of n spans, perhaps none."""
        lengths = torch.tensor(list(map(len, self.values)), dtype=torch.long)
        span = torch.arange(len(lengths)).repeat_interleave(lengths)
        start = torch.tensor(self.start, dtype=torch.long)
        within = torch.arange(len(span)) - (lengths.cumsum(0) - lengths)[span]
        return Latents(
            values=self._all_values(),
            slots=start[span] + within,
            span=span,
            learned=torch.tensor(self.learned, dtype=torch.bool),
            leads=torch.tensor(self.leads, dtype=torch.bool),
            grids=self.grids,
        )

    def _all_values(self) -> Tensor:
        """(N, channels)"""
        if not self.values:
            return torch.zeros(0, self.channels)
        return torch.cat(self.values)
