"""What a trained model may choose anew at each call: the width of nested feed-forwards, how many experts a token takes,
and the bits of experts. choose sets them; chosen sets them for a while.

A model whose feed-forwards are nested has every width up to its own (MatFormer, arXiv 2310.07707), each tower another
if one likes; of routed experts a token may take fewer or more than in training (Dense2MoE, arXiv 2510.09094); and of
experts that are held in 8 bits the top bits may do (D2MoE, arXiv 2504.15299), in which the experts may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from torch import nn

from mot_gen.backbone.experts.moe import MixtureOfExperts
from mot_gen.backbone.feed_forwards.nested import NestedUnit
from mot_gen.backbone.storage.byte_storage import BITS, ByteMatrix
from mot_gen.backbone.storage.half_storage import HalfStorage
from mot_gen.errors import InputError, nearest, require

M = TypeVar("M", bound=nn.Module)


@contextmanager
def chosen(
    backbone: Any,
    width: int | Mapping[str, int] | None = None,
    experts: int | None = None,
    bits: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Within, the backbone is as `choose` makes it, and afterwards as it was before."""
    before = _settings(backbone)
    try:
        choose(backbone, width, experts, bits)
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


Setting = tuple[Any, str, Any]  # owner, attribute, value


def _settings(backbone: Any) -> list[Setting]:
    """All that `choose` may change."""
    layers = _all(backbone, MixtureOfExperts)
    projections = chain.from_iterable(map(_in_bytes, layers))
    return [
        *_settings_of(_all(backbone, NestedUnit), "widths"),
        *_settings_of(layers, "choose"),
        *_settings_of(chain.from_iterable(projections), "bits"),
    ]


def _settings_of(owners: Iterable[Any], attribute: str) -> list[Setting]:
    return [(owner, attribute, getattr(owner, attribute)) for owner in owners]


def choose(
    backbone: Any,
    width: int | Mapping[str, int] | None = None,
    experts: int | None = None,
    bits: int | Sequence[int] | None = None,
) -> None:
    """width: hidden channels in use of nested feed-forwards, of all towers or by tower. experts: how many a token
    takes, 0 where shared ones stand beside them. bits: of experts that are held in 8 bits (`weights="int8"`), those in
    use, of all or one number for each expert of a layer. InputError for what the backbone cannot do."""
    if width is not None:
        _choose_width(backbone, width)
    if experts is not None:
        _choose_experts(backbone, experts)
    if bits is not None:
        _choose_bits(backbone, bits)


def _all(module: Any, kind: type[M]) -> list[M]:
    return [part for part in module.modules() if isinstance(part, kind)]


def _choose_width(backbone: Any, width: int | Mapping[str, int]) -> None:
    units, towers = _all(backbone, NestedUnit), backbone.towers
    require(units, "width: this model has no nested feed-forward; train it with backbone.feed_forward=nested")
    adapted = any(map(_has_adapter, units))
    require(not adapted, "width: this model has adapters, which need its full width; merge them first")
    given = width if isinstance(width, Mapping) else dict.fromkeys(towers, width)
    _check_widths(given, towers, units[0].hidden)
    for unit in units:
        unit.widths = [given.get(tower, before) for tower, before in zip(towers, unit.widths)]


def _has_adapter(unit: NestedUnit) -> bool:
    return getattr(unit.gate_up, "adapter", None) is not None


def _check_widths(given: Mapping[str, int], towers: Sequence[str], whole: int) -> None:
    """InputError for an unknown tower, and for a width beyond that of the whole feed-forward."""
    for tower, channels in given.items():
        if tower not in towers:
            raise InputError(f"width: {tower!r} is not a tower" + nearest(tower, towers))
        fits = 1 <= channels <= whole
        require(fits, f"width: {tower} must be from 1 to {whole}, that of its parent, got {channels}")


def _choose_experts(backbone: Any, number: int) -> None:
    """Let every token take so many experts; InputError where it cannot."""
    layers = _all(backbone, MixtureOfExperts)
    fits = layers and all(map(_tokens_choose, layers))
    require(fits, "experts: tokens must choose their experts; train with backbone.router=token_choice")
    least = max(map(_least_experts, layers))
    most = min(map(_fewest_experts, layers))
    possible = least <= number <= most
    require(possible, f"experts: must be from {least} to {most}, the number of experts, got {number}")
    for layer in layers:
        layer.choose = replace(layer.choose, top_k=number)  # type: ignore[call-arg] # a token-choice router's field


def _tokens_choose(layer: MixtureOfExperts) -> bool:
    return hasattr(layer.choose, "top_k")


def _least_experts(layer: MixtureOfExperts) -> int:
    """How many experts a token must take: none where shared ones stand beside them."""
    return 1 if layer.shared is None else 0


def _fewest_experts(layer: MixtureOfExperts) -> int:
    """The number of experts in the smallest pool that has a choice."""
    return min(count for count in layer.experts if count > 1)


def _choose_bits(backbone: Any, bits: int | Sequence[int]) -> None:
    """Let experts be their matrices' top bits; InputError where they are not held in 8 bits."""
    layers = _all(backbone, MixtureOfExperts)
    fits = layers and all(map(_in_bytes, layers))
    require(fits, "bits: experts must be held in 8 bits; load a model with experts by weights='int8'")
    for layer in layers:
        by_expert = _bits_by_expert(bits, sum(layer.experts))
        for matrices in _in_bytes(layer):
            for matrix, own in zip(matrices, by_expert):
                matrix.bits = own


def _bits_by_expert(bits: int | Sequence[int], experts: int) -> list[int]:
    """The bits of each expert; InputError for a number that cannot be."""
    found = [bits] * experts if isinstance(bits, int) else list(bits)
    possible = set(range(1, BITS + 1)).issuperset(found)
    fits = possible and len(found) == experts
    require(fits, f"bits: must be from 1 to {BITS}, one or {experts} numbers, an expert each, got {bits}")
    return found


def _in_bytes(layer: MixtureOfExperts) -> list[list[ByteMatrix]]:
    """For each projection that is held in 8 bits, the matrices of the layer's experts."""
    found = []
    for projection in _all(layer.feed_forward, HalfStorage):
        matrices = [matrix for matrix in projection.halves or () if isinstance(matrix, ByteMatrix)]
        if matrices:
            found.append(matrices)
    return found
