"""Mamba (arXiv 2312.00752) and Mixture-of-Mamba (arXiv 2501.16295). Config, Backbone, MambaCache.

    x -> norm -> in_proj -> (u, z);  u -> conv -> silu -> x_proj -> (dt, B, C);  delta = softplus(dt_proj(dt))
    x + out_proj((scan(u, delta, A, B, C) + D u) silu(z))

Mamba ties everything; Mixture-of-Mamba unties in_proj, x_proj, dt_proj and out_proj, one by one if so stated, and
shares the convolution, A, D and the norms. Convolution and state begin anew with every document. A scan runs one way:
tokens of a bidirectional modality are refused, unless `bidirectional` says how to read them: "causal", in order; or
"two_pass", their span being read from its end to its start as well, by the same parameters, and both readings added.

Shapes: B rows, S slots, T = B * S tokens, D width, E = expand * D channels, N states a channel, W convolution width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.attention import EMPTY
from mot_gen.backbone.routing import Routing, UntiedLinear, UntiedRMSNorm, is_adapter, route
from mot_gen.backbone.selective_scan import chunk_length, final_state, selective_scan
from mot_gen.backbone.sizes import MAMBA_SIZES, fill_size, require_at_least_0, require_counts
from mot_gen.backbone.towers import active_parameters, tower_table
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import PADDING, Layout, Modality

PARTS = ("in_proj", "x_proj", "dt_proj", "out_proj")
READINGS = ("refuse", "causal", "two_pass")


@dataclass
class Config:
    """A Mamba's shape; a layer has about half of the matrix parameters of a transformer's of the same dim. `size` names
    a row of MAMBA_SIZES and stands for dim and layers.

    towers: {tower: [modalities]}, one per modality when not given. untied: the PARTS that each tower owns.
    dt_rank: ceil(dim / 16) when not given. bidirectional: how such modalities are read, see the module.
    """

    size: str | None = None
    dim: int | None = None
    layers: int | None = None
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None
    towers: dict[str, list[str]] | None = None
    untied: Sequence[str] = field(default=PARTS)
    bidirectional: str = "refuse"
    norm_eps: float = 1e-5

    def __post_init__(self):
        fill_size(self, MAMBA_SIZES)
        require_counts(self, "dim", "layers", remedy=" (or name backbone.size)")
        self.dt_rank = math.ceil(self.dim / 16) if self.dt_rank is None else self.dt_rank
        require_counts(self, "d_state", "d_conv", "expand", "dt_rank")
        require_at_least_0("norm_eps", self.norm_eps)
        for part in self.untied:
            if part not in PARTS:
                raise InputError(f"backbone.untied: {part!r} is not a part of this backbone" + nearest(part, PARTS))
        self.untied = tuple(part for part in PARTS if part in self.untied)
        if self.bidirectional not in READINGS:
            raise InputError(
                f"backbone.bidirectional: {self.bidirectional!r} is not known" + nearest(self.bidirectional, READINGS)
            )

    @property
    def channels(self) -> int:
        return self.expand * self.dim

    def tower_table(self, modalities: Sequence[Modality]) -> tuple[list[str], list[int]]:
        """Names of the towers, and the tower of each modality; one tower when nothing is untied."""
        return tower_table(self.towers, self.untied, modalities)


@dataclass
class Plan:
    """What a forward pass derives from a layout. tower: (T,) in tower order, for biases.

    document: (B, W - 1 + S), those before the pass first. block: (B, S) the span of a token that is read backwards too,
    else a number of its own; None where no token is. backward: (T, 1) bool, those tokens.
    """

    routing: Routing
    tower: Tensor
    document: Tensor
    block: Tensor | None
    backward: Tensor | None


class Backbone(nn.Module):
    """A stack of Mamba layers over packed rows; see the contract in `mot_gen.backbone`."""

    causal = True

    def __init__(self, config: Config, modalities: Sequence[Modality]):
        super().__init__()
        self.config, self.dim = config, config.dim
        self.towers, tower_of = config.tower_table(modalities)
        twice = [m.name for m in modalities if m.bidirectional]
        if twice and config.bidirectional == "refuse":
            raise InputError(
                f"backbone.bidirectional: Mamba reads one way and {twice[0]!r} is bidirectional; make the "
                "modality causal, or say backbone.bidirectional=causal, or two_pass"
            )
        two_pass = config.bidirectional == "two_pass"
        self.register_buffer("tower_of", torch.tensor(tower_of, device="cpu"), persistent=False)
        self.register_buffer(
            "bidirectional", torch.tensor([two_pass and m.bidirectional for m in modalities], device="cpu"), False
        )
        count = {part: len(self.towers) if part in config.untied else 1 for part in PARTS}
        self.blocks = nn.ModuleList(Block(config, count) for _ in range(config.layers))
        self.final_norm = UntiedRMSNorm(config.dim, 1, config.norm_eps)
        self.gradient_checkpointing = False
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """Every initial value of the backbone, as in the paper:

        in_proj, x_proj, conv    normal, std 1 / sqrt(fan in); conv_bias 0
        out_proj                 the same / sqrt(layers): the residual stream keeps its scale with depth
        dt_proj                  uniform in +-1 / sqrt(dt_rank)
        dt_bias                  so that softplus(dt_bias) is log-uniform in [0.001, 0.1]
        A_log, D, norms          log(1 .. N); 1; 1
        """
        for name, p in self.named_parameters():
            kind = name.split(".", 2)[-1].removesuffix(".weight")
            if p.is_meta:
                continue
            if "norm" in name or kind == "D":
                p.fill_(1.0)
            elif kind == "A_log":
                p.copy_(torch.arange(1.0, len(p) + 1).log()[:, None])
            elif kind == "dt_proj":
                p.copy_((2 * torch.rand(p.shape[1:]) - 1) / math.sqrt(p.shape[-1]))
            elif kind == "dt_bias":
                step = torch.exp(torch.rand(p.shape[1:]) * math.log(100.0) + math.log(1e-3))
                p.copy_(step + torch.log(-torch.expm1(-step)))
            elif kind == "conv_bias":
                p.zero_()
            elif kind == "conv":
                p.normal_(std=1 / math.sqrt(len(p)))
            else:
                scale = 1 / math.sqrt(self.config.layers) if kind == "out_proj" else 1.0
                p.copy_(torch.randn(p.shape[1:]) * (scale / math.sqrt(p.shape[-1])))

    def untied_parameters(self) -> dict[str, list[int]]:
        """The parameters that towers own: the tower of each slice along the first dimension."""
        if len(self.towers) == 1:
            return {}
        untied = {*self.config.untied} | ({"dt_bias"} if "dt_proj" in self.config.untied else set())
        named = (name for name, _ in self.named_parameters() if untied & {*name.split(".")} and not is_adapter(name))
        return {name: list(range(len(self.towers))) for name in named}

    def active_parameters(self) -> int:
        """What one text token passes through."""
        return active_parameters(self, int(self.tower_of[0]))

    def flops(self, layout: Layout) -> int:
        """FLOPs of a forward pass over all slots: projections, convolution, and 7 N a channel for the scan."""
        c = self.config
        projections = 2 * c.channels * (3 * c.dim + 2 * c.dt_rank + 2 * c.d_state)
        reading = c.channels * (2 * c.d_conv + 7 * c.d_state)
        passes = 2 if bool(self.bidirectional[layout.modality].any()) else 1
        again = (passes - 1) * 2 * c.channels * (2 * c.dt_rank + 2 * c.d_state)
        return c.layers * layout.modality.numel() * (projections + again + passes * reading)

    def activations(self, layout: Layout) -> int:
        """Numbers that the backward pass keeps of a batch, by the tensors that a block saves of a token: 2 of width D
        (normed input) and 5 of width E (u, z and the gate); for each reading 9 more of width E (the convolution's
        terms, delta, y), dt, B, C, and the states that chunks begin with."""
        c, (rows, length) = self.config, layout.shape
        readings = 2 if bool(self.bidirectional[layout.modality].any()) else 1
        states = c.channels * c.d_state
        begun = -(-length // chunk_length(rows * states)) * states / length
        reading = 9 * c.channels + c.dt_rank + 2 * c.d_state + begun
        return round(c.layers * rows * length * (2 * c.dim + 5 * c.channels + readings * reading))

    def auxiliary_loss(self) -> float:
        """Nothing is routed, so nothing is to be balanced."""
        return 0.0

    def init_cache(self, batch: int, length: int) -> MambaCache:
        """A cache for any number of tokens: `length` is not needed."""
        return MambaCache(self.config, batch, self.final_norm.weight)

    @torch.no_grad()
    def plan(self, layout: Layout, cache: MambaCache | None = None) -> Plan:
        """Routing, and where documents and spans begin."""
        tower = self.tower_of[layout.modality].flatten()
        routing = route(tower, len(self.towers))
        width = self.config.d_conv - 1
        before = layout.document.new_full((len(layout.document), width), EMPTY) if cache is None else cache.document
        document = torch.cat([before, layout.document], 1)
        backward = self.bidirectional[layout.modality]
        if not backward.any():
            return Plan(routing, routing.sort(tower), document, None, None)
        alone = PADDING - 1 - torch.arange(layout.shape[1], device=tower.device)
        block = torch.where(backward & (layout.document != PADDING), layout.span, alone)
        return Plan(routing, routing.sort(tower), document, block, routing.sort(backward.flatten())[:, None])

    def forward(self, x: Tensor, layout: Layout | Plan, cache: MambaCache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), normalised. With a cache, x are the next S tokens of each of its rows."""
        plan = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        if cache is not None:
            cache.begin(plan.document)
        shape, x = x.shape, plan.routing.sort(x.reshape(-1, self.dim))
        for number, block in enumerate(self.blocks):
            layer_cache = None if cache is None else (cache, number)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, shape[0], plan, layer_cache, use_reentrant=False)
            elif cache is None:
                x = block(x, shape[0], plan, None)
            else:  # never compiled: every layer, and every length of a scan, would be a program
                x = block.forward(x, shape[0], plan, layer_cache)
        return plan.routing.unsort(self.final_norm(x, plan.routing)).view(shape)


class Block(nn.Module):
    """One layer. `towers` gives each part its number of parameter sets."""

    def __init__(self, config: Config, towers: dict[str, int]):
        super().__init__()
        c = config
        self.sizes = [c.dt_rank, c.d_state, c.d_state]
        self.norm = UntiedRMSNorm(c.dim, 1, c.norm_eps)
        self.in_proj = UntiedLinear(c.dim, 2 * c.channels, towers["in_proj"])
        self.conv = nn.Parameter(torch.empty(c.d_conv, c.channels))
        self.conv_bias = nn.Parameter(torch.empty(c.channels))
        self.x_proj = UntiedLinear(c.channels, sum(self.sizes), towers["x_proj"])
        self.dt_proj = UntiedLinear(c.dt_rank, c.channels, towers["dt_proj"])
        self.dt_bias = nn.Parameter(torch.empty(towers["dt_proj"], c.channels))
        self.A_log = nn.Parameter(torch.empty(c.d_state, c.channels))
        self.D = nn.Parameter(torch.empty(c.channels))
        self.out_proj = UntiedLinear(c.channels, c.dim, towers["out_proj"])

    def forward(self, x: Tensor, rows: int, plan: Plan, cache: tuple[MambaCache, int] | None) -> Tensor:
        """x (T, D) in tower order -> the same."""
        routing = plan.routing
        u, z = self.in_proj(self.norm(x, routing), routing).chunk(2, dim=-1)
        u = routing.unsort(u).view(rows, -1, u.shape[-1])
        past = self.conv.shape[0] - 1
        before, state = (u.new_zeros(rows, past, u.shape[-1]), None) if cache is None else cache[0].layer(cache[1])
        line = torch.cat([before, u], 1)
        y, read = self._read(line, plan.document, rows, routing, plan.tower, state)
        if cache is not None:
            cache[0].write(cache[1], line, read)
        if plan.block is not None:
            # A span from its end: the same reading of the row turned round, with nothing before it.
            line = F.pad(u.flip(1), (0, 0, past, 0))
            block = F.pad(plan.block.flip(1), (past, 0), value=EMPTY - u.shape[1])
            again, _ = self._read(line, block, rows, routing, plan.tower, None, flipped=True)
            y = y + again * plan.backward
        return x + self.out_proj(y * F.silu(z), routing)

    def _read(self, line, document, rows, routing, tower, state, flipped=False):
        """Convolution and scan of line (B, W - 1 + S, E): y (T, E) in tower order, and what the scan was given."""

        def sort(t):
            return routing.sort((t.flip(1) if flipped else t).flatten(0, 1))

        def unsort(t):
            t = routing.unsort(t).view(rows, -1, t.shape[-1])
            return t.flip(1) if flipped else t

        u = F.silu(self._convolve(line, document))
        by_tower = sort(u)
        dt, B, C = self.x_proj(by_tower, routing).split(self.sizes, -1)
        bias = self.dt_bias[0] if len(self.dt_bias) == 1 else self.dt_bias.index_select(0, tower)
        delta = F.softplus(self.dt_proj(dt.contiguous(), routing) + bias)
        past = line.shape[1] - u.shape[1]
        start = document[:, past:] != (document[:, past - 1 : -1] if past else F.pad(document, (1, 0))[:, :-1])
        read = [t.float().transpose(0, 1) for t in (u, unsort(delta), unsort(B), unsort(C))]
        u_first, delta, B, C = (t.contiguous() for t in read)
        A = -torch.exp(self.A_log.float())
        y = _scan(u_first, delta, A, B, C, start.t(), state)
        given = (u_first, delta, A, B, start.t())
        return sort(y.transpose(0, 1).to(u.dtype)) + self.D * by_tower, given

    def _convolve(self, line: Tensor, document: Tensor) -> Tensor:
        """Depthwise and causal, within documents: line (B, W - 1 + S, E) -> (B, S, E)."""
        width, length = len(self.conv), line.shape[1] - len(self.conv) + 1
        own = document[:, width - 1 :]
        out = torch.addcmul(self.conv_bias, line[:, width - 1 :], self.conv[-1])
        for place, weight in enumerate(self.conv[:-1]):
            same = document[:, place : place + length] == own
            out = torch.addcmul(out, line[:, place : place + length] * same[..., None], weight)
        return out


# Traced, the steps of a scan would be as many nodes of a graph.
_scan = torch.compiler.disable(selective_scan)


class MambaCache:
    """What each layer remembers of the tokens that are kept: its last W - 1 inputs and its state.

    A forward pass is tentative: it reads what is kept and changes nothing; `advance` keeps its first tokens. The cache
    does not grow, and rows may be of different lengths. document: (B, W - 1) those of the last kept tokens.
    """

    def __init__(self, config: Config, batch: int, like: Tensor):
        c, past = config, config.d_conv - 1
        self.inputs = like.new_zeros(c.layers, batch, past, c.channels)
        self.states = like.new_zeros(c.layers, batch, c.d_state, c.channels, dtype=torch.float32)
        self.document = torch.full((batch, past), EMPTY, dtype=torch.long, device=like.device)

    def begin(self, document: Tensor) -> None:
        """A pass over tokens of these documents, (B, W - 1 + S)."""
        self._document, self._passes = document, {}

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """The last inputs (B, W - 1, E) and the state (B, N, E) of a layer."""
        return self.inputs[number], self.states[number]

    def write(self, number: int, line: Tensor, read: tuple) -> None:
        """What the pass gave to a layer's convolution and to its scan."""
        self._passes[number] = (line.detach(), [t.detach() for t in read])

    def advance(self, counts: Tensor) -> None:
        """Keep the first counts[b] of the tokens last read in row b; counts: (B,) int64."""
        past = self.document.shape[1]
        row = torch.arange(len(counts), device=counts.device)[:, None]
        last = counts[:, None] + torch.arange(past, device=counts.device)
        for number, (line, (u, delta, A, B, start)) in self._passes.items():
            # With no time passed a state stays as it is: exp(0) = 1, and nothing is fed.
            kept = torch.arange(len(u), device=counts.device)[:, None] < counts
            self.states[number] = final_state(u, delta * kept[..., None], A, B, start & kept, self.states[number])
            self.inputs[number] = line[row, last]
        self.document = self._document[row, last]

    def narrow(self, rows: int) -> MambaCache:
        """The first rows of this cache; for passes that are not to be kept."""
        view = copy(self)
        view.inputs, view.states, view.document = self.inputs[:, :rows], self.states[:, :rows], self.document[:rows]
        return view

    def snapshot(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is remembered of every row, for `restore`."""
        return self.inputs.clone(), self.states.clone(), self.document

    def restore(self, snapshot: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> None:
        """Forget what was kept since the snapshot in some rows, (B,) bool."""
        inputs, states, document = snapshot
        self.inputs = torch.where(rows[:, None, None], inputs, self.inputs)
        self.states = torch.where(rows[:, None, None], states, self.states)
        self.document = torch.where(rows[:, None], document, self.document)
