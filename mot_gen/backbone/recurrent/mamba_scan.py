"""How Mamba reads a row: ScanLayout (where documents and spans begin), convolve, scan; kept_state, what it remembers.

Shapes: B rows, S slots, T = B * S tokens, E channels, N states a channel, W convolution width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone.attention import EMPTY
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.recurrent.running_cache import last_of
from mot_gen.backbone.recurrent.selective_scan import final_state, selective_scan
from mot_gen.sequence import PADDING

# Traced, the steps of a scan would be as many nodes of a graph.
_scan = torch.compiler.disable(selective_scan)


@dataclass
class ScanLayout:
    """What a pass derives from a layout. tower: (T,) in tower order, for biases.

    document: (B, W - 1 + S), those before the pass first. block: (B, S) the span of a token that is read backwards too,
    else a number of its own; None where no token is. backward: (T, 1) bool, those tokens.
    """

    tower: Tensor
    document: Tensor
    block: Tensor | None = None
    backward: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, past: int, both_ways: Tensor) -> ScanLayout:
        """past: W - 1. both_ways: (B, S) bool, the tokens that are read backwards too."""
        layout = batch.layout
        if batch.cache is None:
            before = layout.document.new_full((len(layout.document), past), EMPTY)
        else:
            before = batch.cache.documents_before(past)
        tower, document = batch.routing.sort(batch.tower), torch.cat([before, layout.document], 1)
        if not both_ways.any():
            return cls(tower, document)
        alone = PADDING - 1 - torch.arange(layout.shape[1], device=tower.device)
        block = torch.where(both_ways & (layout.document != PADDING), layout.span, alone)
        return cls(tower, document, block, batch.routing.sort(both_ways.flatten())[:, None])

    def backwards(self, past: int) -> Tensor:
        """(B, W - 1 + S) the spans of each row turned round, with nothing before it."""
        assert self.block is not None, "some token is read backwards"
        return F.pad(self.block.flip(1), (past, 0), value=EMPTY - self.block.shape[1])


class ScanInputs(NamedTuple):
    """What a scan was given, time first: u, delta (S, B, E), A (N, E), B (S, B, N), start (S, B) bool."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    start: Tensor


def convolve(line: Tensor, document: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise and causal, within documents: line (B, W - 1 + S, E), weight (W, E) -> (B, S, E)."""
    width, length = len(weight), line.shape[1] - len(weight) + 1
    own = document[:, width - 1 :]
    out = torch.addcmul(bias, line[:, width - 1 :], weight[-1])
    for place, each in enumerate(weight[:-1]):
        same = document[:, place : place + length] == own
        out = torch.addcmul(out, line[:, place : place + length] * same[..., None], each)
    return out


def scan(parts: tuple[Tensor, ...], A_log: Tensor, document: Tensor, state: Tensor | None) -> tuple[Tensor, ScanInputs]:
    """parts: u, delta (B, S, E), B, C (B, S, N); document: (B, W - 1 + S) -> y (B, S, E), and what was given."""
    past = document.shape[1] - parts[0].shape[1]
    before = document[:, past - 1 : -1] if past else F.pad(document, (1, 0))[:, :-1]
    start = (document[:, past:] != before).t()
    u, delta, B, C = (t.float().transpose(0, 1).contiguous() for t in parts)
    A = -torch.exp(A_log.float())
    return _scan(u, delta, A, B, C, start, state).transpose(0, 1), ScanInputs(u, delta, A, B, start)


def kept_state(line: Tensor, given: ScanInputs, state: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """What a layer remembers once the first counts[b] tokens of a pass are kept.

    line (B, W - 1 + S, E) was given to the convolution, `given` to the scan. state: (B, N, E) before the pass.
    Returns the last W - 1 "inputs" (B, W - 1, E) and the "state" (B, N, E).
    """
    u, delta, A, B, start = (t.detach() for t in given)
    # With no time passed a state stays as it is: exp(0) = 1, and nothing is fed.
    kept = torch.arange(len(u), device=counts.device)[:, None] < counts
    state = final_state(u, delta * kept[..., None], A, B, start & kept, state)
    return {"inputs": last_of(line, counts, line.shape[1] - len(u)), "state": state}
