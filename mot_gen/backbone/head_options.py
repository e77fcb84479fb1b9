"""Options of the mixer `attention`: HeadOptions, with what follows from them and what does not fit.

Shapes: D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.rotary import rotary_frequencies
from mot_gen.errors import InputError, nearest

KERNELS = ("auto", "sdpa", "flex")


@dataclass(frozen=True)
class HeadOptions(parts.Mixer):
    """kv_heads: fewer than heads for grouped-query attention.
    head_dim: D / H when not given.
    qk_norm: an RMS norm of queries and keys, one for all heads; or "layer", layer norms of which each head has its own
    (Chameleon).
    qkv_bias: as Qwen2 has it.
    rope_frequencies: (K / 2), theta ** (-2i / K) when not given.
    rope_axes: (K / 2), which position turns each pair: 0 time, 1 row, 2 column; time alone when not given. What is on
    no grid stands at its time on all axes (Qwen2-VL, Cosmos3).
    attention: "auto" (FlexAttention on CUDA without a cache, else SDPA), "sdpa" or "flex"; with a bias always SDPA.
    """

    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    qk_norm: bool | str = True
    qkv_bias: bool = False
    rope_theta: float = 10_000.0
    rope_frequencies: Sequence[float] | None = None
    rope_axes: Sequence[int] | None = None
    attention: str = "auto"

    untied: ClassVar[tuple[str, ...]] = ("qkv", "qk_norm", "out")
    reads: ClassVar[tuple[str, ...]] = ("reach", "bias", "head_choice")

    def fit(self, config: Any) -> Self:
        self.require_counts("heads", remedy=" (or name backbone.size)")
        assert self.heads is not None, "it is a count"
        kv_heads, head_dim = self.kv_heads, self.head_dim
        if kv_heads is None:
            kv_heads = self.heads
        if head_dim is None:
            if config.dim % (2 * self.heads):
                raise InputError(f"backbone.dim: {config.dim} must be an even multiple of backbone.heads, {self.heads}")
            head_dim = config.dim // self.heads
        fitted = replace(self, kv_heads=kv_heads, head_dim=head_dim)
        fitted._check(self.heads, kv_heads)
        fitted._check_rotation(head_dim)
        return fitted

    def _check_rotation(self, head_dim: int) -> None:
        """InputError for options of rotary positions that do not fit heads of this width."""
        if not 0 < self.rope_theta < math.inf:
            raise self.refuse("rope_theta", f"must be positive and finite, got {self.rope_theta!r}")
        pairs = head_dim // 2
        if self.rope_frequencies is not None and len(self.rope_frequencies) != pairs:
            complaint = f"one for each of the {pairs} pairs of a head, got {len(self.rope_frequencies)}"
            raise self.refuse("rope_frequencies", complaint)
        if self.rope_axes is None:
            return
        if len(self.rope_axes) != pairs or not {*self.rope_axes} <= {0, 1, 2}:
            raise self.refuse("rope_axes", f"one of 0, 1, 2 for each of the {pairs} pairs of a head")

    def _check(self, heads: int, kv_heads: int) -> None:
        """InputError for heads, norms and kernels that cannot be."""
        assert self.head_dim is not None, "fit sets it"
        if self.head_dim < 2 or self.head_dim % 2:
            raise self.refuse("head_dim", f"must be even and positive, got {self.head_dim}")
        if not isinstance(self.qk_norm, bool) and self.qk_norm != "layer":
            raise self.refuse("qk_norm", f"is true, false or layer, got {self.qk_norm!r}")
        self.require_counts("kv_heads")
        if heads % kv_heads:
            raise self.refuse("kv_heads", f"{kv_heads} must divide backbone.heads, {heads}")
        if self.attention not in KERNELS:
            raise self.refuse("attention", f"{self.attention!r} is not known" + nearest(self.attention, KERNELS))

    def width_step(self) -> int:
        return 2 * (self.heads or 1)

    def set_up(self, block: Layer) -> tuple[int, int, int]:
        """Note on a block what `forward` reads there, and return H, G and K.

        block.heads, kv_heads, head_dim: H, G, K. block.sight, turning: the names of its mask and of its rotation among
        what a batch keeps. block.frequencies: (K / 2,) of the rotation.
        """
        heads, kv_heads, width = self.heads, self.kv_heads, self.head_dim
        assert heads is not None and kv_heads is not None and width is not None, "fit sets them"
        block.heads, block.kv_heads, block.head_dim = heads, kv_heads, width
        block.sight = f"mask {self.attention} {block.parts.reach!r} {block.parts.bias!r}"
        block.turning = f"rotation {width} {self.rope_theta} {self.rope_frequencies} {self.rope_axes}"
        frequencies = self.rope_frequencies or rotary_frequencies(width, self.rope_theta).tolist()
        # No buffer: a model that is cast to bf16 would round them, and with them every position.
        block.frequencies = torch.tensor(frequencies, device="cpu", dtype=torch.float32)
        return heads, kv_heads, width
