"""Our own kernels in Triton beside the plain functions: equal results, and the time of both.

Where they are equal and faster on the cards that count, `mot_gen.backbone.fused` may have them on by default.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.pipelines import pictures, switched, texts, untrained
from benchmarks.gpu.rows import Figures, difference
from benchmarks.gpu.setting import Setting, Skipped
from mot_gen.backbone import fused
from mot_gen.backbone.gates import plain_gate
from mot_gen.backbone.one_tower import plain_turn
from mot_gen.backbone.rotary import rotary, rotary_frequencies

WIDTH = 64  # of a head
AGREES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest value
Gate = Callable[[Tensor], Tensor]


def kernels(setting: Setting) -> Figures:
    """The gate of 8,192 tokens, forward and backward; the turn of 1 and of 512 tokens; then a whole text and picture.
    AssertionError where results differ by more than rounding explains."""
    if not setting.on_gpu:
        raise Skipped("Triton's kernels run on a GPU; on a CPU the tests interpret them")
    figures: dict[str, float | str] = {}
    for dtype in AGREES:
        figures |= gates(dtype, setting)
        for tokens in (1, 512):
            figures |= turns(dtype, tokens, setting)
    return figures | whole(setting)


def gates(dtype: torch.dtype, setting: Setting) -> Figures:
    given = torch.randn(*setting.pick((8192, 2 * 2816), (64, 64)), device=setting.device, dtype=dtype).requires_grad_()

    def passes(gate: Gate) -> list[Tensor]:
        made = gate(given)
        return [made.detach(), *torch.autograd.grad(made, given, torch.ones_like(made))]

    return compared(f"gate, {named(dtype)}", dtype, partial(passes, fused.gate), partial(passes, plain_gate), setting)


def turns(dtype: torch.dtype, tokens: int, setting: Setting) -> Figures:
    given = torch.randn(tokens, 32, WIDTH, device=setting.device, dtype=dtype)
    weight = torch.rand(32, WIDTH, device=setting.device)
    turned = rotary(torch.arange(tokens, device=setting.device), rotary_frequencies(WIDTH, 1e4).to(setting.device))
    angles = torch.view_as_complex(turned)

    def passes(turn: Callable[..., None]) -> list[Tensor]:
        own = given.clone()
        turn(own, angles, weight, 1e-5)
        return [own]

    what = f"turn, {named(dtype)}, tokens: {tokens}"
    return compared(what, dtype, partial(passes, fused.turn), partial(passes, plain_turn), setting)


def compared(what: str, dtype: torch.dtype, ours, plain, setting: Setting) -> Figures:
    apart = max(map(difference, ours(), plain()))
    assert apart < AGREES[dtype], f"{what}: the fused kernel differs from the plain function by {apart}"
    seconds = setting.alternate({"fused": ours, "plain": plain})
    return {f"{what}: difference": apart, f"{what}: time of plain over fused": seconds["plain"] / seconds["fused"]}


def whole(setting: Setting) -> Figures:
    """A greedy text of 64 tokens and a picture of 20 steps, one at once, by a model of the size 94M."""
    built = untrained("mot", "94M", setting)
    figures: dict[str, float | str] = {}
    for what, make, length in (("a text", texts, 64), ("a picture", pictures, 20)):
        action = make(built, 1, setting.pick(length, 2), setting)
        seconds = setting.alternate({"fused": switched(fused.use, True, action), "plain": action})
        figures[f"{what}: time of plain over fused"] = seconds["plain"] / seconds["fused"]
    return figures


def named(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
