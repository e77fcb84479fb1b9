"""The transformer whose untying is a statement: dense, Mixture-of-Transformers, and all between. Config, Backbone.

Every parameter belongs to a *part* (qkv, ffn, ...). A part named in `untied` has one set of parameters per tower, any
other part one set for all. `towers` says which modalities share one: by default each has its own (MoT, arXiv
2411.04996); {"text": ["text", "speech"], "image": ["image"]} is leave-one-out; BAGEL's experts by role and LMFusion's
frozen text tower are statements of the same kind; `widths` lets towers be narrower than the model (F1, arXiv
2509.06951). `experts` routes tokens among several feed-forwards (`moe`): MoE-4x, its hybrid with MoT, and groups of
routed experts beside shared ones (Symbiotic-MoE). Attention is global and always shared.

    x -> attention_norm -> qkv -> qk_norm -> RoPE -> attention -> out -> +      (norm "pre")
    x -> ffn_norm -> gate, up -> silu(gate) * up -> down -> +                   (norm "output": the norm comes last)

Shapes: B rows, S slots, T = B * S tokens, D width, H heads, G key/value heads, K head width, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.attention import (
    KVCache,
    LayerCache,
    Places,
    attend,
    block_mask,
    dense_mask,
    rotary,
    rotary_frequencies,
    rotate,
)
from mot_gen.backbone.moe import Experts, MixtureOfExperts, Pools, assignments, make_pools
from mot_gen.backbone.routing import (
    Routing,
    UnevenLinear,
    UnevenRMSNorm,
    UntiedLinear,
    UntiedRMSNorm,
    is_adapter,
    route,
)
from mot_gen.backbone.sizes import SIZES, fill_size, require_at_least_0, require_counts
from mot_gen.backbone.towers import active_parameters, tower_table
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Layout, Modality

PARTS = ("attention_norm", "qkv", "qk_norm", "out", "ffn_norm", "ffn", "final_norm")


@dataclass
class Config:
    """A transformer's shape. `size` names a row of SIZES and stands for dim, layers and heads.

    ffn_dim: int(2/3 * 4 * dim) rounded up to a multiple of `multiple_of` when it is not given.
    kv_heads: fewer than heads for grouped-query attention. head_dim: dim / heads when not given.
    norm: "pre" (Llama) or "output" (Chameleon's, MoT's). activation: of the gate, "silu" or "gelu" (tanh; Gemma).
    qkv_bias: as Qwen2 has it. rope_frequencies: (head_dim / 2), theta ** (-2i / head_dim) when not given.
    towers: {tower: [modalities]}, one per modality when not given. untied: the PARTS that each tower owns.
    widths: {tower: width} of towers narrower than dim, feed-forward in proportion; they share heads and attention.
    attention: "auto" (FlexAttention on CUDA without a cache, else SDPA), "sdpa" or "flex".
    experts: feed-forwards among which tokens are routed, see `moe`: a number, or {tower: number} where ffn is untied.
    router: "expert_choice" or "token_choice"; top_k, balance_weight and z_weight are the latter's, balance_weight one
    for all pools, or {tower: weight}. shared_experts: as many feed-forwards that every token passes beside its own.
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
    head_dim: int | None = None
    widths: dict[str, int] | None = None
    norm: str = "pre"
    qk_norm: bool = True
    qkv_bias: bool = False
    activation: str = "silu"
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_frequencies: Sequence[float] | None = None
    attention: str = "auto"
    experts: int | dict[str, int] = 1
    router: str = "expert_choice"
    top_k: int = 1
    balance_weight: float | dict[str, float] = 0.01
    z_weight: float = 0.001
    shared_experts: int = 0

    def __post_init__(self):
        fill_size(self, SIZES)
        require_counts(self, "dim", "layers", "heads", remedy=" (or name backbone.size)")
        require_counts(self, "multiple_of")
        self.kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        if self.head_dim is None:
            if self.dim % self.heads or (self.dim // self.heads) % 2:
                raise InputError(f"backbone.dim: {self.dim} must be an even multiple of backbone.heads, {self.heads}")
            self.head_dim = self.dim // self.heads
        if self.head_dim < 2 or self.head_dim % 2:
            raise InputError(f"backbone.head_dim: must be even and positive, got {self.head_dim}")
        if self.rope_frequencies is not None and len(self.rope_frequencies) != self.head_dim // 2:
            given, wanted = len(self.rope_frequencies), self.head_dim // 2
            raise InputError(f"backbone.rope_frequencies: one for each of the {wanted} pairs of a head, got {given}")
        require_counts(self, "kv_heads")
        if self.heads % self.kv_heads:
            raise InputError(f"backbone.kv_heads: {self.kv_heads} must divide backbone.heads, {self.heads}")
        if self.ffn_dim is None:
            self.ffn_dim = math.ceil(int(2 / 3 * 4 * self.dim) / self.multiple_of) * self.multiple_of
        require_counts(self, "ffn_dim")
        balance = self.balance_weight.values() if isinstance(self.balance_weight, dict) else [self.balance_weight]
        require_at_least_0("balance_weight", *balance)
        for name in ("norm_eps", "z_weight", "shared_experts"):
            require_at_least_0(name, getattr(self, name))
        if not 0 < self.rope_theta < math.inf:
            raise InputError(f"backbone.rope_theta: must be positive and finite, got {self.rope_theta!r}")
        for part in self.untied:
            if part not in PARTS:
                raise InputError(f"backbone.untied: {part!r} is not a part of this backbone" + nearest(part, PARTS))
        self.untied = tuple(part for part in PARTS if part in self.untied)
        for name, value, allowed in (
            ("norm", self.norm, ("pre", "output")),
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("attention", self.attention, ("auto", "sdpa", "flex")),
            ("router", self.router, ("expert_choice", "token_choice")),
        ):
            if value not in allowed:
                raise InputError(f"backbone.{name}: {value!r} is not known" + nearest(value, allowed))

    def tower_table(self, modalities: Sequence[Modality]) -> tuple[list[str], list[int]]:
        """Names of the towers, and the tower of each modality; one tower when nothing is untied."""
        names, table = tower_table(self.towers, self.untied, modalities)
        self.expert_table(names)
        self.tower_widths(names)
        return names, table

    def tower_widths(self, towers: Sequence[str]) -> list[int] | None:
        """The width of each tower; None where all are as wide as the model."""
        if not self.widths:
            return None
        tied = [part for part in PARTS if part not in (*self.untied, "qk_norm")]
        if tied or self.experts != 1 or self.qkv_bias:
            what = f"untie {', '.join(tied)} too" if tied else "drop experts and qkv_bias"
            raise InputError(f"backbone.widths: towers of different widths share attention alone; {what}")
        for name, width in self.widths.items():
            if name not in towers:
                raise InputError(f"backbone.widths: {name!r} is not a tower" + nearest(name, towers))
            if not 1 <= width <= self.dim:
                raise InputError(f"backbone.widths: {name} must be from 1 to backbone.dim, {self.dim}, got {width}")
        return [self.widths.get(name, self.dim) for name in towers]

    def expert_table(self, towers: Sequence[str]) -> list[int]:
        """The number of experts of each pool: of each tower where ffn is untied, else of all tokens."""
        pools = list(towers) if "ffn" in self.untied else ["all"]
        given = self.experts if isinstance(self.experts, dict) else dict.fromkeys(pools, self.experts)
        for name, number in given.items():
            if name not in pools:
                raise InputError(f"backbone.experts: {name!r} owns no feed-forward" + nearest(name, pools))
            if number < 1:
                raise InputError(f"backbone.experts: {name} needs at least 1, got {number}")
        weights = self.balance_weight if isinstance(self.balance_weight, dict) else {}
        for name in weights:
            if name not in pools:
                raise InputError(f"backbone.balance_weight: {name!r} owns no feed-forward" + nearest(name, pools))
        table = [given.get(name, 1) for name in pools]
        if self.shared_experts and max(table) == 1:
            raise InputError("backbone.shared_experts: stand beside routed ones; give backbone.experts, above 1")
        fewest = min((number for number in table if number > 1), default=1)
        if self.router == "token_choice" and not 1 <= self.top_k <= fewest:
            raise InputError(f"backbone.top_k: must be from 1 to the number of experts, {fewest}, got {self.top_k}")
        return table

    def balance_weights(self, towers: Sequence[str]) -> list[float]:
        """Of each pool's balance loss; a tower that is not named has none."""
        pools = list(towers) if "ffn" in self.untied else ["all"]
        given = self.balance_weight
        return [given.get(name, 0.0) if isinstance(given, dict) else given for name in pools]


@dataclass
class Plan:
    """What a forward pass derives from a layout, once for all layers. rotation: (T, 1, K/2, 2) in tower order.

    ffn: what the feed-forward reads, `routing` or a layer of experts' pools.
    """

    routing: Routing
    ffn: Routing | Pools
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
        frequencies = config.rope_frequencies or rotary_frequencies(config.head_dim, config.rope_theta).tolist()
        # No buffer: a model that is cast to bf16 would round them, and with them every position.
        self.frequencies = torch.tensor(frequencies, device="cpu", dtype=torch.float32)
        self.experts = config.expert_table(self.towers)
        self.routed = max(self.experts) > 1
        # Expert choice lets later tokens decide what becomes of earlier ones, except over a cache.
        self.causal = not (self.routed and config.router == "expert_choice")
        count = {part: len(self.towers) if part in config.untied else 1 for part in PARTS}
        self.widths = config.tower_widths(self.towers)
        shape = TowerShape(count, self.experts, config.balance_weights(self.towers), self.widths)
        self.blocks = nn.ModuleList(Block(config, shape) for _ in range(config.layers))
        self.final_norm = _norm(config.dim, count["final_norm"], config.norm_eps, self.widths)
        self.gradient_checkpointing = False
        self.compiled = False  # whether torch.compile makes the blocks' programs
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """Every initial value of the backbone:

        qkv, ffn.gate_up    normal, std 1 / sqrt(fan in)
        out, ffn.down       the same / sqrt(2 * layers): the residual stream keeps its scale with depth
        norms               1
        biases              0
        router              normal, std 1 / sqrt(D)

        Towers begin as copies of one another, experts do not: alike they would stay alike.
        """
        residual = 1 / math.sqrt(2 * self.config.layers)
        for name, p in self.named_parameters():
            if p.is_meta:
                continue
            if "norm" in name or name.endswith("bias"):
                p.fill_(1.0 if "norm" in name else 0.0)
            else:
                scale = residual if ".out.weight" in name or ".down.weight" in name else 1.0
                shape = p.shape if self._of_experts(name) else p.shape[1:]
                p.copy_(torch.randn(shape) * (scale / math.sqrt(p.shape[-1])))

    def _of_experts(self, name: str) -> bool:
        return self.routed and ".ffn." in name and ".shared." not in name

    def untied_parameters(self) -> dict[str, list[int]]:
        """The parameters that towers own: the tower of each slice along the first dimension."""
        if len(self.towers) == 1:
            return {}
        each = list(range(len(self.towers)))
        of_experts = [tower for tower, number in enumerate(self.experts) for _ in range(number)]
        found = {}
        for name, p in self.named_parameters():
            last = name.rpartition(".")[2]
            if is_adapter(name):  # of chosen towers alone
                continue
            if last.isdigit():  # of towers of different widths: a parameter each
                found[name] = [int(last)]
            elif len(self.experts) > 1 if self._of_experts(name) else len(p) > 1:
                found[name] = of_experts if self._of_experts(name) else each
        return found

    def active_parameters(self) -> int:
        """What one text token passes through: its tower, and the experts that take it (one, on the average, under
        expert choice)."""
        text = int(self.tower_of[0])
        active = active_parameters(self, text)
        if not self.routed:
            return active
        number = self.experts[text if len(self.experts) > 1 else 0]
        taken = self.config.top_k if self.config.router == "token_choice" and number > 1 else 1
        return active - self.config.layers * (number - taken) * 3 * self.dim * self.config.ffn_dim

    def flops(self, layout: Layout) -> int:
        """FLOPs of a forward pass over all slots; attention as a dense kernel computes it, S x S in each row."""
        c, (rows, length) = self.config, layout.shape
        tokens = passes = rows * length
        width, scored = c.heads * c.head_dim, 0
        if self.routed:
            pools = self._pools(layout, self._route(layout), self.causal)
            passes = assignments(pools, self.experts, c.top_k)
            scored = sum(n * e for n, e in zip(pools.counts, self.experts) if e > 1)
        read = tokens * c.dim  # channels
        feed_forward = (passes + tokens * c.shared_experts) * 3 * c.dim * c.ffn_dim + scored * c.dim
        if self.widths:
            counts = list(zip(self._route(layout).counts, self.widths))
            read = sum(n * w for n, w in counts)
            feed_forward = sum(n * 3 * w * _proportional(c, w) for n, w in counts)
        projections = read * (2 * width + 2 * c.kv_heads * c.head_dim)
        return 2 * c.layers * (projections + feed_forward + 2 * rows * length**2 * width)

    def activations(self, layout: Layout) -> int:
        """Numbers that the backward pass keeps of a batch, by the tensors that a block saves of a token: 8 of width D
        (normed inputs, q before and after the rotation, the attention's output) and 4 as wide as its keys; of each pass
        through a feed-forward 3 of width F, and where experts are chosen 3 of width D; and once the mask."""
        c, (rows, length) = self.config, layout.shape
        chosen = c.top_k if c.router == "token_choice" else 1
        passes = chosen + c.shared_experts if self.routed else 1
        a_token = 4 * c.dim + 4 * (c.heads + c.kv_heads) * c.head_dim + 3 * c.heads + passes * 3 * c.ffn_dim
        a_token += 3 * chosen * c.dim if self.routed else 0
        return rows * length * (c.layers * a_token + c.dim + length)

    def auxiliary_loss(self) -> Tensor | float:
        """The weighted routing losses of the last forward pass, mean over layers; 0 where nothing is to be balanced."""
        return sum(block.ffn.auxiliary_loss() for block in self.blocks) / len(self.blocks) if self.routed else 0.0

    def init_cache(self, batch: int, length: int) -> KVCache:
        c, like = self.config, next(self.parameters())
        cache = KVCache(c.layers, batch, length, c.kv_heads, c.head_dim, like.device, like.dtype)
        for layer in cache.layers if self.compiled else []:
            _differs(layer.keys, 2)
            _differs(layer.values, 2)
        return cache

    @torch.no_grad()
    def plan(self, layout: Layout, cache: KVCache | None = None) -> Plan:
        """Routing, rotary angles and mask of a batch (of the cache's next tokens, where a cache is given)."""
        routing = self._route(layout)
        ffn = self._pools(layout, routing, self.causal or cache is not None) if self.routed else routing
        time = routing.sort(layout.position[..., 0].flatten())
        rotation = rotary(time, self.frequencies.to(time.device))
        if cache is not None:
            mask = dense_mask(*cache.place(layout, self.bidirectional))
            if self.compiled:
                _differs(mask, 3)
            return Plan(routing, ffn, rotation, mask)
        places = Places.of(layout, self.bidirectional)
        flex = self.config.attention == "flex" or (
            self.config.attention == "auto" and layout.modality.is_cuda and layout.shape[1] % 128 == 0
        )
        return Plan(routing, ffn, rotation, block_mask(places) if flex else dense_mask(places, places))

    def _route(self, layout: Layout) -> Routing:
        if len(self.towers) == 1:
            tokens = layout.modality.numel()
            return Routing(None, None, torch.tensor([tokens], dtype=torch.int32), [tokens], 0)
        return route(self.tower_of[layout.modality].flatten(), len(self.towers))

    def _pools(self, layout: Layout, routing: Routing, by_token: bool) -> Pools:
        counts = routing.counts if len(self.experts) == len(self.towers) else [layout.modality.numel()]
        return make_pools(layout, routing, counts, self.experts, expert_choice=not by_token)

    def forward(self, x: Tensor, layout: Layout | Plan, cache: KVCache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), normalised. With a cache, x are the next S tokens of each of its rows."""
        plan = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        shape = x.shape
        x = plan.routing.sort(x.reshape(-1, self.dim))
        for number, block in enumerate(self.blocks):
            layer = None if cache is None else cache.layers[number]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, shape[0], plan, layer, use_reentrant=False)
            elif cache is None or self._repeats(plan, cache):
                x = block(x, shape[0], plan, layer)
            else:
                x = block.forward(x, shape[0], plan, layer)
        return plan.routing.unsort(self.final_norm(x, plan.routing)).view(shape)

    def _repeats(self, plan: Plan, cache: KVCache) -> bool:
        """Whether other passes over a cache will be like this one, so that compiled blocks serve it: it is no prompt,
        whose lengths differ, and tokens of one tower and one feed-forward."""
        return self.compiled and cache.longest > 0 and plan.routing.only is not None and not self.routed


def _differs(x: Tensor, dimension: int) -> None:
    """Tell the compiler that this size differs from pass to pass; else it finds out by compiling twice."""
    import torch._dynamo

    torch._dynamo.maybe_mark_dynamic(x, dimension)


@dataclass(frozen=True)
class TowerShape:
    """What a block owns how often. towers: the parameter sets of each part. experts, balance_weights: each pool's
    feed-forwards and the weight of their balance. widths: the towers', or None where all are as wide as the model."""

    towers: dict[str, int]
    experts: list[int]
    balance_weights: list[float]
    widths: list[int] | None


def _norm(dim: int, towers: int, eps: float, widths: Sequence[int] | None) -> nn.Module:
    return UnevenRMSNorm(widths, eps) if widths else UntiedRMSNorm(dim, towers, eps)


def _proportional(config: Config, width: int) -> int:
    """The feed-forward's width in a tower of another width than the model's."""
    return max(1, round(config.ffn_dim * width / config.dim))


def _feed_forward(config: Config, shape: TowerShape) -> nn.Module:
    """A gated linear unit a tower, or the experts of each pool with what they share."""
    c, widths, experts = config, shape.widths, shape.experts

    def units(hidden: int, number: int) -> GatedLinearUnit:
        return GatedLinearUnit(
            UntiedLinear(c.dim, 2 * hidden, number), UntiedLinear(hidden, c.dim, number), c.activation
        )

    if widths:
        hidden = [_proportional(c, width) for width in widths]
        return GatedLinearUnit(UnevenLinear(widths, hidden, parts=2), UnevenLinear(hidden, widths), c.activation)
    if max(experts) == 1:
        return units(c.ffn_dim, shape.towers["ffn"])
    shared = units(c.shared_experts * c.ffn_dim, 1) if c.shared_experts else None
    options = Experts(c.router, c.top_k, shape.balance_weights, c.z_weight)
    return MixtureOfExperts(c.dim, experts, units(c.ffn_dim, sum(experts)), options, shared)


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: Config, shape: TowerShape):
        super().__init__()
        c, towers, widths = config, shape.towers, shape.widths
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.head_dim
        self.norm_first = c.norm == "pre"
        heads_in, heads_out = (c.heads + 2 * c.kv_heads) * c.head_dim, c.heads * c.head_dim
        self.attention_norm = _norm(c.dim, towers["attention_norm"], c.norm_eps, widths)
        if widths:
            self.qkv = UnevenLinear(widths, [heads_in] * len(widths))
        else:
            self.qkv = UntiedLinear(c.dim, heads_in, towers["qkv"], bias=c.qkv_bias)
        self.q_norm = UntiedRMSNorm(c.head_dim, towers["qk_norm"], c.norm_eps) if c.qk_norm else None
        self.k_norm = UntiedRMSNorm(c.head_dim, towers["qk_norm"], c.norm_eps) if c.qk_norm else None
        if widths:
            self.out = UnevenLinear([heads_out] * len(widths), widths)
        else:
            self.out = UntiedLinear(heads_out, c.dim, towers["out"])
        self.ffn_norm = _norm(c.dim, towers["ffn_norm"], c.norm_eps, widths)
        self.ffn = _feed_forward(c, shape)

    def forward(self, x: Tensor, rows: int, plan: Plan, cache: LayerCache | None) -> Tensor:
        """x (T, D) in tower order -> the same."""
        routing = plan.routing
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x, routing), rows, plan, cache)
            return x + self.ffn(self.ffn_norm(x, routing), plan.ffn)
        x = x + self.attention_norm(self.attention(x, rows, plan, cache), routing)
        return x + self.ffn_norm(self.ffn(x, plan.ffn), routing)

    def attention(self, x: Tensor, rows: int, plan: Plan, cache: LayerCache | None) -> Tensor:
        """x (T, D) in tower order -> (T, D): projections by tower, one softmax over the whole sequence."""
        routing, heads, kv_heads = plan.routing, self.heads, self.kv_heads
        q, k, v = (
            self.qkv(x, routing)
            .view(-1, heads + 2 * kv_heads, self.head_dim)
            .split_with_sizes([heads, kv_heads, kv_heads], 1)
        )
        if self.q_norm is not None:
            q, k = self.q_norm(q, routing), self.k_norm(k, routing)
        q, k = rotate(q, plan.rotation), rotate(k, plan.rotation)
        q, k, v = (routing.unsort(t).view(rows, -1, t.shape[1], self.head_dim).transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k, v = cache.write(k, v, plan.mask.shape[-1])
        mixed = attend(q, k, v, plan.mask).transpose(1, 2).reshape(x.shape[0], -1)
        return self.out(routing.sort(mixed), routing)


class GatedLinearUnit(nn.Module):
    """down(activation(gate(x)) * up(x)), Shazeer 2020: SwiGLU or GeGLU; gate and up are one product."""

    def __init__(self, gate_up: nn.Module, down: nn.Module, activation: str = "silu"):
        super().__init__()
        self.gate_up, self.down, self.activation = gate_up, down, activation

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        gate_up = self.gate_up(x, routing)
        gated = _Gated.apply if torch.is_grad_enabled() else _gate
        return self.down(gated(gate_up, self.activation), routing)


def _gate(gate_up: Tensor, activation: str) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[activation][0](gate).mul_(up)


# The function, and its gradient: (gradient of the output, input, where the result goes).
ACTIVATIONS = {
    "silu": (F.silu, lambda grad, x, out: torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=out)),
    "gelu": (
        partial(F.gelu, approximate="tanh"),
        lambda grad, x, out: torch.ops.aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out),
    ),
}


class _Gated(torch.autograd.Function):
    # activation(gate) * up. Autograd would keep activation(gate) as well, and join the gradients by one more copy.
    @staticmethod
    def forward(ctx, gate_up, activation):
        ctx.save_for_backward(gate_up)
        ctx.activation = activation
        return _gate(gate_up, activation)

    @staticmethod
    def backward(ctx, grad):
        (gate_up,) = ctx.saved_tensors
        function, gradient = ACTIVATIONS[ctx.activation]
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, function(gate), out=grad_up)
        gradient(grad * up, gate, grad_gate)
        return grad_gate_up, None
