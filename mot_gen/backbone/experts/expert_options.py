"""Options of the feed-forward `experts`: ExpertOptions, with what follows from them and what does not fit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from mot_gen.backbone import parts
from mot_gen.backbone.named_parts import read_part
from mot_gen.errors import nearest


@dataclass(frozen=True)
class ExpertOptions(parts.FeedForward):
    """experts: their number in each pool, or {tower: number} where ffn is untied; a tower that is not named has one.
    router: a kind, or a kind with its options.
    unit: what an expert is.
    shared_experts: as many units that every token passes through beside its own.
    balance_weight: of the loss that keeps loads even, or {tower: weight}.
    """

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
        router = read_part("router", self.router, vars(config), f"{self.where}.router")
        unit = read_part("feed_forward", self.unit, vars(config), f"{self.where}.unit")
        return replace(self, router=router.fit(config), unit=unit.fit(config))

    def check(self, config: Any, towers: Sequence[str]) -> None:
        table = self.table(self.pools(config.untied, towers))
        if self.shared_experts and max(table) == 1:
            raise self.refuse("shared_experts", "stand beside routed ones; give backbone.experts, above 1")
        fewest = min((number for number in table if number > 1), default=1)
        if not 1 <= self.router.taken <= fewest:
            complaint = f"must be from 1 to the number of experts, {fewest}, got {self.router.taken}"
            raise self.router.refuse("top_k", complaint)

    def pools(self, untied: Collection[str], towers: Sequence[str]) -> list[str]:
        """The towers where they own the feed-forward, else one pool of all tokens."""
        return list(towers) if "ffn" in untied else ["all"]

    def table(self, pools: Sequence[str]) -> list[int]:
        """The number of experts of each pool."""
        self._check_pools("experts", pools)
        self._check_pools("balance_weight", pools)
        given = self.experts if isinstance(self.experts, dict) else dict.fromkeys(pools, self.experts)
        for name, number in given.items():
            if number < 1:
                raise self.refuse("experts", f"{name} needs at least 1, got {number}")
        return [given.get(name, 1) for name in pools]

    def _check_pools(self, option: str, pools: Sequence[str]) -> None:
        """InputError where an option names a tower that has no pool."""
        given = getattr(self, option)
        if not isinstance(given, dict):
            return
        for name in given:
            if name not in pools:
                raise self.refuse(option, f"{name!r} owns no feed-forward" + nearest(name, pools))

    def balance_weights(self, pools: Sequence[str]) -> list[float]:
        """The weight of the balance loss of each pool; 0 for a tower that is not named."""
        if isinstance(self.balance_weight, dict):
            return [self.balance_weight.get(name, 0.0) for name in pools]
        return [self.balance_weight] * len(pools)
