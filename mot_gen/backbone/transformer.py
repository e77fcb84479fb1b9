"""The transformer whose untying is a statement: dense, Mixture-of-Transformers, and all between. Config, Backbone.

Every parameter belongs to a *part* (qkv, ffn, ...). A part named in `untied` has one set of parameters per tower, any
other part one set for all. `towers` says which modalities share one: by default each has its own (MoT, arXiv
2411.04996); {"text": ["text", "speech"], "image": ["image"]} is leave-one-out; BAGEL's experts by role and LMFusion's
frozen text tower are statements of the same kind. Attention is global and always shared.

    x -> attention_norm -> qkv -> qk_norm -> RoPE -> attention -> out -> +      (norm "pre")
    x -> ffn_norm -> gate, up -> silu(gate) * up -> down -> +                   (norm "output": the norm comes last)

Shapes: B rows, S slots, T = B * S tokens, D width, H heads, G key/value heads, K = D / H, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.attention import KVCache, Places, attend, block_mask, dense_mask, rotary, rotate
from mot_gen.backbone.sizes import SIZES
from mot_gen.errors import InputError, nearest
from mot_gen.routing import Routing, UntiedLinear, UntiedRMSNorm, route
from mot_gen.sequence import Layout, Modality

PARTS = ("attention_norm", "qkv", "qk_norm", "out", "ffn_norm", "ffn", "final_norm")


@dataclass
class Config:
    """A transformer's shape. `size` names a row of SIZES and stands for dim, layers and heads.

    ffn_dim: int(2/3 * 4 * dim) rounded up to a multiple of `multiple_of` when it is not given.
    kv_heads: fewer than heads for grouped-query attention. norm: "pre" (Llama) or "output" (Chameleon's, MoT's).
    towers: {tower: [modalities]}, one per modality when not given. untied: the PARTS that each tower owns.
    attention: "auto" (FlexAttention on CUDA without a cache, else SDPA), "sdpa" or "flex".
    """

    size: str | None = None
    dim: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn_dim: int | None = None
    multiple_of: int = 256
    towers: dict[str, list[str]] | None = None
    untied: Sequence[str] = field(default=PARTS)
    norm: str = "pre"
    qk_norm: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    attention: str = "auto"

    def __post_init__(self):
        if self.size is not None:
            if self.size not in SIZES:
                raise InputError(f"backbone.size: {self.size!r} is not a named size" + nearest(self.size, SIZES))
            for name, value in SIZES[self.size].items():
                if getattr(self, name) is None:
                    setattr(self, name, value)
        for name in ("dim", "layers", "heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"backbone.{name}: must be a positive integer (or name backbone.size), got {value!r}")
        self.kv_heads = self.kv_heads or self.heads
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise InputError(f"backbone.dim: {self.dim} must be an even multiple of backbone.heads, {self.heads}")
        if self.heads % self.kv_heads:
            raise InputError(f"backbone.kv_heads: {self.kv_heads} must divide backbone.heads, {self.heads}")
        if self.ffn_dim is None:
            self.ffn_dim = math.ceil(int(2 / 3 * 4 * self.dim) / self.multiple_of) * self.multiple_of
        for part in self.untied:
            if part not in PARTS:
                raise InputError(f"backbone.untied: {part!r} is not a part of this backbone" + nearest(part, PARTS))
        self.untied = tuple(part for part in PARTS if part in self.untied)
        for name, value, allowed in (
            ("norm", self.norm, ("pre", "output")),
            ("attention", self.attention, ("auto", "sdpa", "flex")),
        ):
            if value not in allowed:
                raise InputError(f"backbone.{name}: {value!r} is not known" + nearest(value, allowed))

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def tower_table(self, modalities: Sequence[Modality]) -> tuple[list[str], list[int]]:
        """Names of the towers, and the tower of each modality; one tower when nothing is untied."""
        names = [m.name for m in modalities]
        towers = self.towers or {name: [name] for name in names}
        owner: dict[str, int] = {}
        for number, (tower, members) in enumerate(towers.items()):
            for member in members:
                if member not in names:
                    raise InputError(f"backbone.towers.{tower}: {member!r} is not a modality" + nearest(member, names))
                if member in owner:
                    raise InputError(f"backbone.towers.{tower}: {member!r} is in another tower already")
                owner[member] = number
        missing = [name for name in names if name not in owner]
        if missing:
            raise InputError(f"backbone.towers: no tower has {', '.join(missing)}; add it to one")
        if not self.untied:
            return ["all"], [0] * len(names)
        return list(towers), [owner[name] for name in names]


@dataclass
class Plan:
    """What a forward pass derives from a layout, once for all layers. rotation: (T, 1, K/2) in tower order."""

    routing: Routing
    rotation: Tensor
    mask: object


class Backbone(nn.Module):
    """A stack of blocks over packed rows; see the contract in `mot_gen.backbone`."""

    def __init__(self, config: Config, modalities: Sequence[Modality]):
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.towers, tower_of = config.tower_table(modalities)
        self.register_buffer("tower_of", torch.tensor(tower_of, device="cpu"), persistent=False)
        self.register_buffer(
            "bidirectional", torch.tensor([m.bidirectional for m in modalities], device="cpu"), persistent=False
        )
        count = {part: len(self.towers) if part in config.untied else 1 for part in PARTS}
        self.blocks = nn.ModuleList(Block(config, count) for _ in range(config.layers))
        self.final_norm = UntiedRMSNorm(config.dim, count["final_norm"], config.norm_eps)
        self.gradient_checkpointing = False
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """Every initial value of the backbone:

        qkv, ffn.gate_up    normal, std 1 / sqrt(fan in)
        out, ffn.down       the same / sqrt(2 * layers): the residual stream keeps its scale with depth
        norms               1
        """
        residual = 1 / math.sqrt(2 * self.config.layers)
        for name, p in self.named_parameters():
            if p.is_meta:
                continue
            if "norm" in name:
                p.fill_(1.0)
            else:
                scale = residual if name.endswith(("out.weight", "down.weight")) else 1.0
                p.copy_(torch.randn(p.shape[1:]) * (scale / math.sqrt(p.shape[-1])))

    def untied_parameters(self) -> set[str]:
        """Names of the parameters whose first dimension is the tower."""
        return {name for name, p in self.named_parameters() if p.shape[0] == len(self.towers) > 1}

    def init_cache(self, batch: int, length: int) -> KVCache:
        c, like = self.config, self.final_norm.weight
        return KVCache(c.layers, batch, length, c.kv_heads, c.head_dim, like.device, like.dtype)

    @torch.no_grad()
    def plan(self, layout: Layout, cache: KVCache | None = None) -> Plan:
        """Routing, rotary angles and mask of a batch (of the cache's next tokens, where a cache is given)."""
        if len(self.towers) == 1:
            tokens = layout.modality.numel()
            routing = Routing(None, None, torch.tensor([tokens], dtype=torch.int32), [tokens], 0)
        else:
            routing = route(self.tower_of[layout.modality].flatten(), len(self.towers))
        time = routing.sort(layout.position[..., 0].flatten())
        rotation = rotary(time, self.config.head_dim, self.config.rope_theta)
        if cache is not None:
            return Plan(routing, rotation, dense_mask(*cache.place(layout, self.bidirectional)))
        places = Places.of(layout, self.bidirectional)
        flex = self.config.attention == "flex" or (
            self.config.attention == "auto" and layout.modality.is_cuda and layout.shape[1] % 128 == 0
        )
        return Plan(routing, rotation, block_mask(places) if flex else dense_mask(places, places))

    def forward(self, x: Tensor, layout: Layout | Plan, cache: KVCache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), normalised. With a cache, x are the next S tokens of each of its rows."""
        plan = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        shape = x.shape
        x = plan.routing.sort(x.reshape(-1, self.dim))
        for number, block in enumerate(self.blocks):
            layer_cache = None if cache is None else (cache, number)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, shape[0], plan, layer_cache, use_reentrant=False)
            else:
                x = block(x, shape[0], plan, layer_cache)
        return plan.routing.unsort(self.final_norm(x, plan.routing)).view(shape)


class Block(nn.Module):
    """One layer. `towers` gives each part its number of parameter sets."""

    def __init__(self, config: Config, towers: dict[str, int]):
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.head_dim
        self.norm_first = c.norm == "pre"
        self.attention_norm = UntiedRMSNorm(c.dim, towers["attention_norm"], c.norm_eps)
        self.qkv = UntiedLinear(c.dim, (c.heads + 2 * c.kv_heads) * c.head_dim, towers["qkv"])
        self.q_norm = UntiedRMSNorm(c.head_dim, towers["qk_norm"], c.norm_eps) if c.qk_norm else None
        self.k_norm = UntiedRMSNorm(c.head_dim, towers["qk_norm"], c.norm_eps) if c.qk_norm else None
        self.out = UntiedLinear(c.heads * c.head_dim, c.dim, towers["out"])
        self.ffn_norm = UntiedRMSNorm(c.dim, towers["ffn_norm"], c.norm_eps)
        self.ffn = SwiGLU(c.dim, c.ffn_dim, towers["ffn"])

    def forward(self, x: Tensor, rows: int, plan: Plan, cache: tuple[KVCache, int] | None) -> Tensor:
        """x (T, D) in tower order -> the same."""
        routing = plan.routing
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x, routing), rows, plan, cache)
            return x + self.ffn(self.ffn_norm(x, routing), routing)
        x = x + self.attention_norm(self.attention(x, rows, plan, cache), routing)
        return x + self.ffn_norm(self.ffn(x, routing), routing)

    def attention(self, x: Tensor, rows: int, plan: Plan, cache: tuple[KVCache, int] | None) -> Tensor:
        """x (T, D) in tower order -> (T, D): projections by tower, one softmax over the whole sequence."""
        routing, heads, kv_heads = plan.routing, self.heads, self.kv_heads
        q, k, v = (
            self.qkv(x, routing).view(-1, heads + 2 * kv_heads, self.head_dim).split([heads, kv_heads, kv_heads], 1)
        )
        if self.q_norm is not None:
            q, k = self.q_norm(q, routing), self.k_norm(k, routing)
        q, k = rotate(q, plan.rotation), rotate(k, plan.rotation)
        q, k, v = (routing.unsort(t).view(rows, -1, t.shape[1], self.head_dim).transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k, v = cache[0].write(cache[1], k, v)
        mixed = attend(q, k, v, plan.mask).transpose(1, 2).reshape(x.shape[0], -1)
        return self.out(routing.sort(mixed), routing)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), Shazeer 2020; gate and up are one product."""

    def __init__(self, dim: int, hidden: int, towers: int):
        super().__init__()
        self.gate_up = UntiedLinear(dim, 2 * hidden, towers)
        self.down = UntiedLinear(hidden, dim, towers)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        return self.down(_GatedSiLU.apply(self.gate_up(x, routing)), routing)


class _GatedSiLU(torch.autograd.Function):
    # silu(gate) * up. Autograd would keep silu(gate) as well, and join the two gradients by one more copy.
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up
