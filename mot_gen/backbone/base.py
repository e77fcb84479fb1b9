"""BaseBackbone: what a backbone of your own is based on; and check_module, which holds its module to the contract.

CONTRIBUTING.md has a whole backbone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone.cache import Cache
from mot_gen.backbone.owners import write_initial_values
from mot_gen.errors import require
from mot_gen.files.own_modules import check_method
from mot_gen.sequence import Layout, Modality

ITS_OWN = ("forward", "plan", "init_cache", "flops", "activations")  # methods that have no default


class BaseBackbone(nn.Module):
    """A dense backbone, without the five methods that are its own: `forward`, `plan`, `init_cache`, `flops` and
    `activations`. The contract in `mot_gen.backbone` says what else may be overridden.

    config: has `dim`, the width. blocks: the layers, which the subclass makes. bidirectional: (modalities,) bool,
    whether all tokens of a span see one another.

    A model is made without memory before it is made with it. So buffers are made on the CPU, `torch.tensor(...,
    device="cpu")`, and initial values are written by `reset_parameters` of the modules, which torch's own have.
    """

    blocks: nn.ModuleList
    bidirectional: Tensor
    tower_of: Tensor
    causal = True

    def __init__(self, config: Any, modalities: Sequence[Modality]):
        super().__init__()
        require(hasattr(config, "dim"), "backbone.kind: its Config must have dim, the width of the model")
        self.config, self.dim, self.towers = config, config.dim, ["all"]
        spans = torch.tensor([modality.bidirectional for modality in modalities], device="cpu")
        self.register_buffer("bidirectional", spans, persistent=False)
        towers = torch.zeros(len(modalities), dtype=torch.long, device="cpu")
        self.register_buffer("tower_of", towers, persistent=False)

    def forward(self, x: Tensor, layout: Layout | Any, cache: Cache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), normalised. layout: a `Layout`, or what `plan` made of it. With a cache, x are the
        next S tokens of each of its rows."""
        raise NotImplementedError

    def plan(self, layout: Layout, cache: Cache | None = None, modality: int | None = None) -> Any:
        """All that `forward` derives from a layout, such as a mask; made once for all layers, and for all steps of a
        drawing. modality: the number of that of all its tokens, where that is known."""
        raise NotImplementedError

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache of so many rows and tokens a row."""
        raise NotImplementedError

    def flops(self, layout: Layout) -> int:
        """FLOPs of a forward pass over all slots of a batch."""
        raise NotImplementedError

    def activations(self, layout: Layout) -> int:
        """How many numbers the backward pass keeps of a batch, by which `mot-gen plan` tells memory."""
        raise NotImplementedError

    @torch.no_grad()
    def init_weights(self) -> None:
        """Every initial value: what `reset_parameters` of each module writes."""
        write_initial_values(self)

    def next_token(self, cache: Cache, time: Tensor) -> Any:
        """A quicker pass for one token in every row; None, as here: every pass is planned by its layout."""
        return None

    def row_slots(self, length: int, device: torch.device) -> int:
        """How many slots a row of `length` tokens should have on a device."""
        return length

    def untied_parameters(self) -> dict[str, list[int]]:
        """None: all tokens share all parameters."""
        return {}

    def active_parameters(self) -> int:
        """How many a token passes through: all."""
        return sum(parameter.numel() for parameter in self.parameters())

    def auxiliary_loss(self) -> Tensor | float:
        """What the last forward pass adds to the training loss, weighted: nothing."""
        return 0.0


def check_module(module: ModuleType) -> None:
    """InputError for a module of a user's own that lacks `Config` or `Backbone`, or whose backbone lacks a method or
    cannot be called as others are."""
    name = module.__name__
    for member in ("Config", "Backbone"):
        found = isinstance(getattr(module, member, None), type)
        require(found, f"backbone.kind: module {name} has no class {member}; see mot_gen/backbone/__init__.py")
    cls = module.Backbone
    for method, usual in inspect.getmembers(BaseBackbone, inspect.isfunction):
        if method not in vars(BaseBackbone) or method == "__init__":
            continue
        own, what = getattr(cls, method, None), f"backbone.kind: Backbone of {name}"
        defined = own is not None and (own is not usual or method not in ITS_OWN)
        require(defined, f"{what} must define {method}; base it on mot_gen.backbone.base.BaseBackbone, which says how")
        check_method(own, usual, f"{what}: {method}")
