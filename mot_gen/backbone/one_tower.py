"""A pass over tokens of one tower, over a cache and without gradients, as in generation: Stack, all blocks; OneTower,
one of them; plain_turn.

What a block does in general asks at every turn which tower a token is of, and whether a gradient is wanted. Here both
are known, so the same numbers come of fewer operations: matrices and norms of the tower are picked once; queries and
keys are normed and turned as one, in place; keys and values are written as one; sublayers add to the residual stream in
place. A block with other parts than these, or with hooks on its modules, runs as it always does. On a GPU passes that
repeat, as those of a decoded token and of a denoising step do, may be recorded as CUDA graphs (`cuda_graphs`).

Shapes: T tokens, D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import cuda_graphs, fused, parts
from mot_gen.backbone.attention import attend
from mot_gen.backbone.batch import Plan
from mot_gen.backbone.depths import every as all_layers
from mot_gen.backbone.feed_forwards import gated
from mot_gen.backbone.head_choices import every as all_heads
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.norms import pre
from mot_gen.backbone.residuals import single
from mot_gen.backbone.rms_norm import UntiedRMSNorm, norm_of_heads
from mot_gen.backbone.rotary import rotate_to
from mot_gen.backbone.routing import Routing, UntiedLinear, rows_of

Pass = Callable[[Tensor, Plan, Any], Tensor]  # what `Block.forward` is

PARTS = {
    "mixer": attention.Mixer,
    "feed_forward": gated.FeedForward,
    "head_choice": all_heads.HeadChoice,
    "norm": pre.Norm,
    "depth": all_layers.Depth,
    "residual": single.Residual,
}


class Stack:
    """All blocks and the norm after them, for tokens that are all of the tower `routing.only`.

    residual: of the backbone. Passes are recorded where every block is one that `OneTower` knows.
    """

    def __init__(self, blocks: Iterable[Any], residual: parts.Residual, final_norm: nn.Module, routing: Routing):
        self.ways: list[Pass] = [OneTower(block, routing) if _is_usual(block) else block.forward for block in blocks]
        self.residual, self.norm = residual, _norm(final_norm, routing)
        self.known = all(isinstance(way, OneTower) for way in self.ways)
        self.graph = cuda_graphs.Graph()

    def __call__(self, x: Tensor, plan: Plan, layers: Sequence[Any]) -> Tensor:
        """x (T, D), and the cache of each layer -> (T, D), normalised."""
        run = partial(self._run, plan=plan, layers=layers)
        return self.graph(run, x) if self.known and cuda_graphs.is_used(x) else run(x)

    def _run(self, x: Tensor, plan: Plan, layers: Sequence[Any]) -> Tensor:
        x = self.residual.begin(x)
        for way, layer in zip(self.ways, layers):
            x = way(x, plan, layer)
        return self.norm(self.residual.end(x))


def _norm(norm: nn.Module, routing: Routing) -> Callable[[Tensor], Tensor]:
    """The norm of tokens of one tower, x (T, D) -> the same."""
    if type(norm) is UntiedRMSNorm and not _is_watched(norm):
        return norm.of_one(routing)
    return partial(norm, routing=routing)


def _is_usual(block: parts.Layer) -> bool:
    """Whether the block's parts are those that `OneTower` knows, and nobody listens to its modules."""
    chosen = block.parts
    own = all(type(getattr(chosen, slot)) is kind for slot, kind in PARTS.items())
    if not own or not chosen.bias.empty or type(chosen.bias).attend is not parts.Bias.attend:
        return False
    norms = (block.attention_norm, block.ffn_norm, block.q_norm, block.k_norm)
    plain = all(norm is None or type(norm) is UntiedRMSNorm for norm in norms)
    return plain and block.ffn.learned is None and not any(map(_is_watched, block.modules()))


def _is_watched(module: nn.Module) -> bool:
    """Whether something else runs when the module is called: hooks, or a `forward` that was put in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


class OneTower:
    """A block of attention and a gated unit, for tokens of one tower; called as the block is."""

    def __init__(self, block: parts.Layer, routing: Routing):
        self.sight, self.mask = block.sight, f"{block.sight}, as the model's numbers"
        self.turning, self.angles = block.turning, f"angles of {block.turning}"
        self.heads, self.kv_heads, self.head_dim = block.heads, block.kv_heads, block.head_dim
        self.activation = block.parts.activation.function
        self.gate, self.turn = self._gate, plain_turn
        if fused.is_used(block.qkv.weight):
            self.turn = fused.turn
            self.gate = fused.gate if self.activation is F.silu else self._gate
        self.attention_norm, self.ffn_norm = (norm.of_one(routing) for norm in (block.attention_norm, block.ffn_norm))
        self.head_factors = _head_factors(block, routing)
        self.eps = 0.0 if block.q_norm is None else block.q_norm.eps
        self.qkv, self.gate_up = _product(block.qkv, routing), _product(block.ffn.gate_up, routing)
        # The first block leaves its x, which is the caller's.
        self.add_out = _addition(block.out, routing, in_place=block.number > 0)
        self.add_down = _addition(block.ffn.down, routing)

    def __call__(self, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """x (T, D) -> the same; in the memory of x, but for the first block."""
        x = self.add_out(x, self._found(x, plan, cache))
        return self.add_down(x, self.gate(self.gate_up(self.ffn_norm(x))))

    def _gate(self, gate_up: Tensor) -> Tensor:
        """(T, 2 F), gate and up side by side -> (T, F)."""
        width = gate_up.shape[1] // 2
        gate, up = gate_up.narrow(1, 0, width), gate_up.narrow(1, width, width)
        return self.activation(gate).mul_(up)

    def _found(self, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """What the heads find, (T, H * K)."""
        mask = plan.once(self.mask, lambda: plan.made[self.sight].to(x.dtype))
        qkv = self.qkv(self.attention_norm(x)).view(len(x), -1, self.head_dim)
        qk = qkv.narrow(1, 0, self.heads + self.kv_heads)
        angles = plan.once(self.angles, lambda: torch.view_as_complex(plan.made[self.turning]))
        self.turn(qk, angles, self.head_factors, self.eps)
        rows = qkv.view(plan.rows, -1, *qkv.shape[1:]).transpose(1, 2)
        q, kv = rows.narrow(1, 0, self.heads), rows.narrow(1, self.heads, 2 * self.kv_heads)
        k, v = cache.write_both(kv, mask.shape[-1])
        return attend(q, k, v, mask).transpose(1, 2).reshape(len(x), -1)


def _head_factors(block: parts.Layer, routing: Routing) -> Tensor | None:
    """(H + G, K) fp32, what normed queries and keys are multiplied by; None where they are not normed."""
    if block.q_norm is None:
        return None
    q, k = (rows_of(norm.factors, routing).float() for norm in (block.q_norm, block.k_norm))
    return torch.cat([q.expand(block.heads, -1), k.expand(block.kv_heads, -1)])


def plain_turn(qk: Tensor, angles: Tensor, weight: Tensor | None, eps: float) -> None:
    """Norm queries and keys (T, H + G, K), where there are weights, and turn them by angles, in place."""
    normed = qk.float()
    if weight is not None:
        normed = norm_of_heads(normed, weight, eps)
    rotate_to(qk, normed, angles)


def _matrix(layer: Any, routing: Routing) -> Tensor | None:
    """(in, out), with which alone the tower's tokens are multiplied; None where there is more to it."""
    alone = type(layer) is UntiedLinear and layer.adapter is None and layer.bias is None and not layer.in_half
    return rows_of(layer.weight, routing).t() if alone else None


def _product(layer: Any, routing: Routing) -> Callable[[Tensor], Tensor]:
    """x (T, in) -> (T, out)."""
    matrix = _matrix(layer, routing)
    return partial(layer, routing=routing) if matrix is None else partial(torch.mm, mat2=matrix)


def _addition(layer: Any, routing: Routing, in_place: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """(x (T, out), y (T, in)) -> the sum of x and the product of y, in the memory of x where that is asked for."""
    matrix, product = _matrix(layer, routing), _product(layer, routing)
    if matrix is not None and matrix.is_cuda:  # one kernel; on a CPU it is no faster, and rounds otherwise
        add = Tensor.addmm_ if in_place else torch.addmm
        return lambda x, y: add(x, y, matrix)
    if in_place:
        return lambda x, y: x.add_(product(y))
    return lambda x, y: x + product(y)
