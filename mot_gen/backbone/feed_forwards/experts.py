"""Several feed-forwards, the experts, among which tokens are routed; see `moe` and `pools`.

Shapes: T tokens, E experts of a pool, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.experts.expert_options import ExpertOptions
from mot_gen.backbone.experts.moe import MixtureOfExperts
from mot_gen.backbone.experts.pools import Pools, assignments, make_pools
from mot_gen.backbone.owners import ExpertOwners, normal
from mot_gen.backbone.parts import Layer


@dataclass(frozen=True)
class FeedForward(ExpertOptions):
    """Its options are those of `ExpertOptions`: experts, router, unit, shared_experts, balance_weight."""

    def modules(self, block: Layer) -> parts.Modules:
        owners = block.owners
        pools = self.pools(owners.untied, owners.towers)
        block.experts = table = self.table(pools)
        block.routed = max(table) > 1
        if not block.routed:
            return {"ffn": self.unit.unit(block, owners)}
        block.pools = f"pools of {table}, {self.router!r}"
        units = self.unit.unit(block, ExpertOwners(owners, table))
        shared = None
        if self.shared_experts:
            shared = self.unit.unit(block, ExpertOwners(owners, [1]), times=self.shared_experts)
        module = MixtureOfExperts(owners.dim, table, units, self.router, self.balance_weights(pools), shared)
        module.number = block.number
        slices = ExpertOwners(owners, table).slices("ffn")
        if self.router.scores:
            module.owned_by = {} if slices is None else {"router": slices}
            module.initial = {"router": partial(normal, alike=False)}
        return {"ffn": module}

    def causal(self, block: Layer) -> bool:
        return not block.routed or self.router.causal(block)

    def repeats(self, block: Layer) -> bool:
        return not block.routed

    def prepare(self, block: Layer, batch: Batch) -> None:
        if block.routed:
            self._pools(block, batch)

    def _pools(self, block: Layer, batch: Batch) -> Pools:
        def make() -> Pools:
            routing, layout = batch.routing, batch.layout
            counts = routing.counts if len(block.experts) == len(routing.counts) else [layout.modality.numel()]
            by_token = self.router.causal(block) or batch.cache is not None
            return make_pools(layout, routing, counts, block.experts, not by_token, self.router.on_grid)

        return batch.once(block.pools, make)

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        return block.ffn(x, plan.made[block.pools] if block.routed else plan.routing)

    def flops(self, block: Layer, batch: Batch) -> int:
        if not block.routed:
            return self.unit.flops(block, batch)
        pools, dim = self._pools(block, batch), block.owners.dim
        passes = assignments(pools, block.experts, partial(self.router.charged, learns=block.training))
        passes += batch.layout.modality.numel() * self.shared_experts
        scored = 0
        if self.router.scores:
            for count, number in zip(pools.counts, block.experts):
                if number > 1:
                    scored += count * number
        return 2 * (passes * self.unit.matrices * dim * self.unit.ffn_dim + scored * dim)

    def activations(self, block: Layer, batch: Batch) -> float:
        """For each pass through an expert: what the expert keeps, and 3 D numbers for the way there and back."""
        kept = self.unit.activations(block, batch)
        if not block.routed:
            return kept
        moved = batch.layout.modality.numel() * 3 * self.router.taken * block.owners.dim
        return (self.router.taken + self.shared_experts) * kept + moved

    def auxiliary_loss(self, block: Layer) -> Tensor | float:
        return block.ffn.auxiliary_loss() if block.routed else 0.0

    def idle_parameters(self, block: Layer, tower: int) -> int:
        if not block.routed:
            return 0
        number = block.experts[tower if len(block.experts) > 1 else 0]
        taken = self.router.taken if number > 1 else 1
        all_units = sum(p.numel() for p in block.ffn.feed_forward.parameters())
        return (number - taken) * all_units // sum(block.experts)
