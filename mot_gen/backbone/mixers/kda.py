"""Kimi Delta Attention (arXiv 2510.26692), the mixer of Hybrid-KDA (arXiv 2603.26556); towers may own its projections.

    x -> in_proj -> q, k, v, f, z, b;    q, k, v -> conv -> silu;    q, k -> each of length 1
    g = -exp(A_log) softplus(decay(f) + dt_bias);    beta = sigmoid(b);    o = delta_rule(q, k, v, g, beta)
    out_proj(norm(o) * sigmoid(gate(z)))

The decay g is of every channel, f and z being as narrow as a head. The convolution, A_log, dt_bias and the norm are
shared by all towers. A state runs one way: bidirectional modalities are read as Mamba reads them, see `mixers.mamba`.

Shapes: B rows, S slots, T = B * S tokens, D width, H heads, K head width, W convolution width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent import delta_rule, mamba_scan
from mot_gen.backbone.recurrent.kimi_options import KimiOptions
from mot_gen.backbone.recurrent.running_cache import RunningCache, last_of


@dataclass(frozen=True)
class Mixer(KimiOptions):
    """Its options are those of `KimiOptions`: heads, head_dim, d_conv, bidirectional."""

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: RunningCache | None) -> Tensor:
        routing, reading, past = plan.routing, plan.made[self.reading], self.d_conv - 1
        qkv, f, z, b = block.in_proj(x, routing).split(block.sizes, -1)
        speed = F.softplus(block.decay(f.contiguous(), routing) + block.dt_bias)
        decay = -block.A_log.exp().repeat_interleave(self.width) * speed
        gate = torch.sigmoid(block.gate(z.contiguous(), routing))
        qkv, decay, beta = (routing.unsort(t).view(plan.rows, -1, t.shape[-1]) for t in (qkv, decay, b.sigmoid()))
        before = qkv.new_zeros(plan.rows, past, qkv.shape[-1]) if cache is None else cache["inputs"]
        line = torch.cat([before, qkv], 1)
        y = self._read(block, line, decay, beta, reading.document, cache)
        if reading.block is not None:  # a span from its end is the same reading of the row turned round
            line = F.pad(qkv.flip(1), (0, 0, past, 0))
            again = self._read(block, line, decay.flip(1), beta.flip(1), reading.backwards(past), None).flip(1)
            both_ways = routing.unsort(reading.backward).view(plan.rows, -1, 1, 1)
            y = y + again * both_ways
        y = F.rms_norm(y, block.state_norm.shape, block.state_norm, block.owners.eps)
        return block.out_proj(routing.sort(y.reshape(x.shape[0], -1)) * gate, routing)

    def _read(
        self, block: Layer, line: Tensor, decay: Tensor, beta: Tensor, document: Tensor, cache: RunningCache | None
    ) -> Tensor:
        """line (B, W - 1 + S, 3 H K) -> (B, S, H, K)."""
        bias = line.new_zeros(())
        qkv = F.silu(mamba_scan.convolve(line, document, block.conv, bias)).unflatten(-1, (3, self.number, -1))
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        q, k = F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6)
        g, beta = decay.unflatten(-1, (self.number, -1)).transpose(1, 2), beta.transpose(1, 2)
        past = self.d_conv - 1
        start = document[:, past:] != (document[:, past - 1 : -1] if past else F.pad(document, (1, 0))[:, :-1])
        state = q.new_zeros(len(q), self.number, self.width, self.width) if cache is None else cache["state"]
        if cache is not None:
            given = [t.detach() for t in (q, k, v, g, beta)]
            cache.write(lambda counts: _kept(given, start, state, line, counts, past))
        return delta_rule.delta_rule(q, k, v, g, beta, start, state)[0].transpose(1, 2)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Projections, convolution, and 7 K V a head to decay the state, correct it, write and read it."""
        return self._flops(block, batch, 7 * self.channels * self.width)

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        """Chunks of C tokens: the state is read twice and written once; 4 C for the pairs, as much for what they weigh,
        and 2 C for a solution."""
        return self._flops(block, batch, self.channels * (6 * self.width + 10 * delta_rule.CHUNK))

    def _flops(self, block: Layer, batch: Batch, reading: int) -> int:
        channels, width, tokens = self.channels, self.width, batch.layout.modality.numel()
        outer = 2 * block.owners.channels(batch.routing) * (sum(block.sizes) + channels)
        read = self.passes(batch) * (6 * self.d_conv * channels + reading)
        return outer + tokens * (4 * width * channels + read)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Each reading keeps some 20 numbers a channel, and the decay and products of each pair of a chunk. Beside them
        f and z are kept, what follows from them, and the output before and after its norm and gate."""
        reading = self.channels * (20 + 5 * delta_rule.CHUNK)
        return batch.layout.modality.numel() * (8 * self.channels + sum(block.sizes) + self.passes(batch) * reading)


def _kept(
    given: Sequence[Tensor], start: Tensor, state: Tensor, line: Tensor, counts: Tensor, past: int
) -> dict[str, Tensor]:
    """What is remembered once the first counts[b] tokens are kept: later ones do not decay the state, nor write."""
    q, k, v, g, beta = given
    kept = torch.arange(q.shape[2], device=counts.device) < counts[:, None]
    own = kept[:, None, :]
    _, state = delta_rule.delta_rule(q, k, v, g * own[..., None], beta * own, start & kept, state)
    return {"inputs": last_of(line, counts, past), "state": state}
