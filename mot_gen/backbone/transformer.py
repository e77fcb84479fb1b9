"""The backbone as a stack of blocks made of parts: Config, Backbone. One block is in block.py.

    x -> norm -> mixer -> + -> norm -> feed_forward -> +

What each of these is, a *part* says (`parts`), and the recipe names the parts. Every parameter has a name (qkv, ffn,
...). One that is named in `untied` has a set of values for each tower, any other has one set for all. `towers` says
which modalities share a tower: by default each has its own (Mixture-of-Transformers, arXiv 2411.04996);
{"text": ["text", "speech"], "image": ["image"]} is leave-one-out; BAGEL's experts by role and LMFusion's frozen text
tower are statements of the same kind; `widths` lets towers be narrower than the model (F1, arXiv 2509.06951).

Shapes: B rows, S slots, T = B * S tokens, D width, R numbers of a token in the residual stream (`parts.Residual`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.block import Block, distinct
from mot_gen.backbone.cache import Cache
from mot_gen.backbone.counting import Counting
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.one_tower import Stack
from mot_gen.backbone.owners import Owners, UnevenOwners, write_initial_values
from mot_gen.backbone.roles import Roles
from mot_gen.backbone.routing import Routing, all_to
from mot_gen.backbone.sizes import SIZES, fill_size, require_at_least_0, require_counts
from mot_gen.backbone.storage.layers_on_disk import LayersOnDisk
from mot_gen.backbone.towers import tower_table, tower_widths
from mot_gen.sequence import Layout, Modality

PartChoice = str | dict[str, Any]  # a part by its kind, or {"kind": ..., option: value}
Pattern = PartChoice | list[PartChoice]  # one part, or several that layers take in turn


@dataclass
class Config:
    """A backbone's shape. `size` names a row of SIZES and stands for dim, layers and heads.

    towers: {tower: [modalities]}, one per modality when not given. untied: the names of what each tower owns, all when
    not given. widths: {tower: width} of towers narrower than dim, feed-forward in proportion; they share the mixer.
    mixer, reach, bias, head_choice, feed_forward, activation, norm, depth, residual: the parts, see `parts`.
    norm_offset: what RMS norms add to their weights (Gemma: 1).
    heads to attention: options of the mixer `attention`. ffn_dim, multiple_of: of the feed-forward `gated`.
    experts to shared_experts: of the feed-forward `experts`, which takes the place of `feed_forward` where more than
    one expert is asked for, and whose experts are such feed-forwards.
    """

    size: str | None = None
    dim: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn_dim: int | None = None
    multiple_of: int = 256
    towers: dict[str, list[str]] | None = None
    untied: Sequence[str] | None = None
    head_dim: int | None = None
    widths: dict[str, int] | None = None
    norm: Pattern = "pre"
    qk_norm: bool | str = True
    qkv_bias: bool = False
    activation: Pattern = "silu"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    rope_theta: float = 10_000.0
    rope_frequencies: Sequence[float] | None = None
    rope_axes: Sequence[int] | None = None
    attention: str = "auto"
    experts: int | dict[str, int] = 1
    router: PartChoice = "expert_choice"
    top_k: int = 1
    balance_weight: float | dict[str, float] = 0.01
    z_weight: float = 0.001
    shared_experts: int = 0
    mixer: Pattern = "attention"
    reach: Pattern = "full"
    bias: Pattern = "none"
    head_choice: Pattern = "every"
    feed_forward: Pattern = "gated"
    depth: Pattern = "every"
    residual: Pattern = "single"

    def __post_init__(self) -> None:
        fill_size(self, SIZES)
        require_counts(self, "dim", "layers", remedy=" (or name backbone.size)")
        weights = self.balance_weight.values() if isinstance(self.balance_weight, dict) else [self.balance_weight]
        require_at_least_0("balance_weight", *weights)
        for name in ("norm_eps", "z_weight", "shared_experts"):
            require_at_least_0(name, getattr(self, name))
        self.roles = Roles(self)
        self.roles.take_over("mixer", "kv_heads", "head_dim")
        self.roles.take_over("feed_forward", "ffn_dim")
        self.untied = self.roles.untied(self.untied)

    @property
    def sublayers(self) -> int:
        """How many mixers and feed-forwards all layers have together."""
        return self.roles.sublayers(self.layers or 0)

    def tower_table(self, modalities: Sequence[Modality]) -> tuple[list[str], list[int]]:
        """Names of the towers, and the tower of each modality; one tower when nothing is untied."""
        assert self.untied is not None, "checked when the config was made"
        names, table = tower_table(self.towers, self.untied, modalities)
        for part in self.roles:
            part.check(self, names)
        tower_widths(self, names)
        return names, table

    def owners(self, towers: Sequence[str]) -> Owners:
        assert self.untied is not None and self.dim is not None, "checked when the config was made"
        widths = tower_widths(self, towers)
        if widths:
            return UnevenOwners(towers, self.untied, self.dim, self.norm_eps, self.sublayers, widths=widths)
        owners = Owners(towers, self.untied, self.dim, self.norm_eps, self.sublayers)
        owners.norm_offset = self.norm_offset
        return owners


class Backbone(Counting):
    """A stack of blocks over packed rows; see the contract in `mot_gen.backbone`."""

    on_grid: Tensor

    def __init__(self, config: Config, modalities: Sequence[Modality]):
        super().__init__()
        assert config.dim is not None and config.layers is not None, "checked when the config was made"
        self.config, self.dim = config, config.dim
        self.towers, tower_of = config.tower_table(modalities)
        self.tower_numbers = tower_of
        self._add_table("tower_of", tower_of)
        self._add_table("bidirectional", [m.bidirectional for m in modalities])
        self._add_table("on_grid", [m.position == "grid" for m in modalities])
        self.tables_on_host = [table.clone() for table in self._tables()]
        owners = config.owners(self.towers)
        layers = config.layers
        self.blocks = nn.ModuleList(Block(config.roles, owners, number, layers) for number in range(layers))
        self.final_norm = owners.norm("final_norm")
        for _, part in self.each_part():
            part.check_modalities(modalities)
        self.causal = all(part.causal(block) for block, part in self.each_part())
        self.repeats = all(part.repeats(block) for block, part in self.each_part())
        self.routed = any(block.routed for block in self.each_block())
        self.distinct = distinct(self.each_block())
        self.residual = config.roles.of_layer(0).residual
        self.gradient_checkpointing = False
        self.on_disk: LayersOnDisk | None = None  # where layers are read while they run
        self.compiled = False  # whether torch.compile makes the blocks' programs
        self.init_weights()

    def _add_table(self, name: str, of_modalities: list[int] | list[bool]) -> None:
        """Keep what is known of each modality as a tensor that moves with the model and is not saved."""
        self.register_buffer(name, torch.tensor(of_modalities, device="cpu"), persistent=False)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value of the backbone, as the owners of its modules and its parts say. Towers begin as copies
        of one another, experts do not."""
        write_initial_values(self)

    def init_cache(self, batch: int, length: int) -> Cache:
        like = next(self.final_norm.parameters())  # which is in memory where layers are not
        layers = [block.parts.depth.cache(block, batch, length, like) for block in self.each_block()]
        for layer in layers if self.compiled else []:
            layer.mark_dynamic()
        return Cache(layers, batch, length, like.device)

    def batch(self, layout: Layout, cache: Cache | None = None) -> Batch:
        on_host = layout.modality.device.type == "cpu"
        tower_of, bidirectional, on_grid = self.tables_on_host if on_host else self._tables()
        towers, numbers = len(self.towers), self.tower_numbers
        return Batch(layout, towers, tower_of, bidirectional, cache, self.compiled, on_grid, tower_numbers=numbers)

    def _tables(self) -> list[Tensor]:
        """What is known of each modality, on the model's device. A layout on the host is asked beside copies there,
        `tables_on_host`: its costs are counted while the model stands on a GPU."""
        return [self.tower_of, self.bidirectional, self.on_grid]

    def row_slots(self, length: int, device: torch.device) -> int:
        """How many slots a row of `length` tokens should have on a device."""
        multiple = max(part.row_multiple(device) for _, part in self.each_part())
        return -(-length // multiple) * multiple

    @torch.no_grad()
    def plan(self, layout: Layout, cache: Cache | None = None, modality: int | None = None) -> Plan:
        """All that blocks read of a batch (of the cache's next tokens, where a cache is given). modality: of all its
        tokens, where that is known; else the host waits to count those of each tower."""
        batch = self.batch(layout, cache)
        if modality is not None:
            batch.routing = all_to(self.tower_numbers[modality], layout.modality.numel(), len(self.towers))
        return batch.plan(self.distinct)

    @torch.no_grad()
    def next_token(self, cache: Cache, time: Tensor) -> NextToken | None:
        """The pass that writes a token in every row, at the positions time (R,); None where a part needs a layout."""
        dtype = next(self.final_norm.parameters()).dtype
        step = NextToken(cache, time, self.tower_numbers, dtype, self.compiled)
        follows = all(part.follow(block, step) for block in self.each_block() for part in block.parts.each())
        return step if follows else None

    def forward(self, x: Tensor, layout: Layout | Plan, cache: Cache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), normalised. With a cache, x are the next S tokens of each of its rows."""
        plan = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        shape = x.shape
        if cache is not None and self._is_of_one_tower(x, plan):
            stack = plan.once("stack", lambda: Stack(self.each_block(), self.residual, self.final_norm, plan.routing))
            return stack(x.reshape(-1, self.dim), plan, cache.layers).view(shape)
        stream = self._through(self._into_stream(x, plan.routing), plan, cache)
        return self._out_of_stream(stream, plan.routing).view(shape)

    def _into_stream(self, x: Tensor, routing: Routing) -> Tensor:
        """x (B, S, D) -> (T, R), the residual stream that the first block reads, in tower order."""
        return self.residual.begin(routing.sort(x.reshape(-1, self.dim)))

    def _out_of_stream(self, stream: Tensor, routing: Routing) -> Tensor:
        """The residual stream (T, R) after the last block -> (T, D), normalised, in sequence order."""
        return routing.unsort(self.final_norm(self.residual.end(stream), routing))

    def _is_of_one_tower(self, x: Tensor, plan: Plan) -> bool:
        """Whether a pass over a cache is one that `one_tower` knows."""
        plain = not (torch.is_grad_enabled() or self.compiled or torch.is_autocast_enabled(x.device.type))
        return plain and plan.routing.only is not None and self.on_disk is None

    def _through(self, x: Tensor, plan: Plan, cache: Cache | None) -> Tensor:
        """x (T, R) in tower order through all blocks."""
        for number, block in enumerate(self.blocks):
            if self.on_disk is not None:
                self.on_disk.bring(number)
            layer = None if cache is None else cache.layers[number]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, plan, layer, use_reentrant=False)
            elif cache is None or self._repeats(plan, cache):
                x = block(x, plan, layer)
            else:
                x = block.forward(x, plan, layer)
        return x

    def early(self, x: Tensor, plan: Plan, cache: Cache) -> Tensor:
        """What the first layers alone make of x (B, S, D), as many as the cache has, normalised as if they were all."""
        stream = self._into_stream(x, plan.routing)
        for block, layer in zip(self.each_block(), cache.layers):
            stream = block.forward(stream, plan, layer)
        return self._out_of_stream(stream, plan.routing).view(x.shape)

    def _repeats(self, plan: Plan, cache: Cache) -> bool:
        """Whether other passes over a cache will be like this one, so that compiled blocks serve it: it is no prompt,
        whose lengths differ, and its tokens are of one tower and one feed-forward."""
        return self.compiled and cache.longest > 0 and plan.routing.only is not None and self.repeats
