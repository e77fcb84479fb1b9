"""Mamba's mixer (arXiv 2312.00752), whose projections towers may own (Mixture-of-Mamba, arXiv 2501.16295).

    x -> in_proj -> (u, z);  u -> conv -> silu -> x_proj -> (dt, B, C);  delta = softplus(dt_proj(dt))
    out_proj((scan(u, delta, A, B, C) + D u) silu(z))

The convolution, A, D and the norm are shared by all towers. Convolution and state begin anew with every document. A
scan runs one way: a bidirectional modality is refused, unless `bidirectional` says how to read it: "causal", in order;
or "two_pass", each span from its end to its start as well, by the same parameters, and both readings added.

Shapes: B rows, S slots, T = B * S tokens, D width, E = expand * D channels, N states a channel, W convolution width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.mamba_options import MambaOptions, uniform
from mot_gen.backbone.recurrent.mamba_scan import ScanInputs, convolve, kept_state, scan
from mot_gen.backbone.recurrent.running_cache import RunningCache
from mot_gen.backbone.recurrent.selective_scan import chunk_length


@dataclass(frozen=True)
class Mixer(MambaOptions):
    """Its options are those of `MambaOptions`: d_state, d_conv, expand, dt_rank, bidirectional."""

    def modules(self, block: Layer) -> parts.Modules:
        owners, rank = block.owners, self.dt_rank
        block.channels = channels = self.expand * owners.dim
        block.sizes = [rank, self.d_state, self.d_state]
        return {
            "in_proj": owners.inward("in_proj", 2 * channels),
            "conv": nn.Parameter(torch.empty(self.d_conv, channels)),
            "conv_bias": nn.Parameter(torch.empty(channels)),
            "x_proj": owners.linear("x_proj", channels, sum(block.sizes)),
            "dt_proj": owners.linear("dt_proj", block.sizes[0], channels, initial=uniform),
            "dt_bias": nn.Parameter(torch.empty(owners.sets("dt_proj"), channels)),
            "A_log": nn.Parameter(torch.empty(self.d_state, channels)),
            "D": nn.Parameter(torch.empty(channels)),
            "out_proj": owners.outward("out_proj", channels),
        }

    def owned_by(self, block: Layer) -> dict[str, list[int]]:
        slices = block.owners.slices("dt_proj")
        return {} if slices is None else {"dt_bias": slices}

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> RunningCache:
        inputs = like.new_zeros(rows, self.d_conv - 1, block.channels)
        state = like.new_zeros(rows, self.d_state, block.channels, dtype=torch.float32)
        return RunningCache(inputs=inputs, state=state)

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: RunningCache | None) -> Tensor:
        routing, reading, past = plan.routing, plan.made[self.reading], self.d_conv - 1
        u, z = block.in_proj(x, routing).chunk(2, dim=-1)
        u = routing.unsort(u).view(plan.rows, -1, u.shape[-1])
        before = u.new_zeros(plan.rows, past, u.shape[-1]) if cache is None else cache["inputs"]
        line = torch.cat([before, u], 1)
        state = None if cache is None else cache["state"]
        y, given = self._read(block, line, reading.document, plan, state)
        if cache is not None and state is not None:
            cache.write(partial(kept_state, line, given, state))
        if reading.block is not None:  # a span from its end is the same reading of the row turned round
            line = F.pad(u.flip(1), (0, 0, past, 0))
            again, _ = self._read(block, line, reading.backwards(past), plan, None, flipped=True)
            y = y + again * reading.backward
        return block.out_proj(y * F.silu(z), routing)

    def _read(
        self, block: Layer, line: Tensor, document: Tensor, plan: Plan, state: Tensor | None, flipped: bool = False
    ) -> tuple[Tensor, ScanInputs]:
        """Convolution and scan of line (B, W - 1 + S, E): y (T, E) in tower order, and what the scan was given."""
        routing = plan.routing

        def sort(t: Tensor) -> Tensor:
            if flipped:
                t = t.flip(1)
            return routing.sort(t.flatten(0, 1))

        def unsort(t: Tensor) -> Tensor:
            t = routing.unsort(t).view(plan.rows, -1, t.shape[-1])
            return t.flip(1) if flipped else t

        u = F.silu(convolve(line, document, block.conv, block.conv_bias))
        by_tower = sort(u)
        dt, B, C = block.x_proj(by_tower, routing).split(block.sizes, -1)
        bias = block.dt_bias[0]
        if len(block.dt_bias) > 1:
            bias = block.dt_bias.index_select(0, plan.made[self.reading].tower)
        delta = F.softplus(block.dt_proj(dt.contiguous(), routing) + bias)
        y, given = scan((u, unsort(delta), unsort(B), unsort(C)), block.A_log, document, state)
        return sort(y.to(u.dtype)) + block.D * by_tower, given

    def flops(self, block: Layer, batch: Batch) -> int:
        """Projections, convolution, and 7 N a channel for the scan; of a second reading, all but in and out."""
        tokens, inner = batch.layout.modality.numel(), 2 * sum([block.sizes[0], *block.sizes])
        reading = inner + 2 * self.d_conv + 7 * self.d_state
        outer = 2 * 3 * block.owners.channels(batch.routing)
        return block.channels * (outer + self.passes(batch) * tokens * reading)

    def activations(self, block: Layer, batch: Batch) -> float:
        """5 numbers a channel (u, z and the gate); for each reading 9 more (the convolution's terms, delta, y), dt, B,
        C, and the states that chunks begin with."""
        rows, length = batch.layout.shape
        states = block.channels * self.d_state
        begun = -(-length // chunk_length(rows * states)) * states / length
        reading = 9 * block.channels + sum(block.sizes) + begun
        return rows * length * (5 * block.channels + self.passes(batch) * reading)
