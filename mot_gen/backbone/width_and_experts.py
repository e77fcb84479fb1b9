"""The width of nested feed-forwards, the experts that a token takes and their bits, as chosen at call time: choose,
chosen.

A model whose feed-forwards are nested has every width up to its own (MatFormer, arXiv 2310.07707), each tower another
if one likes; of routed experts a token may take fewer or more than in training (Dense2MoE, arXiv 2510.09094); and of
experts that are held in 8 bits the top bits may do (D2MoE, arXiv 2504.15299), in which the experts may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from mot_gen.backbone.byte_storage import BITS, ByteMatrix
from mot_gen.backbone.feed_forwards.nested import NestedUnit
from mot_gen.backbone.half_storage import HalfStorage
from mot_gen.backbone.moe import MixtureOfExperts
from mot_gen.errors import InputError, nearest

M = TypeVar("M", bound=nn.Module)


@contextmanager
def chosen(
    backbone: Any,
    width: int | Mapping[str, int] | None = None,
    experts: int | None = None,
    bits: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Within, the backbone is as `choose` makes it, and afterwards as it was before."""
    held: list[tuple[Any, str]] = [(unit, "widths") for unit in _all(backbone, NestedUnit)]
    layers = _all(backbone, MixtureOfExperts)
    held += [(layer, "choose") for layer in layers]
    held += [(matrix, "bits") for layer in layers for matrices in _in_bytes(layer) for matrix in matrices]
    before = [getattr(each, name) for each, name in held]
    try:
        choose(backbone, width, experts, bits)
        yield
    finally:
        for (each, name), value in zip(held, before):
            setattr(each, name, value)


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


def _choose_bits(backbone: Any, bits: int | Sequence[int]) -> None:
    """Let experts be their matrices' top bits; InputError where they are not held in 8 bits."""
    layers = _all(backbone, MixtureOfExperts)
    if not layers or not all(map(_in_bytes, layers)):
        raise InputError("bits: experts must be held in 8 bits; load a model with experts by weights='int8'")
    for layer in layers:
        number = sum(layer.experts)
        each = [bits] * number if isinstance(bits, int) else list(bits)
        if len(each) != number or not all(1 <= own <= BITS for own in each):
            raise InputError(f"bits: must be from 1 to {BITS}, one or {number} numbers, an expert each, got {bits}")
        for matrices in _in_bytes(layer):
            for matrix, own in zip(matrices, each):
                matrix.bits = own


def _in_bytes(layer: MixtureOfExperts) -> list[list[ByteMatrix]]:
    """The matrices of a layer's experts, by projection and expert, where they are held in 8 bits."""
    held = [module.halves or () for module in layer.feed_forward.modules() if isinstance(module, HalfStorage)]
    in_bytes = [[matrix for matrix in matrices if isinstance(matrix, ByteMatrix)] for matrices in held]
    return [matrices for matrices in in_bytes if matrices]
