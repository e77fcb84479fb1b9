"""Adapters that stand in a block beside what is frozen: GatedAdapter, RoutedAdapter, DomainAdapter with DomainGate,
beside.

    gated (PILL, arXiv 2311.02126)    a(x) = B (silu(G x) * A x)
    routed (MoAE, arXiv 2409.06154)   a(x) = sum over the best top_k of E experts of  score_e B_e silu(A_e x)
    of a domain (MixDA, 2306.05406)   a(h) = B silu(A h)    of a feed-forward's hidden channels h

B begins at zero, so that a model begins as the one whose weights it is given by `training.init`; with
`training.learns: [adapter]` nothing else learns. They are not linear, and so not merged. MoAE's capacity, which drops
tokens by their place in the batch, and its noise are left out.

Shapes: n tokens, S sets of parameters, E experts of each, D width, r rank, F width of a feed-forward, w width
of a gate, N domains.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.experts.moe import best_experts
from mot_gen.backbone.owners import Owners, normal, zeros
from mot_gen.backbone.routing import ExpertRouting, Owned, Routing, grouped_linear


def beside(adapter: nn.Module) -> nn.Module:
    """A module whose parameters are named as an adapter's: `side.adapter.a`."""
    side = nn.Module()
    side.adapter = adapter
    return side


class GatedAdapter(Owned):
    """gate, a: (S, r, D). b: (S, D, r)."""

    def __init__(self, owners: Owners, name: str, rank: int):
        super().__init__()
        sets, dim = owners.sets(name), owners.dim
        self.gate, self.a = (nn.Parameter(torch.empty(sets, rank, dim)) for _ in range(2))
        self.b = nn.Parameter(torch.empty(sets, dim, rank))
        owners.own(self, name, gate=normal, a=normal, b=zeros)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        hidden = F.silu(grouped_linear(x, self.gate, routing)) * grouped_linear(x, self.a, routing)
        return grouped_linear(hidden, self.b, routing)


class RoutedAdapter(Owned):
    """router: (S, E, D). a: (S, E, r, D). b: (S, E, D, r)."""

    def __init__(self, owners: Owners, name: str, rank: int, experts: int, top_k: int):
        super().__init__()
        sets, dim, self.top_k = owners.sets(name), owners.dim, top_k
        self.router = nn.Parameter(torch.empty(sets, experts, dim))
        self.a = nn.Parameter(torch.empty(sets, experts, rank, dim))
        self.b = nn.Parameter(torch.empty(sets, experts, dim, rank))
        owners.own(self, name, router=normal, a=normal, b=zeros)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        counts = routing.counts if len(self.router) > 1 else [len(x)]
        parts = zip(x.split(counts), self.router, self.a, self.b)
        return torch.cat([self._of(*part) for part in parts])

    def _of(self, x: Tensor, router: Tensor, a: Tensor, b: Tensor) -> Tensor:
        choice, _ = best_experts(F.linear(x, router).float().softmax(-1), self.top_k)
        experts = ExpertRouting(choice.counts, len(choice.token))
        y = grouped_linear(F.silu(grouped_linear(x[choice.token], a, experts)), b, experts)
        return torch.zeros_like(x).index_add(0, choice.token, (y * choice.gate[:, None]).to(x.dtype))


class DomainAdapter(Owned):
    """a: (S, r, F). b: (S, D, r), zero at first."""

    def __init__(self, owners: Owners, rank: int, hidden: int):
        super().__init__()
        sets = owners.sets("adapter")
        self.a = nn.Parameter(torch.empty(sets, rank, hidden))
        self.b = nn.Parameter(torch.empty(sets, owners.dim, rank))
        owners.own(self, "adapter", a=normal, b=zeros)

    def forward(self, hidden: Tensor, routing: Routing) -> Tensor:
        """hidden (n, F) -> (n, D)."""
        return grouped_linear(F.silu(grouped_linear(hidden, self.a, routing)), self.b, routing)


class DomainGate(Owned):
    """first: (S, w, D). second: (S, w, w). b: (S, N + 1, w), zero at first, so that all weigh the same."""

    def __init__(self, owners: Owners, width: int, domains: int):
        super().__init__()
        sets = owners.sets("adapter")
        self.first = nn.Parameter(torch.empty(sets, width, owners.dim))
        self.second = nn.Parameter(torch.empty(sets, width, width))
        self.b = nn.Parameter(torch.empty(sets, domains + 1, width))
        owners.own(self, "adapter", first=normal, second=normal, b=zeros)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (N, n, 1), of each domain the weight of every token's adapter."""
        for weight in (self.first, self.second):
            x = F.silu(grouped_linear(x, weight, routing))
        weights = grouped_linear(x, self.b, routing).float().softmax(-1)
        return weights[:, 1:].t().unsqueeze(-1).to(x.dtype)
