"""Linear attention with a learned feature map (Hedgehog's, as in Attention to Mamba, arXiv 2604.14191).

    y_t = sum_j f(q_t) f(k_j) v_j / sum_j f(q_t) f(k_j)        f(x) = softmax([W x; -W x]) of each head

over the keys j that the mask rule shows. What is remembered of the tokens so far is one matrix a head, the sum of
f(k) [v, 1], whatever their number; a bidirectional span adds all of its tokens before it reads, so nothing is lost. In
training the pairs are computed as in attention, which is faster than states up to some 1.4 K tokens a row.

Shapes: B rows, S slots, T = B * S tokens, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.attention import EMPTY, sees
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.running_cache import RunningCache
from mot_gen.backbone.recurrent.state_options import StateOptions
from mot_gen.backbone.routing import Initial


def identities(maps: Tensor) -> None:
    maps.copy_(torch.eye(maps.shape[-1]).expand_as(maps))


@dataclass(frozen=True)
class Mixer(StateOptions):
    """Its options are those of `StateOptions`: heads, head_dim."""

    untied = ("qkv", "out")

    def modules(self, block: Layer) -> parts.Modules:
        owners = block.owners
        return {
            "qkv": owners.inward("qkv", 3 * self.channels),
            "features": nn.Parameter(torch.empty(2, self.number, self.width, self.width)),
            "out": owners.outward("out", self.channels),
        }

    def initial(self, block: Layer) -> Mapping[str, Initial]:
        return {"features": identities}

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> RunningCache:
        """state (B, H, 2K, K + 1): the sum of f(k) [v, 1] of the document (B,) at hand."""
        state = like.new_zeros(rows, self.number, 2 * self.width, self.width + 1, dtype=torch.float32)
        return RunningCache(state=state, document=torch.full((rows,), EMPTY, device=like.device))

    def prepare(self, block: Layer, batch: Batch) -> None:
        query, _ = batch.places
        batch.once("seen in the pass", lambda: sees(query[:, :, None], query[:, None])[:, None])

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: RunningCache | None) -> Tensor:
        qkv = plan.routing.unsort(block.qkv(x, plan.routing)).view(plan.rows, -1, 3, self.number, self.width)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        q, k = _features(q, block.features[0]), _features(k, block.features[1])
        values = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        weights = (q @ k.transpose(-2, -1)) * plan.made["seen in the pass"]
        total = weights @ values
        if cache is not None:
            document = plan.batch.layout.document
            old = (document == cache["document"][:, None])[:, None, :, None]
            total = total + (q @ cache["state"].to(q.dtype)) * old
            cache.write(lambda counts: _kept(cache, k.detach(), values.detach(), document, counts))
        y = total[..., :-1] / total[..., -1:].clamp_min(torch.finfo(total.dtype).tiny)
        return block.out(plan.routing.sort(y.transpose(1, 2).reshape(x.shape[0], -1)), plan.routing)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Projections, feature maps, and of states or pairs what is less: 8 K (K + 1) a head, or 6 S K."""
        states = 8 * (self.channels + self.number) * self.width
        return self._flops(block, batch, min(states, self._pairs(batch)))

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        return self._flops(block, batch, self._pairs(batch))

    def _pairs(self, batch: Batch) -> int:
        """FLOPs of a token with all of its row."""
        return 2 * batch.layout.shape[1] * (3 * self.channels + self.number)

    def _flops(self, block: Layer, batch: Batch, reading: int) -> int:
        tokens, maps = batch.layout.modality.numel(), 4 * self.channels * self.width
        return 2 * 4 * block.owners.channels(batch.routing) * self.channels + tokens * (maps + reading)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Queries and keys with what their maps make of them, values, what is found; two numbers of each pair."""
        rows, length = batch.layout.shape
        return rows * length * (14 * self.channels + 2 * length * self.number)


def _features(x: Tensor, maps: Tensor) -> Tensor:
    """x (B, H, S, K), maps (H, K, K) -> (B, H, S, 2K), positive, of sum 1."""
    mapped = x @ maps.transpose(-2, -1)
    return torch.softmax(torch.cat([mapped, -mapped], -1), -1)


def _kept(cache: RunningCache, k: Tensor, values: Tensor, document: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """What is remembered once the first counts[b] tokens are kept: the sum over those of the last one's document."""
    last = document.gather(1, (counts - 1).clamp_min(0)[:, None])[:, 0]
    last = torch.where(counts > 0, last, cache["document"])
    first = torch.arange(document.shape[1], device=counts.device) < counts[:, None]
    own = (first & (document == last[:, None]))[:, None, :, None]
    old = (cache["document"] == last)[:, None, None, None]
    return {"state": cache["state"] * old + (k * own).transpose(-2, -1) @ values, "document": last}
