"""Attention modules (ModuleFormer, arXiv 2306.04640): each token chooses `kept` of E heads with one k and v.

    y = sum over the chosen e of  softmax(W x)_e  out_e(attention(query_e(x), k, v))

A module is one head: a projection to queries and one from what they find, of its own; k and v are one pair for all.
Scores break sticks as published, or are a softmax (`scores`). The published gate has a hidden layer; here it is the
linear one that experts have, and its score is no more renormalised than theirs.

Shapes: B rows, S slots, T tokens in tower order, E modules, M = kept, D width, K head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.cache import KeyValueCache
from mot_gen.backbone.experts.moe import times_each
from mot_gen.backbone.mixers import attention, stick_breaking
from mot_gen.backbone.owners import ExpertOwners, normal
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.rotary import rotate
from mot_gen.backbone.routing import ExpertRouting, Initial, Routing, permute_rows, rows_of
from mot_gen.errors import nearest

SCORES = ("stick_breaking", "softmax")


@dataclass(frozen=True)
class Mixer(stick_breaking.Mixer):
    """number: E. kept: M. scores: "stick_breaking" or "softmax". Of the options of `attention` those that say head_dim
    (D / heads when not given) and positions; there are no norms of queries and keys."""

    number: int = 4
    kept: int = 2
    scores: str = "stick_breaking"

    untied = ("kv", "modules")

    def fit(self, config: Any) -> Self:
        self.require_counts("number", "kept")
        if self.kept > self.number:
            raise self.refuse("kept", f"must be from 1 to the number of modules, {self.number}, got {self.kept}")
        if self.scores not in SCORES:
            raise self.refuse("scores", f"{self.scores!r} is not known" + nearest(self.scores, SCORES))
        return super().fit(config)

    def check(self, config: Any, towers: Sequence[str]) -> None:
        super().check(config, towers)
        if config.head_choice != "every" or config.widths:
            raise self.refuse("kind", "modules are chosen heads of one width; drop backbone.head_choice and widths")

    def modules(self, block: Layer) -> parts.Modules:
        owners, (_, _, width) = block.owners, self.set_up(block)
        block.heads, block.kv_heads = self.kept, 1
        block.table = [self.number] * owners.sets("modules")
        experts = ExpertOwners(owners, block.table)
        return {
            "kv": owners.inward("kv", 2 * width),
            "module_router": nn.Parameter(torch.empty(sum(block.table), owners.dim)),
            "queries": experts.inward("modules", width),
            "outs": experts.outward("modules", width),
        }

    def initial(self, block: Layer) -> Mapping[str, Initial]:
        return {"module_router": partial(normal, alike=False)}

    def owned_by(self, block: Layer) -> Mapping[str, list[int]]:
        slices = ExpertOwners(block.owners, block.table).slices("modules")
        return {} if slices is None else {"module_router": slices}

    def repeats(self, block: Layer) -> bool:
        return False

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, plan: Plan) -> Tensor:
        mixer = attention.Mixer if self.scores == "softmax" else stick_breaking.Mixer
        return mixer.attend(self, block, q, k, v, mask, plan)

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: KeyValueCache | None) -> Tensor:
        routing, mask, width = plan.routing, plan.made[block.sight], block.head_dim
        gate, order, chosen = self._choose(block, x, routing)
        token, back = order // self.kept, order.argsort()
        q = permute_rows(block.queries(x.index_select(0, token), chosen), back, order).view(-1, self.kept, width)
        k, v = block.kv(x, routing)[:, None].chunk(2, dim=-1)
        rotation = plan.routing.sort(plan.made[block.turning])
        tokens = (rotate(q, rotation), rotate(k, rotation), v)
        q, k, v = (routing.unsort(t).view(plan.rows, -1, t.shape[1], width).transpose(1, 2) for t in tokens)
        if cache is not None:
            k, v = cache.write(k, v, mask.shape[-1])
        mixed = self.attend(block, q, k, v, mask, plan).transpose(1, 2).flatten(0, 1)
        found = permute_rows(routing.sort(mixed).flatten(0, 1), order, back)
        y = block.outs(found, chosen) * gate[order, None]
        return torch.zeros_like(x).index_add(0, token, y.to(x.dtype))

    def _choose(self, block: Layer, x: Tensor, routing: Routing) -> tuple[Tensor, Tensor, Routing]:
        """The weights (T * M,) of what tokens choose; their order by module; and how many each module has."""
        counts = routing.counts if len(block.table) > 1 else [len(x)]
        routers = zip(x.split(counts), block.module_router.split(self.number))
        logits = torch.cat([F.linear(part, router) for part, router in routers]).float()
        gate, module = logits.softmax(-1).topk(self.kept, dim=-1)
        pool = rows_of(torch.arange(len(block.table), device=x.device), routing)
        module = (module + pool.view(-1, 1) * self.number).flatten()
        chosen = ExpertRouting(times_each(module, sum(block.table)), len(module))
        return gate.flatten(), module.argsort(stable=True), chosen

    def _flops(self, block: Layer, batch: Batch, heads: int, pairs: int) -> int:
        projections = block.owners.channels(batch.routing) * (2 * (self.kept + 1) * block.head_dim + self.number)
        return 2 * (projections + 2 * pairs * self.kept * block.head_dim)

    def idle_parameters(self, block: Layer, tower: int) -> int:
        return 2 * (self.number - self.kept) * block.owners.dim * block.head_dim
