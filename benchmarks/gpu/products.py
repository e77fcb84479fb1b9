"""Projections of towers in bf16: one grouped product beside a product for each tower, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.rows import Figures, difference
from benchmarks.gpu.setting import Setting
from mot_gen.backbone.routing import Routing, grouped_linear, route

AGREES = 2e-2  # of the largest value: bf16 keeps 8 bits


def products(setting: Setting) -> Figures:
    """From the width of 443M to that of its feed-forward, where text has a tenth, half and nearly all of the tokens."""
    tokens, width, wide = setting.pick((8192, 1024, 2816), (64, 32, 64))
    x = torch.randn(tokens, width, device=setting.device, dtype=setting.dtype, requires_grad=True)
    weight = torch.randn(2, wide, width, device=setting.device, dtype=setting.dtype) * width**-0.5
    weight.requires_grad_()
    figures: dict[str, float | str] = {"tokens": tokens, "matrices": f"{width} x {wide}"}
    for share in (0.1, 0.5, 0.99):
        first = int(share * tokens)
        routing = route((torch.arange(tokens, device=setting.device) >= first).long(), 2, [first, tokens - first])
        both = {"grouped": grouped_linear, "by tower": by_tower}
        results = {name: passes(function, x, weight, routing) for name, function in both.items()}
        apart = max(map(difference, results["grouped"], results["by tower"]))
        assert apart < AGREES, f"grouped products differ from those by tower by {apart}"
        seconds = setting.alternate({name: timed(function, x, weight, routing) for name, function in both.items()})
        figures[f"time by tower over grouped, {share:.0%} in the first"] = seconds["by tower"] / seconds["grouped"]
        figures[f"largest difference, {share:.0%} in the first"] = apart
    return figures


def by_tower(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    return torch.cat([F.linear(part, own) for part, own in zip(x.split(routing.counts), weight.unbind(0))])


def passes(function, x: Tensor, weight: Tensor, routing: Routing) -> list[Tensor]:
    """What a product gives, and its two gradients."""
    y = function(x, weight, routing)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), torch.ones_like(y))]


def timed(function, *given):
    return lambda: passes(function, *given)
