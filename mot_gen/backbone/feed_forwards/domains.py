"""A feed-forward with an adapter for each of several domains beside it, and a gate (MixDA, arXiv 2306.05406).

    FFN(x) + sum over domains i of  g_i B_i silu(A_i h)        h: the feed-forward's hidden channels

    g = softmax(three layers of x) over the domains and a place for none of them

Each domain learns alone first: with `use: books` and `training.learns: [books]` its adapter has the weight 1, and
nothing else moves. Then, without `use` and with `training.learns: [gate]`, the gate learns which are wanted. B begins
at zero, so that a model begins as the one that `training.init` names.

The published gate reads a sequence's last token, which a causal model may not; here each token has its own. It weighs
the feed-forward too, which would halve it at first; here the feed-forward keeps its weight.

Shapes: n tokens, D width, F width of the feed-forward, r rank, w width of the gate, N domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.adapted_unit import AdaptedUnit
from mot_gen.backbone.adapters import DomainAdapter, DomainGate, beside
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.errors import nearest


@dataclass(frozen=True)
class FeedForward(AdaptedUnit):
    """domains: their names. use: the one whose adapter has the weight 1; None: the gate weighs them. gate_width: w. The
    others: see `AdaptedUnit`.
    """

    domains: Sequence[str] = ()
    use: str | None = None
    gate_width: int = 16

    def fit(self, config: Any) -> Self:
        self.require_counts("rank", "gate_width")
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise self.refuse("domains", f"must name at least one, and each once, got {list(self.domains)}")
        for name in self.domains:
            if not name.isidentifier() or name == "gate" or hasattr(nn.ModuleDict, name):
                raise self.refuse("domains", f"{name!r} cannot name parameters; give another word of letters")
        if self.use is not None and self.use not in self.domains:
            raise self.refuse("use", f"{self.use!r} is not among the domains" + nearest(self.use, self.domains))
        return replace(self, unit=self.fitted_unit(config))

    def modules(self, block: Layer) -> parts.Modules:
        owners = block.owners
        side = nn.ModuleDict({name: DomainAdapter(owners, self.rank, self.ffn_dim) for name in self.domains})
        if self.use is None:
            side["gate"] = DomainGate(owners, self.gate_width, len(self.domains))
        return {"ffn": self.unit.unit(block, owners), "ffn_side": beside(side)}

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        routing, side = plan.routing, block.ffn_side.adapter
        hidden = block.ffn.hidden_channels(x, routing)
        y = block.ffn.down(hidden, routing)
        weights = self._fixed(x) if self.use else side["gate"](x, routing)
        for name, weight in zip(self.domains, weights):
            y = y + weight * side[name](hidden, routing).to(y.dtype)
        return y

    def _fixed(self, x: Tensor) -> Tensor:
        """(N,) 1 for the domain in use. The others learn nothing, but have gradients, as processes expect."""
        return x.new_tensor([float(name == self.use) for name in self.domains])

    def flops(self, block: Layer, batch: Batch) -> int:
        """Beside the unit's, 2 r (F + D) for each domain, and the gate."""
        dim, number = block.owners.dim, len(self.domains)
        each = number * self.rank * (self.ffn_dim + dim)
        if self.use is None:
            each += self.gate_width * (dim + self.gate_width + number + 1)
        return self.unit.flops(block, batch) + 2 * batch.layout.modality.numel() * each

    def activations(self, block: Layer, batch: Batch) -> float:
        """The unit's, and of each adapter its hidden channels twice and its output."""
        each = len(self.domains) * (2 * self.rank + block.owners.dim)
        return self.unit.activations(block, batch) + batch.layout.modality.numel() * each
