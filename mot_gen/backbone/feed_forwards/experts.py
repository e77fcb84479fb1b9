"""Several feed-forwards, the experts, among which tokens are routed; see `moe` and `pools`.

Shapes: T tokens, E experts of a pool, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.moe import MixtureOfExperts
from mot_gen.backbone.owners import ExpertOwners, normal
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.pools import Pools, assignments, make_pools
from mot_gen.errors import nearest


@dataclass(frozen=True)
class FeedForward(parts.FeedForward):
    """experts: their number in each pool, or {tower: number} where ffn is untied; a tower that is not named has one.
    router: a kind, or a kind with its options. unit: what an expert is. shared_experts: as many units that every token
    passes through beside its own. balance_weight: of the loss that keeps loads even, or {tower: weight}."""

    experts: int | dict[str, int] = 4
    router: Any = "expert_choice"
    unit: Any = "gated"
    shared_experts: int = 0
    balance_weight: float | dict[str, float] = 0.01

    untied = ("ffn",)

    @property
    def ffn_dim(self) -> int:
        return self.unit.ffn_dim

    def fit(self, config: Any) -> Self:
        router = parts.read_part("router", self.router, vars(config), f"{self.where}.router")
        unit = parts.read_part("feed_forward", self.unit, vars(config), f"{self.where}.unit")
        return replace(self, router=router.fit(config), unit=unit.fit(config))

    def check(self, config: Any, towers: Sequence[str]) -> None:
        table = self.table(self.pools(config.untied, towers))
        if self.shared_experts and max(table) == 1:
            raise self.refuse("shared_experts", "stand beside routed ones; give backbone.experts, above 1")
        fewest = min((number for number in table if number > 1), default=1)
        if not 1 <= self.router.taken <= fewest:
            complaint = f"must be from 1 to the number of experts, {fewest}, got {self.router.taken}"
            raise self.router.refuse("top_k", complaint)

    def pools(self, untied: Sequence[str], towers: Sequence[str]) -> list[str]:
        """The towers where they own the feed-forward, else one pool of all tokens."""
        return list(towers) if "ffn" in untied else ["all"]

    def table(self, pools: Sequence[str]) -> list[int]:
        """The number of experts of each pool."""
        given = self.experts if isinstance(self.experts, dict) else dict.fromkeys(pools, self.experts)
        weights = self.balance_weight if isinstance(self.balance_weight, dict) else {}
        for option, names in (("experts", given), ("balance_weight", weights)):
            for name in names:
                if name not in pools:
                    raise self.refuse(option, f"{name!r} owns no feed-forward" + nearest(name, pools))
        for name, number in given.items():
            if number < 1:
                raise self.refuse("experts", f"{name} needs at least 1, got {number}")
        return [given.get(name, 1) for name in pools]

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
        module = MixtureOfExperts(owners.dim, table, units, self.router, self._balance_weights(pools), shared)
        slices = ExpertOwners(owners, table).slices("ffn")
        module.owned_by = {} if slices is None else {"router": slices}
        module.initial = {"router": partial(normal, alike=False)}
        return {"ffn": module}

    def _balance_weights(self, pools: Sequence[str]) -> list[float]:
        """Of each pool; a tower that is not named has none."""
        if isinstance(self.balance_weight, dict):
            return [self.balance_weight.get(name, 0.0) for name in pools]
        return [self.balance_weight] * len(pools)

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
            return make_pools(layout, routing, counts, block.experts, expert_choice=not by_token)

        return batch.once(block.pools, make)

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        return block.ffn(x, plan.made[block.pools] if block.routed else plan.routing)

    def flops(self, block: Layer, batch: Batch) -> int:
        if not block.routed:
            return self.unit.flops(block, batch)
        pools, dim = self._pools(block, batch), block.owners.dim
        passes = assignments(pools, block.experts, self.router.taken)
        passes += batch.layout.modality.numel() * self.shared_experts
        scored = sum(count * number for count, number in zip(pools.counts, block.experts) if number > 1)
        return 2 * (passes * self.unit.matrices * dim * self.unit.ffn_dim + scored * dim)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Of each pass through a unit what the unit keeps, and 3 numbers of width D for the way there and back."""
        kept = self.unit.activations(block, batch)
        if not block.routed:
            return kept
        return (self.router.taken + self.shared_experts) * kept + (
            batch.layout.modality.numel() * 3 * self.router.taken * block.owners.dim
        )

    def auxiliary_loss(self, block: Layer) -> Tensor | float:
        return block.ffn.auxiliary_loss() if block.routed else 0.0

    def idle_parameters(self, block: Layer, tower: int) -> int:
        if not block.routed:
            return 0
        number = block.experts[tower if len(block.experts) > 1 else 0]
        taken = self.router.taken if number > 1 else 1
        all_units = sum(p.numel() for p in block.ffn.feed_forward.parameters())
        return (number - taken) * all_units // sum(block.experts)
