"""The width of nested feed-forwards, and the experts that a token takes, as chosen at call time: choose, chosen.

A model whose feed-forwards are nested has every width up to its own (MatFormer, arXiv 2310.07707), each tower another
if one likes; and of routed experts a token may take fewer or more than in training (Dense2MoE, arXiv 2510.09094).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from mot_gen.backbone.feed_forwards.nested import NestedUnit
from mot_gen.backbone.moe import MixtureOfExperts
from mot_gen.errors import InputError, nearest

M = TypeVar("M", bound=nn.Module)


@contextmanager
def chosen(backbone: Any, width: int | Mapping[str, int] | None = None, experts: int | None = None) -> Iterator[None]:
    """Within, the backbone is as `choose` makes it, and afterwards as it was before."""
    units, layers = _all(backbone, NestedUnit), _all(backbone, MixtureOfExperts)
    widths, routers = [unit.widths for unit in units], [layer.choose for layer in layers]
    try:
        choose(backbone, width, experts)
        yield
    finally:
        for unit, before in zip(units, widths):
            unit.widths = before
        for layer, router in zip(layers, routers):
            layer.choose = router


def choose(backbone: Any, width: int | Mapping[str, int] | None = None, experts: int | None = None) -> None:
    """width: hidden channels in use of nested feed-forwards, of all towers or by tower. experts: how many a token
    takes, 0 where shared ones stand beside them. InputError for what the backbone cannot do."""
    if width is not None:
        _choose_width(backbone, width)
    if experts is not None:
        _choose_experts(backbone, experts)


def _all(backbone: Any, kind: type[M]) -> list[M]:
    return [module for module in backbone.modules() if isinstance(module, kind)]


def _choose_width(backbone: Any, width: int | Mapping[str, int]) -> None:
    units, towers = _all(backbone, NestedUnit), backbone.towers
    if not units:
        raise InputError("width: this model has no nested feed-forward; train it with backbone.feed_forward=nested")
    for unit in units:
        if getattr(unit.gate_up, "adapter", None) is not None:
            raise InputError("width: this model has adapters, which need its full width; merge them first")
    given = width if isinstance(width, Mapping) else dict.fromkeys(towers, width)
    _check_widths(given, towers, units[0].hidden)
    for unit in units:
        unit.widths = [given.get(tower, before) for tower, before in zip(towers, unit.widths)]


def _check_widths(given: Mapping[str, int], towers: Sequence[str], whole: int) -> None:
    """InputError for a tower that is not there, and for a width beyond that of its parent."""
    for tower, channels in given.items():
        if tower not in towers:
            raise InputError(f"width: {tower!r} is not a tower" + nearest(tower, towers))
        if not 1 <= channels <= whole:
            raise InputError(f"width: {tower} must be from 1 to {whole}, that of its parent, got {channels}")


def _choose_experts(backbone: Any, number: int) -> None:
    """Let every token take so many experts; InputError where it cannot."""
    layers = _all(backbone, MixtureOfExperts)
    tokens_choose = [hasattr(layer.choose, "top_k") for layer in layers]
    if not layers or not all(tokens_choose):
        raise InputError("experts: tokens must choose their experts; train with backbone.router=token_choice")
    least = max(_least_experts(layer) for layer in layers)
    most = min(_fewest_experts(layer) for layer in layers)
    if not least <= number <= most:
        raise InputError(f"experts: must be from {least} to {most}, the number of experts, got {number}")
    for layer in layers:
        layer.choose = replace(layer.choose, top_k=number)  # type: ignore[call-arg] # a token-choice router's field


def _least_experts(layer: MixtureOfExperts) -> int:
    """How many experts a token must take: none where shared ones stand beside them."""
    return 1 if layer.shared is None else 0


def _fewest_experts(layer: MixtureOfExperts) -> int:
    """The number of experts in the smallest pool that has a choice."""
    return min(count for count in layer.experts if count > 1)
